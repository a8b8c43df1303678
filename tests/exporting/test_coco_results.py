"""COCO's results, read back by pycocotools beside the file of the images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy import ndimage

from rca.cli.main import main
from rca.core.files import IGNORE, write_mask, write_text

# Ids with gaps and not in the order of the file; labels follow the ids.
CATEGORIES = {90: "toothbrush", 1: "person", 13: "stop sign"}
IDS = sorted(CATEGORIES)
IMAGES = {42: ("COCO_test2014_000000000042.jpg", (9, 14)), 7: ("COCO_test2014_000000000007.jpg", (11, 8))}
ARGUMENTS = ("export", "coco-results", "masks", "results.json", "--annotations", "image_info.json")


def draw(number: int) -> np.ndarray:
    labels = np.array([0, 0, 1, 2, 3, IGNORE], np.uint8)
    return np.random.default_rng(number).choice(labels, IMAGES[number][1])


@pytest.fixture(autouse=True)
def info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    data: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": file, "height": height, "width": width}
            for number, (file, (height, width)) in IMAGES.items()
        ],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }
    write_text(Path("image_info.json"), json.dumps(data))
    Path("masks").mkdir()
    for number, (file, _) in IMAGES.items():
        write_mask(Path("masks") / f"{Path(file).stem}.png", draw(number))
    return data


@pytest.mark.parametrize("components", [False, True])
def test_pycocotools_gives_back_the_masks(components: bool) -> None:
    assert main([*ARGUMENTS, *(["--components"] if components else [])]) == 0
    found = COCO("image_info.json").loadRes("results.json")
    entries = json.loads(Path("results.json").read_text())
    assert all(set(one) == {"image_id", "category_id", "segmentation", "score"} for one in entries)
    count = 0
    for number in IMAGES:
        expected = draw(number)
        expected[expected == IGNORE] = 0
        mask = np.zeros_like(expected)
        for one in found.loadAnns(found.getAnnIds(number)):
            region = found.annToMask(one).astype(bool)
            assert not mask[region].any()
            mask[region] = IDS.index(one["category_id"]) + 1
        assert (mask == expected).all()
        for label in (1, 2, 3):
            count += ndimage.label(expected == label, np.ones((3, 3)))[1] if components else 1
    assert len(entries) == count


def test_classes_in_another_order_keep_their_names() -> None:
    write_text(Path("classes.txt"), "stop sign\ntoothbrush\nperson\n")
    assert main([*ARGUMENTS, "--classes", "classes.txt"]) == 0
    entries = json.loads(Path("results.json").read_text())
    areas = {(one["image_id"], one["category_id"]): one["segmentation"] for one in entries}
    found = COCO("image_info.json").loadRes("results.json")
    for one in found.loadAnns(found.getAnnIds(42)):
        label = {13: 1, 90: 2, 1: 3}[one["category_id"]]
        assert one["area"] == (draw(42) == label).sum()
    assert len(areas) == len(entries) == 6


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        ({"images": []}, (), None),
        ({"categories": [{"id": 1, "name": "person"}]}, (), "holds the label 2, but there are 1 classes"),
        ({}, ("--classes", "classes.txt"), "The class tree is no category of image_info.json: name the file of"),
        (
            {"images": [{"id": 1, "file_name": "x.jpg", "height": 2, "width": 2}]},
            (),
            "has no mask of 1 of the 1 images",
        ),
        (
            {"images": [{"id": 7, "file_name": IMAGES[7][0], "height": 8, "width": 11}]},
            (),
            "is 8x11, its image in image_info.json 11x8: name the folder",
        ),
        ({"images": 3}, (), "is not a COCO annotation file (it has no list of images): replace it."),
    ],
)
def test_what_does_not_fit_is_told(
    info: dict[str, Any],
    change: dict[str, Any],
    arguments: tuple[str, ...],
    told: str | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_text(Path("image_info.json"), json.dumps({**info, **change}))
    write_text(Path("classes.txt"), "tree\n")
    assert main([*ARGUMENTS, *arguments]) == (0 if told is None else 2)
    assert Path("results.json").exists() == (told is None)
    assert told is None or told in capfd.readouterr().err
