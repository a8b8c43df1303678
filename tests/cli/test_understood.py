"""`rca check` shows what it understood: tables, JSON and a picture, against independent counts of real data."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from planting import Dataset, make_dataset, plant
from pycocotools import mask as run_lengths

from rca.cli.main import main
from rca.cli.understood import format_splits
from rca.core.settings import load_params
from rca.data.checking.summary import SplitCount
from rca.data.formats.coco import CocoSettings
from rca.data.formats.dataset import examine_dataset
from rca.data.formats.voc import VocSettings

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "workflow/presets/shapes.yaml"
SHARED = (ROOT / os.environ.get("RCA_SHARED", "../shared")).resolve() / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} does not exist: set RCA_SHARED")
Counts = dict[str, Counter]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.chdir(tmp_path)
    dataset = make_dataset(Path("data/mine"))
    dataset.write_lists()
    params = load_params(SHAPES)
    params.update(generate_data={}, dataset={"name": "mine", "format": "folder", "splits": ["train", "val"]})
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return dataset


def count_masks(masks: dict[str, np.ndarray]) -> tuple[Counter, Counter]:
    """Images and pixels of each label."""
    images: Counter[int] = Counter()
    pixels: Counter[int] = Counter()
    for mask in masks.values():
        labels, counts = np.unique(mask, return_counts=True)
        images.update(labels.tolist())
        pixels.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    return images, pixels


def check_counts(split: SplitCount, masks: dict[str, np.ndarray]) -> None:
    images, pixels = count_masks(masks)
    assert (split.images, split.masks) == (len(masks), len(masks))
    assert [one.by_mask for one in split.classes] == [images[one.label] for one in split.classes]
    assert [one.pixels for one in split.classes] == [pixels[one.label] for one in split.classes]
    assert (split.background, split.undecided, split.pixels) == (pixels[0], pixels[255], sum(pixels.values()))


@needs_shared
@pytest.mark.parametrize("name", ["msrc", pytest.param("voc6", marks=pytest.mark.slow)])
def test_the_counts_of_voc_are_those_of_its_files(name: str) -> None:
    root = SHARED / name
    settings = VocSettings(name=name, format="voc", splits=("train", "val"))
    found = examine_dataset(root, settings, os.cpu_count() or 1)
    classes = (root / "classes.txt").read_text().split()
    for split in found.splits:
        names = (root / f"ImageSets/Segmentation/{split.name}.txt").read_text().split()
        masks = {one: np.asarray(Image.open(root / f"SegmentationClass/{one}.png")) for one in names}
        check_counts(split, masks)
        assert [one.name for one in split.classes] == classes
        assert [one.by_tag for one in split.classes] == [one.by_mask for one in split.classes]
    assert [split.name for split in found.splits] == ["train", "val"]


def draw_coco(content: dict[str, Any]) -> dict[int, np.ndarray]:
    """Each image's mask: a pixel has the smallest object that covers it, else a crowd (255), else nothing."""
    labels = {one: place for place, one in enumerate(sorted(each["id"] for each in content["categories"]), 1)}
    masks = {}
    for image in content["images"]:
        height, width = image["height"], image["width"]
        layers = []
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                shape = run_lengths.frPyObjects(one["segmentation"], height, width)
                region = run_lengths.decode(run_lengths.merge(shape) if isinstance(shape, list) else shape) > 0
                layers.append((1 - one["iscrowd"], -region.sum(), labels[one["category_id"]], region))
        if layers:
            masks[image["id"]] = np.zeros((height, width), np.uint8)
            for drawn, _, label, region in sorted(layers, key=lambda layer: layer[:2]):
                masks[image["id"]][region] = label if drawn else 255
    return masks


@needs_shared
def test_the_counts_of_coco_are_those_of_its_annotations() -> None:
    settings = CocoSettings(
        name="tiny", format="coco", annotations="annotations/instances_{split}2017.json", images="{split}2017"
    )
    found = examine_dataset(SHARED / "coco-tiny", settings, os.cpu_count() or 1)
    for split in found.splits:
        path = SHARED / f"coco-tiny/annotations/instances_{split.name}2017.json"
        content = json.loads(path.read_text())
        masks = draw_coco(content)
        check_counts(split, {str(key): mask for key, mask in masks.items()})
        names = {one["id"]: one["name"] for one in content["categories"]}
        objects = Counter(names[one["category_id"]] for one in content["annotations"])
        assert {one.name: one.objects for one in split.classes if one.objects} == objects
        assert [one.by_tag for one in split.classes] == [one.by_mask for one in split.classes]


def test_the_check_ends_with_a_table(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert "train: 4 images, 4 with a mask" in told.partition("understood as follows")[2]
    masks = {name: np.asarray(Image.open(f"data/mine/masks/{name}.png")) for name in ("a1", "b2", "c3", "d4")}
    share = sum((mask == 1).sum() for mask in masks.values()) / sum(mask.size for mask in masks.values())
    line = next(line for line in told.splitlines() if line.startswith("  cat"))
    assert line.split() == ["cat", "1", "3", "3", f"{share:.2%}"]
    assert told.index("understood") < told.index("Disk: ")


def test_the_table_shows_what_tags_and_masks_say_each(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    plant(dataset, "mask against tags")
    dataset.write_lists()
    assert main(["check"]) == 2
    told = capsys.readouterr()
    assert "The mask of a1, data/mine/masks/a1.png, shows cat (1), but its tags are dog (2), cow (3)" in told.out
    assert next(line for line in told.out.splitlines() if line.startswith("  cat")).split()[1:4] == ["1", "2", "3"]
    assert told.err.startswith("error: data/mine has 1 error in 1 image")


def test_programs_read_what_was_understood(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "found.json"]) == 0
    capsys.readouterr()
    assert main(["check", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found == json.loads(Path("found.json").read_text())
    assert "understood as follows" in told.err
    assert (found["classes"], found["faults"], len(found["splits"])) == (["cat", "dog", "cow"], [], 2)
    for split in found["splits"]:
        counted = sum(one["pixels"] for one in split["classes"]) + split["background"] + split["undecided"]
        assert split["pixels"] == counted == split["images"] * 37 * 53
    (dataset.root / "images/a1.jpg").unlink()
    assert main(["check", "--json"]) == 2
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [(one["kind"], one["id"], one["severity"]) for one in faults] == [("missing photograph", "a1", "error")]


def test_a_picture_shows_masks_and_colours(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--picture", "look.png"]) == 0
    assert "look.png: 6 masks over their photographs." in capsys.readouterr().out
    with Image.open("look.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert image.width > 3 * 360
    assert {(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 0)} <= colours  # the swatches of cat, dog, cow, background
    assert main(["check", "--picture", "look.xyz"]) == 2
    assert "--picture look.xyz has no suffix of a picture" in capsys.readouterr().err


def test_a_split_without_masks_has_no_shares() -> None:
    lines = list(format_splits([SplitCount("all", 3, 0, (), 0, 0)]))
    assert lines[-1].split() == ["undecided", "255", "-"]
