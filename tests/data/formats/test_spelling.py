"""One name, spelt in several ways: accents as letters of their own, encodings, leading zeros."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.files import write_mask
from rca.data.formats.coco import CocoSettings
from rca.data.formats.dataset import examine_dataset, list_dataset
from rca.data.formats.folder import FolderSettings
from rca.data.formats.voc import VocSettings

FOLDER = FolderSettings(name="mine", format="folder", splits=("train", "val"))
NAME = "café_ö"
APART = unicodedata.normalize("NFD", NAME)
FORMS = pytest.mark.parametrize(("on_disk", "in_text"), [(APART, NAME), (NAME, APART)], ids=["disk", "text"])


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (23, 37, 3)).astype(np.uint8)).save(path)


def save_mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, np.repeat(np.uint8([0, 1]), [20 * 37, 3 * 37]).reshape(23, 37))


@FORMS
def test_a_table_names_photographs_in_either_form(tmp_path: Path, on_disk: str, in_text: str) -> None:
    save(tmp_path / f"images/{on_disk}.jpg")
    save_mask(tmp_path / f"masks/{in_text}.png")
    (tmp_path / "classes.txt").write_text(f"{on_disk}\n")
    (tmp_path / "tags.csv").write_text(f"id,tags,split\n{in_text},{in_text},train;val\n")
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors == ()
    (record,) = found.manifest.images
    assert (record.id, record.image, record.mask) == (NAME, f"images/{on_disk}.jpg", f"masks/{in_text}.png")
    assert found.manifest.classes == (NAME,)
    assert record.tags == (0,)


@FORMS
def test_voc_lists_name_files_in_either_form(
    tmp_path: Path, make_voc: Callable[..., Path], on_disk: str, in_text: str
) -> None:
    root = make_voc()
    save(root / f"JPEGImages/{on_disk}.jpg")
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{in_text}\n")
    (root / "Annotations").mkdir()
    (root / f"Annotations/{on_disk}.xml").write_text("<annotation><object><name>cow</name></object></annotation>")
    (root / "classes.txt").write_text("cow\n")
    about = VocSettings(name="tiny", format="voc", splits=("train", "val"), tags="annotations", saliency="Saliency")
    save_mask(root / f"Saliency/{on_disk}.png")
    found = examine_dataset(root, about)
    assert found.errors == ()
    (record,) = found.manifest.images
    assert (record.id, record.image) == (NAME, f"JPEGImages/{on_disk}.jpg")
    assert list_dataset(root, about).entries[0].saliency == f"Saliency/{on_disk}.png"


@FORMS
def test_coco_names_photographs_in_either_form(tmp_path: Path, on_disk: str, in_text: str) -> None:
    save(tmp_path / f"train/{on_disk}.jpg")
    (tmp_path / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": f"{in_text}.jpg", "width": 37, "height": 23}],
        "categories": [{"id": 1, "name": in_text}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "iscrowd": 0, "area": 81}],
    }
    # JSON may hold letters as escapes.
    (tmp_path / "annotations/instances_train2014.json").write_text(json.dumps(content))
    settings = CocoSettings(name="tiny", format="coco", splits=("train",), images="{split}")
    found = examine_dataset(tmp_path, settings, drawn=tmp_path / "drawn")
    assert found.errors == ()
    assert [(one.id, one.image) for one in found.manifest.images] == [(NAME, f"train/{on_disk}.jpg")]
    assert found.manifest.classes == (NAME,)


def test_two_files_of_one_name_in_both_forms_are_ambiguous(tmp_path: Path) -> None:
    save(tmp_path / f"images/{NAME}.jpg")
    save(tmp_path / f"images/{APART}.jpg", 1)
    if len([*(tmp_path / "images").iterdir()]) == 1:
        pytest.skip("this file system keeps one form")
    (tmp_path / "tags.csv").write_text(f"id,tags,split\n{NAME},cow,train;val\n")
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors[0].kind == "ambiguous name"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    save(tmp_path / f"images/{NAME}.jpg")
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "tags.csv").write_bytes(f"{mark}id\ttags\tsplit\r\n{NAME}\tKüche\ttrain;val\r\n".encode(encoding))
    listed = list_dataset(tmp_path, FOLDER)
    assert [(one.id, one.tags) for one in listed.entries] == [(NAME, ("Küche",))]


def test_dropped_leading_zeros_are_named(tmp_path: Path) -> None:
    save(tmp_path / "images/0007.jpg")
    (tmp_path / "tags.csv").write_text("id,tags,split\n7,cow,train;val\n")
    error = examine_dataset(tmp_path, FOLDER).errors[0]
    assert "images/7.jpg does not exist, but 0007.jpg is there: correct the name" in error.sentence


def test_any_name_of_a_photograph_becomes_an_id(tmp_path: Path) -> None:
    names = {
        "Küche 1 (2)": "Küche_1_2_",
        "猫": "猫",
        "_IMG": "_IMG",
        "-x": "_-x",
        "a#b%20&c": "a_b_20_c",
        "plain": "plain",
    }
    for seed, name in enumerate(names):
        save(tmp_path / f"images/{name}.jpg", seed)
        save_mask(tmp_path / f"masks/{name}.png")
    (tmp_path / "tags.csv").write_text("id,tags,split\n" + "".join(f"{name},cow,train;val\n" for name in names))
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors == ()
    assert {record.id: record.image for record in found.manifest.images} == {
        made: f"images/{name}.jpg" for name, made in names.items()
    }
    assert any(
        "3 images have names of other characters than an id's: '-x' is called _-x" in note for note in found.notes
    )


def test_names_that_would_become_one_are_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("a b", "a_b")):
        save(tmp_path / f"images/{name}.jpg", seed)
    (tmp_path / "tags.csv").write_text("id,tags,split\na b,cow,train;val\na_b,cow,train;val\n")
    (error,) = examine_dataset(tmp_path, FOLDER).errors
    assert (error.kind, error.id) == ("unusable id", "a b")
