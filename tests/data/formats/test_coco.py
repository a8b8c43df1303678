"""COCO's layout, on a dataset of six images that the test writes itself."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.data.formats.coco import CocoSettings
from rca.data.formats.coco_annotations import read_annotations
from rca.data.formats.dataset import list_dataset, read_dataset

SETTINGS = CocoSettings(name="tiny", format="coco")
HEIGHT, WIDTH = 31, 45
# Ids with gaps, not in the order of the file: the label of an id is its rank.
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotate(number: int, image: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    left, top, right, bottom = box
    area = float((right - left) * (bottom - top))
    shape = rectangle(*box)
    return {
        **{"id": number, "image_id": image, "category_id": category, "segmentation": shape, "area": area, "iscrowd": 0},
        **more,
    }


def encode_runs(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths as COCO writes crowds: column by column, background first."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"counts": np.diff(np.concatenate([[0], edges])).tolist(), "size": list(mask.shape)}


CROWD = np.zeros((HEIGHT, WIDTH), np.uint8)
CROWD[2:29, 20:44] = 1
IMAGES = {"train": ("000000000007", "000000000009", "000000000011"), "val": ("000000000020", "000000000021")}
ANNOTATIONS = {
    "train": [
        # A small stop sign on a large person; the file names the small one first.
        annotate(1, 7, 13, (10, 8, 18, 16)),
        annotate(2, 7, 1, (3, 4, 30, 27)),
        # A crowd under a toothbrush.
        annotate(3, 9, 1, (20, 2, 44, 29), iscrowd=1, segmentation=encode_runs(CROWD), area=648.0),
        annotate(4, 9, 90, (2, 3, 33, 9)),
    ],
    # Of two people one hides behind a larger thing of the same size order; image 21 shows a crowd alone.
    "val": [
        annotate(5, 20, 90, (5, 5, 15, 15), area=50.0),
        annotate(6, 20, 1, (5, 5, 15, 15), area=100.0),
        annotate(7, 21, 13, (20, 2, 44, 29), iscrowd=1, segmentation=encode_runs(CROWD)),
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, names in IMAGES.items():
        (root / f"{split}2014").mkdir()
        images = []
        for name in names:
            pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"{split}2014/{name}.jpg")
            images.append({"id": int(name), "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
        write(root, split, {"images": images, "annotations": ANNOTATIONS[split], "categories": CATEGORIES})
    return root


def write(root: Path, split: str, content: Any) -> None:
    (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))


def load(root: Path, split: str = "train") -> Any:
    return json.loads((root / f"annotations/instances_{split}2014.json").read_text())


def draw(*layers: tuple[tuple[int, int, int, int] | np.ndarray, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape, label in layers:
        if isinstance(shape, np.ndarray):
            mask[shape > 0] = label
        else:
            left, top, right, bottom = shape
            mask[top:bottom, left:right] = label
    return mask


# Labels: person 1, stop sign 2, toothbrush 3.
EXPECTED = {
    "000000000007": draw(((3, 4, 30, 27), 1), ((10, 8, 18, 16), 2)),
    "000000000009": draw((CROWD, 255), ((2, 3, 33, 9), 3)),
    "000000000020": draw(((5, 5, 15, 15), 3)),
    "000000000021": draw((CROWD, 255)),
}


@pytest.mark.parametrize("workers", [1, 2])
def test_masks_are_drawn_from_the_annotations(root: Path, tmp_path: Path, workers: int) -> None:
    drawn, notes = tmp_path / "drawn", []
    drawn.mkdir()
    manifest = read_dataset(root, SETTINGS, workers, drawn=drawn, draw_into=drawn, report=notes.append)
    assert manifest.classes == ("person", "stop sign", "toothbrush")
    assert notes == ["train: 1 of 3 images have no annotation and are left out."]
    assert {record.id: record.splits for record in manifest.images} == {
        "000000000007": ("train",),
        "000000000009": ("train",),
        "000000000020": ("val",),
        "000000000021": ("val",),
    }
    for record in manifest.images:
        np.testing.assert_array_equal(np.asarray(Image.open(manifest.truth(record))), EXPECTED[record.id])
    assert {record.id: record.tags for record in manifest.images} == {
        "000000000007": (0, 1),
        "000000000009": (2,),
        "000000000020": (2,),
        "000000000021": (),
    }


def test_drawn_masks_are_checked_without_being_written(root: Path, tmp_path: Path) -> None:
    manifest = read_dataset(root, SETTINGS, drawn=Path("runs/tiny/masks"))
    assert manifest.images[0].mask == "./runs/tiny/masks/000000000007.png"
    assert manifest.images[0].tags == (0, 1)
    assert not (tmp_path / "runs").exists()


def test_tags_may_be_all_annotations(root: Path) -> None:
    found = read_dataset(root, SETTINGS.model_copy(update={"tags": "annotations"})).images
    assert [record.tags for record in found] == [(0, 1), (0, 2), (0, 2), (1,)]


def test_the_names_of_2017_are_parameters(root: Path) -> None:
    (root / "annotations/instances_train2014.json").rename(root / "annotations/instances_train2017.json")
    (root / "train2014").rename(root / "train2017")
    names = {"splits": ("train",), "annotations": "annotations/instances_{split}2017.json", "images": "{split}2017"}
    found = read_dataset(root, SETTINGS.model_copy(update=names)).images
    assert [record.image for record in found] == ["train2017/000000000007.jpg", "train2017/000000000009.jpg"]


def test_an_image_may_belong_to_several_splits(root: Path) -> None:
    content = load(root)
    content["images"] = content["images"][:1]
    write(root, "small", content)
    (root / "small2014").symlink_to("train2014")
    settings = SETTINGS.model_copy(update={"splits": ("train", "small"), "images": "train2014"})
    found = {entry.id: entry.splits for entry in list_dataset(root, settings).entries}
    assert found == {"000000000007": ("train", "small"), "000000000009": ("train",)}
    content["annotations"] = content["annotations"][:1]
    write(root, "small", content)
    with pytest.raises(UserError, match="the image 000000000007 differs from that in train: rename it"):
        list_dataset(root, settings)


def test_a_mask_to_draw_pickles_small(root: Path) -> None:
    images = read_annotations(root / "annotations/instances_train2014.json").images
    assert max(len(pickle.dumps(image.mask)) for image in images) < 300


def other_categories(content: Any) -> Any:
    content["categories"][0]["name"] = "comb"
    return content


def without(key: str) -> Any:
    def remove(content: Any) -> Any:
        del content["annotations"][0][key]
        return content

    return remove


def with_value(part: str, key: str, value: Any) -> Any:
    def put(content: Any) -> Any:
        content[part][0][key] = value
        return content

    return put


FAULTS: dict[str, tuple[Any, str]] = {
    "a list": (lambda content: [content], "is not a COCO annotation file"),
    "captions": (lambda content: {"images": content["images"]}, "names no category or no annotated image"),
    "no annotation": (lambda content: {**content, "annotations": []}, "names no category or no annotated image"),
    "no category": (without("category_id"), "it lacks 'category_id'"),
    "no area": (without("area"), "it lacks 'area'"),
    "no shape": (without("segmentation"), "it lacks 'segmentation'"),
    "unknown category": (with_value("annotations", "category_id", 5), "it lacks 5"),
    "two corners": (with_value("annotations", "segmentation", [[1, 2, 3, 4]]), "annotation 1 has a polygon of fewer"),
    "crowd of another size": (
        with_value("annotations", "segmentation", encode_runs(CROWD.T)),
        "annotation 1 has another size than its image",
    ),
    "file elsewhere": (with_value("images", "file_name", "../x.jpg"), "the file name ../x.jpg leads out of the folder"),
    "other categories": (other_categories, "has other categories than train"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_annotation_files_are_named(root: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    split = "val" if fault == "other categories" else "train"
    write(root, split, damage(copy.deepcopy(load(root, split))))
    with pytest.raises(UserError) as caught:
        list_dataset(root, SETTINGS)
    sentence = str(caught.value)
    assert f"instances_{split}2014.json" in sentence
    assert message in sentence
    assert "\n" not in sentence


def test_missing_files_and_invalid_json_are_named(root: Path) -> None:
    path = root / "annotations/instances_val2014.json"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"instances_val2014\.json is not valid JSON"):
        list_dataset(root, SETTINGS)
    path.unlink()
    with pytest.raises(UserError, match=r"instances_val2014\.json does not exist: .* correct dataset\.annotations"):
        list_dataset(root, SETTINGS)
    write(root, "val", load(root))
    (root / "train2014/000000000009.jpg").unlink()
    with pytest.raises(UserError, match=r"train2014/000000000009\.jpg does not exist"):
        read_dataset(root, SETTINGS.model_copy(update={"splits": ("train",)}))


def test_annotations_of_another_size_than_the_photograph_are_named(root: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(root / "train2014/000000000009.jpg")
    with pytest.raises(UserError, match=r"The mask of .*000000000009\.jpg is 45x31, its photograph 45x32"):
        read_dataset(root, SETTINGS)
