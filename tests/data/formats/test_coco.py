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
from rca.data.formats.coco_annotations import Category
from rca.data.formats.coco_categories import choose_labels
from rca.data.formats.dataset import examine_dataset, list_dataset, read_dataset

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
    # A person hides behind a toothbrush of the same pixels that comes later; image 21 shows a crowd alone.
    "val": [
        annotate(6, 20, 1, (5, 5, 15, 15), area=0),
        annotate(5, 20, 90, (5, 5, 15, 15), area=1e9),
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
    assert notes == [
        "train: 1 of 3 images have no annotation and are left out.",
        "train: 1 of 4 annotations are crowds and undecided (in 000000000009.jpg).",
        "val: 1 of 3 annotations are crowds and undecided (in 000000000021.jpg).",
    ]
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
    entries = list_dataset(root, SETTINGS).entries
    assert max(len(pickle.dumps(entry.draw)) for entry in entries) < 300


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
    "a list": (lambda content: [content], "is not a COCO annotation file (it has no list of images)"),
    "captions": (lambda content: {"images": content["images"]}, "it has no list of annotations"),
    "no annotation": (lambda content: {**content, "annotations": []}, "names no category or no annotated image"),
    "no name": (with_value("categories", "name", " "), "category 1 lacks an id or a name"),
    "one id twice": (with_value("categories", "id", "1"), "two categories have the id 1"),
    "one photograph twice": (
        with_value("images", "file_name", "000000000009.jpg"),
        "two images have the file 000000000009.jpg",
    ),
    "shares of sides": (
        lambda content: change_all(
            "annotations", lambda one: {**one, "segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 1]], "iscrowd": 0}
        )(content),
        "all coordinates lie between 0 and 1: write them in pixels",
    ),
    "panoptic": (with_value("annotations", "segments_info", []), "holds panoptic segments: name the file of instances"),
    "one image twice": (with_value("images", "id", 9), "two images have the id 9"),
    "no file": (with_value("images", "file_name", None), "image 1 lacks an id or a file_name"),
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


HUGE = [[0, 0, 1e9, 0, 1e9, 5]]
BAD: dict[str, tuple[Any, str]] = {
    "no category": (without("category_id"), "annotation 1 of 000000000007.jpg has the category_id None"),
    "null category": (with_value("annotations", "category_id", None), "has the category_id None, which no category"),
    "unknown category": (with_value("annotations", "category_id", 5), "has the category_id 5"),
    "no shape": (without("segmentation"), "annotation 1 of 000000000007.jpg has neither a shape nor a box"),
    "two corners": (with_value("annotations", "segmentation", [[1, 2, 3, 4]]), "has neither a shape nor a box"),
    "a text": (with_value("annotations", "segmentation", "x"), "has a segmentation that is a str"),
    "a letter": (with_value("annotations", "segmentation", [[1, 2, "x", 4, 5, 6]]), "a polygon that is no list of num"),
    "far away": (with_value("annotations", "segmentation", HUGE), "has the coordinate 1e+09, which is not near its im"),
    "not a number": (with_value("annotations", "segmentation", [[float("nan")] * 6]), "has the coordinate nan"),
    "infinite box": (
        lambda content: with_value("annotations", "bbox", [0, 0, float("inf"), 3])(without("segmentation")(content)),
        "has the coordinate inf",
    ),
    "crowd of another size": (
        with_value("annotations", "segmentation", encode_runs(CROWD.T)),
        "has run lengths of the size [45, 31], its image is [31, 45]",
    ),
    "too long": (
        with_value("annotations", "segmentation", {"size": [HEIGHT, WIDTH], "counts": [9, 10**12]}),
        "has run lengths of 1000000000009 pixels, its image has 1395",
    ),
    "negative": (with_value("annotations", "segmentation", {"size": [HEIGHT, WIDTH], "counts": [-1]}), "no numbers"),
    "garbage": (with_value("annotations", "segmentation", {"size": [HEIGHT, WIDTH], "counts": "~~é"}), "be decoded"),
    "cut": (with_value("annotations", "segmentation", {"size": [HEIGHT, WIDTH], "counts": "oo"}), "end too soon"),
    "crowd of 2": (with_value("annotations", "iscrowd", 2), "has the iscrowd 2, which is neither 0 nor 1"),
    "no width": (with_value("images", "width", -1), "the image 000000000007.jpg has the width -1 and the height 31"),
    "a tower": (with_value("images", "height", 10**9), "has the width 45 and the height 1000000000"),
    "file elsewhere": (with_value("images", "file_name", "../x.jpg"), "the file name ../x.jpg leads out of the folder"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_annotation_is_a_fault_of_its_image(root: Path, fault: str) -> None:
    damage, message = BAD[fault]
    write(root, "train", damage(copy.deepcopy(load(root))))
    found = examine_dataset(root, SETTINGS)
    faults = [one for one in found.errors if one.kind == "bad annotation"]
    assert len(faults) == 1
    assert message in faults[0].sentence
    assert "instances_train2014.json" in faults[0].file
    assert "\n" not in faults[0].sentence
    left = {record.id for record in found.accept("quarantine").images}
    assert faults[0].id not in left
    assert {"000000000009", "000000000020", "000000000021"} <= left


def as_text(part: str, *keys: str) -> Any:
    def change(content: Any) -> Any:
        for item in content[part]:
            item.update({key: str(item[key]) for key in keys})
        return content

    return change


def change_shapes(change: Any) -> Any:
    def apply(content: Any) -> Any:
        for item in content["annotations"]:
            if isinstance(item["segmentation"], list):
                item["segmentation"] = change(item["segmentation"])
        return content

    return apply


def change_all(part: str, change: Any) -> Any:
    return lambda content: {**content, part: [change(one) for one in content[part]]}


def drop_keys(*keys: str) -> Any:
    return change_all("annotations", lambda one: {key: one[key] for key in one if key not in keys})


def rasterise(polygons: list[list[int]]) -> dict[str, Any]:
    left, top, right, _, _, bottom, *_ = polygons[0]
    return encode_runs((draw(((left, top, right, bottom), 1)) > 0).astype(np.uint8))


def add_parent(content: Any) -> Any:
    children = [{**one, "supercategory": "things"} for one in content["categories"]]
    return {**content, "categories": [{"id": 0, "name": "things", "supercategory": "none"}, *children]}


# What tools write; each must give the masks of the sound file.
FORMS: dict[str, Any] = {
    "ids as text": lambda content: as_text("annotations", "image_id", "category_id", "iscrowd")(
        as_text("images", "id", "height", "width")(as_text("categories", "id")(content))
    ),
    "no areas, ids and crowds": lambda content: drop_keys("area", "id")(content),
    "areas of nothing": change_all("annotations", lambda one: {**one, "area": 0}),
    "a flat polygon": change_shapes(lambda shape: shape[0]),
    "corners as pairs": change_shapes(lambda shape: [shape[0][place : place + 2] for place in range(0, 8, 2)]),
    "degenerate pieces": change_shapes(lambda shape: [[1.0, 2.0, 3.0, 4.0], *shape, []]),
    "uncompressed run lengths": change_shapes(rasterise),
    "names with other folders": change_all(
        "images", lambda one: {**one, "file_name": f"/data/upload/1/{one['file_name']}"}
    ),
    "names of Windows": change_all("images", lambda one: {**one, "file_name": f"images\\1\\{one['file_name']}"}),
    "names with a host": change_all("images", lambda one: {**one, "file_name": f"https://x/y/{one['file_name']}?z=1"}),
    "names with Label Studio's prefix": change_all(
        "images", lambda one: {**one, "file_name": f"images/0a1b2c3d-{one['file_name']}"}
    ),
    "names in capitals": change_all("images", lambda one: {**one, "file_name": one["file_name"].upper()}),
    "names without a suffix": change_all("images", lambda one: {**one, "file_name": one["file_name"][:-4]}),
    "names as in an address": change_all("images", lambda one: {**one, "file_name": f"a%2F{one['file_name']}"}),
    "ids as fractions": lambda content: json.loads(
        json.dumps(change_all("annotations", lambda one: {**one, "image_id": float(one["image_id"])})(content))
    ),
    "a parent category": add_parent,
    "a background category": lambda content: {
        **content,
        "categories": [{"id": 0, "name": "_background_"}, *content["categories"]],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_what_tools_write_gives_the_same_masks(root: Path, form: str) -> None:
    expected = list_dataset(root, SETTINGS)
    for split in IMAGES:
        content = json.dumps(FORMS[form](copy.deepcopy(load(root, split))))
        (root / f"annotations/instances_{split}2014.json").write_bytes(b"\xef\xbb\xbf" + content.encode())
    found = list_dataset(root, SETTINGS)
    assert found.faults == expected.faults
    assert found.classes == expected.classes
    assert [(one.id, one.image, one.splits) for one in found.entries] == [
        (one.id, one.image, one.splits) for one in expected.entries
    ]
    for one, other in zip(found.entries, expected.entries, strict=True):
        np.testing.assert_array_equal(one.draw(), other.draw())


@pytest.mark.parametrize("empty", [[], None, [[]], [[7, 7, 7, 7, 7, 7]]])
def test_a_box_without_a_shape_is_undecided_and_keeps_its_tag(root: Path, empty: Any) -> None:
    content = load(root)
    content["annotations"][0].update(segmentation=empty, bbox=[10.5, 8.0, 7.0, 8.0])
    write(root, "train", content)
    found = examine_dataset(root, SETTINGS)
    assert found.errors == ()
    image = found.manifest.images[0]
    assert (image.id, image.tags) == ("000000000007", (0, 1))
    entry = list_dataset(root, SETTINGS).entries[0]
    np.testing.assert_array_equal(entry.draw(), draw(((3, 4, 30, 27), 1), ((10, 8, 18, 16), 255)))
    note = "train: 1 boxes without a shape are undecided and keep their tag (annotation 1 of 000000000007.jpg)."
    assert note in found.notes


def test_boxes_of_corners_are_told(root: Path) -> None:
    content = load(root)
    content["annotations"][0].update(segmentation=[], bbox=[30, 20, 44, 30])
    write(root, "train", content)
    notes = list_dataset(root, SETTINGS).notes
    assert any("1 boxes end outside of their images; a box is left, top, width, height (annot" in one for one in notes)


def test_brushed_objects_are_objects_if_the_settings_say_so(root: Path) -> None:
    brushed = list_dataset(root, SETTINGS.model_copy(update={"crowds": "objects"}))
    masks = {entry.id: entry.draw() for entry in brushed.entries}
    np.testing.assert_array_equal(masks["000000000021"], draw((CROWD, 2)))
    np.testing.assert_array_equal(masks["000000000009"], draw((CROWD, 1), ((2, 3, 33, 9), 3)))
    assert brushed.faults == ()
    faults = list_dataset(root, SETTINGS).faults
    assert {fault.kind for fault in faults} == {"mostly crowds"}
    assert any("undecided, of stop sign (1 of 1)" in fault.statement for fault in faults)
    assert "set dataset.crowds to objects" in faults[0].sentence


def test_annotations_of_no_image_are_counted(root: Path) -> None:
    content = load(root)
    content["annotations"] += [annotate(77, 999, 1, (1, 1, 9, 9)), annotate(78, 998, 1, (1, 1, 9, 9))]
    write(root, "train", content)
    stray = [fault for fault in list_dataset(root, SETTINGS).faults if fault.kind == "stray annotation"]
    assert len(stray) == 1
    assert "2 annotations belong to no image (annotation 77, image_id 999)" in stray[0].sentence


@pytest.mark.parametrize(
    ("chosen", "classes", "label"),
    [
        (("stop sign", "person"), ("stop sign", "person"), {1: 2, 2: 1, 3: 0}),
        ({"person": "living", "toothbrush": "thing", "stop sign": "thing"}, ("living", "thing"), {3: 2}),
    ],
)
def test_categories_are_chosen_and_joined(root: Path, chosen: Any, classes: tuple[str, ...], label: Any) -> None:
    found = list_dataset(root, SETTINGS.model_copy(update={"categories": chosen}))
    assert found.classes == classes
    table = np.arange(256).astype(np.uint8)
    table[list(label)] = list(label.values())
    mask = {entry.id: entry.draw() for entry in found.entries}["000000000007"]
    np.testing.assert_array_equal(mask, table[EXPECTED["000000000007"]])
    if len(chosen) < 3:
        assert any("1 categories (toothbrush, ...) with 2 annotations are background" in note for note in found.notes)


def test_an_unknown_category_is_named_with_the_one_that_was_meant(root: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.categories names persn, .* did you mean person\?"):
        list_dataset(root, SETTINGS.model_copy(update={"categories": ("persn",)}))


def test_a_parent_that_is_annotated_is_a_class(tmp_path: Path) -> None:
    categories = (Category(0, "pets", "none"), Category(1, "cat", "pets"), Category(2, "void", ""))
    assert choose_labels(tmp_path, categories, {0: 1, 1: 3, 2: 0}, None).classes == ("pets", "cat")
    found = choose_labels(tmp_path, categories, {0: 0, 1: 3, 2: 4}, None)
    assert (found.classes, found.of) == (("cat",), {0: 0, 1: 1, 2: 255})
    assert "pets, a parent without an annotation, is left out" in found.notes[0]
    assert "void is no class: its 4 are undecided" in found.notes[1]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("person\nstop sign\ntoothbrush\n", None),
        ("stop sign\nperson\ntoothbrush\n", "in another order"),
        ("a\n", "other classes"),
    ],
)
def test_a_list_of_classes_is_held_against_the_categories(root: Path, names: str, told: str | None) -> None:
    (root / "classes.txt").write_text(names)
    faults = [fault for fault in list_dataset(root, SETTINGS).faults if fault.kind == "differing classes"]
    assert [told in fault.statement for fault in faults] == ([True] if told else [])


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


def test_a_split_of_images_without_annotations_is_read_for_prediction_alone(root: Path) -> None:
    """As COCO's image_info_test2014.json lists them."""
    images = []
    (root / "test2014").mkdir()
    for number in (31, 33):
        name = f"{number:012}.jpg"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(root / f"test2014/{name}")
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    file = "annotations/image_info_test2014.json"
    (root / file).write_text(json.dumps({"images": images, "categories": CATEGORIES}))
    splits = {"splits": ("train", "val", "test")}
    settings = CocoSettings.model_validate({**SETTINGS.model_dump(), **splits, "unlabelled": {"test": file}})
    found = read_dataset(root, settings)
    assert found.classes == ("person", "stop sign", "toothbrush")
    assert [(one.id, one.mask, one.tags) for one in found.select("test")] == [
        ("000000000031", None, ()),
        ("000000000033", None, ()),
    ]
    assert len(found.select("train")) + len(found.select("val")) == len(read_dataset(root, SETTINGS).images)
    with pytest.raises(ValueError, match="unlabelled names test: add it to splits as well"):
        CocoSettings.model_validate({**SETTINGS.model_dump(), "unlabelled": {"test": file}})
