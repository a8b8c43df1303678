"""Each kind of fault is planted in a sound dataset and found there, with its file and nothing else."""

import io
from pathlib import Path

import pytest
from pictures import encode
from PIL import Image
from planting import (
    BY_ID,
    CLASSES,
    ERRORS,
    FOLLOWED,
    IMAGES,
    MASK,
    ON_LISTS,
    PHOTOGRAPH,
    Dataset,
    blame_classes,
    make_dataset,
    orient,
    plant,
    remove,
    rename,
    rename_split,
    retag,
)

from rca.core.errors import UserError
from rca.core.images import PICTURE_FAULTS
from rca.data.faults import KINDS, Fault, count, read_faults, write_faults


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "sound")


def test_a_sound_dataset_has_no_fault(dataset: Dataset) -> None:
    found = dataset.examine()
    assert found.faults == ()
    assert [record.id for record in found.accept("stop").images] == list(IMAGES)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ON_LISTS])
def test_each_kind_is_found_with_its_file_and_nothing_else(dataset: Dataset, kind: str) -> None:
    file = str(dataset.root / plant(dataset, kind))
    faults = dataset.examine().faults
    found = [fault for fault in faults if fault.kind == kind]
    assert file in [fault.file for fault in found]
    assert {fault.kind for fault in faults} == {kind} | FOLLOWED.get(kind, set())
    is_error = kind in ERRORS or kind.partition(" ")[0] in PICTURE_FAULTS
    for fault in found:
        assert fault.severity == ("error" if is_error else "warning")
        assert Path(fault.file).name in fault.sentence
        assert fault.sentence.endswith(f": {KINDS[kind].remedy}.")
        assert "\n" not in fault.sentence
        assert bool(fault.id) == (KINDS[kind].of_image or kind in BY_ID)


@pytest.mark.parametrize("kind", ["undecodable photograph", "unknown label", "lossy mask", "unknown tag"])
def test_an_image_with_an_error_stops_or_is_left_out(dataset: Dataset, kind: str) -> None:
    plant(dataset, kind)
    found = dataset.examine()
    assert [record.id for record in found.manifest.images] == list(IMAGES)[1:]
    assert found.accept("quarantine") == found.manifest
    assert [fault.id for fault in found.quarantine] == ["a1"]
    with pytest.raises(UserError) as caught:
        found.accept("stop")
    assert str(caught.value) == found.errors[0].sentence


@pytest.mark.parametrize("kind", ["no class", "similar classes", "repeated id", "empty split"])
def test_faults_of_the_dataset_always_stop(dataset: Dataset, kind: str) -> None:
    plant(dataset, kind)
    found = dataset.examine()
    assert found.quarantine == ()
    with pytest.raises(UserError) as caught:
        found.accept("quarantine")
    assert str(caught.value) == found.errors[0].sentence


def test_the_number_of_further_errors_is_reported(dataset: Dataset) -> None:
    for name in ("a1", "b2", "f6"):
        remove(dataset, f"images/{name}.jpg")
    with pytest.raises(UserError, match=r"a1\.jpg does not exist: .* \(and 2 more errors: `rca check` lists them\)\."):
        dataset.examine().accept("stop")


def test_a_split_without_a_usable_image_is_empty(dataset: Dataset) -> None:
    for name in ("e5", "f6"):
        remove(dataset, f"images/{name}.jpg")
    found = dataset.examine()
    assert [fault.kind for fault in found.find_stopping("quarantine")] == ["exhausted split"]
    with pytest.raises(UserError, match=r"Every image of the split val in .*val\.txt has an error"):
        found.accept("quarantine")


def test_all_faults_of_an_image_are_reported(dataset: Dataset) -> None:
    for kind in ("truncated photograph", "wrong-mode mask", "missing saliency map", "unknown tag"):
        plant(dataset, kind)
    faults = dataset.examine().faults
    assert [fault.kind for fault in faults] == [
        *("truncated photograph", "wrong-mode mask", "missing saliency map", "unknown tag")
    ]
    assert {fault.id for fault in faults} == {"a1"}


def test_several_workers_find_what_one_finds(dataset: Dataset) -> None:
    plant(dataset, "leaked photograph")
    for name in ("b2", "f6"):
        remove(dataset, f"images/{name}.jpg")
    assert dataset.examine(2) == dataset.examine(1)


@pytest.mark.parametrize(
    ("first", "second"),
    [("cat", "Cat"), ("dining table", "dining  table"), ("caf\u00e9", "cafe\u0301"), ("straße", "STRASSE")],
)
def test_class_names_that_differ_invisibly_are_told_apart(dataset: Dataset, first: str, second: str) -> None:
    blame_classes(dataset, *CLASSES, first, second)
    similar = [fault for fault in dataset.examine().faults if fault.kind == "similar classes"]
    assert similar
    for name in (first, second):
        assert ascii(name) in similar[0].statement


@pytest.mark.parametrize("name", ["", " cat", "cat ", "a;b", "\ufeffcat", "a\tb", "a\nb"])
def test_class_names_that_cannot_be_used_are_refused(dataset: Dataset, name: str) -> None:
    blame_classes(dataset, *CLASSES, name)
    assert "unusable class name" in {fault.kind for fault in dataset.examine().errors}


@pytest.mark.parametrize("name", ["a/b", "../a", "a b", ".a", "a;b", "e\u0301", "a\n", "", "a" * 201, "猫" * 67])
def test_ids_that_cannot_be_file_names_are_refused(dataset: Dataset, name: str) -> None:
    rename(dataset, "a1", name)
    assert [fault.kind for fault in dataset.examine().faults] == ["unusable id"]


@pytest.mark.parametrize("split", ["a b", "tr;ain", "", "ä"])
def test_splits_that_cannot_be_file_names_are_refused(dataset: Dataset, split: str) -> None:
    rename_split(dataset, split)
    assert [fault.kind for fault in dataset.examine().faults] == ["unusable split"]


def test_a_tag_that_resembles_a_class_is_reported_with_it(dataset: Dataset) -> None:
    retag(dataset, "a1", "Cat")
    assert "the tag 'Cat', which is no class (but 'cat' is)" in dataset.examine().faults[0].statement


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_without_rotation_is_no_fault(dataset: Dataset, orientation: int) -> None:
    dataset.write("images/a1.jpg", encode("JPEG", PHOTOGRAPH, exif=orient(orientation)))
    assert dataset.examine().faults == ()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_rotated_photograph_is_reported_and_its_mask_must_fit_the_stored_pixels(
    dataset: Dataset, orientation: int
) -> None:
    dataset.write("images/a1.jpg", encode("JPEG", PHOTOGRAPH, exif=orient(orientation)))
    assert [fault.kind for fault in dataset.examine().faults] == ["turned photograph"]
    if orientation > 4:  # on the turned picture height and width change places
        dataset.write("masks/a1.png", encode("PNG", MASK.T))
        assert "mask of another size" in {fault.kind for fault in dataset.examine().errors}


def test_splits_within_others_are_no_fault(dataset: Dataset) -> None:
    """As VOC's train lies within trainaug."""
    for name in ("e5", "f6"):
        dataset.change(name, splits=("train", "val"))
    assert dataset.examine().faults == ()


def test_a_multi_picture_jpeg_is_one_photograph(dataset: Dataset) -> None:
    """MPO is a JPEG with a second picture behind it."""
    buffer = io.BytesIO()
    first = Image.fromarray(PHOTOGRAPH)
    first.save(buffer, "MPO", save_all=True, append_images=[first])
    dataset.write("images/a1.jpg", buffer.getvalue())
    assert dataset.examine().faults == ()


def test_faults_behind_the_pixels_are_reported(dataset: Dataset) -> None:
    """The second picture of a file can be broken where the first, which is read, is sound."""
    first, buffer = Image.fromarray(PHOTOGRAPH), io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[first])
    one = encode("TIFF", PHOTOGRAPH)
    dataset.change("a1", image="images/a1.tif")
    dataset.write("images/a1.tif", buffer.getvalue()[: len(one) + 20])
    faults = dataset.examine().faults
    assert {fault.kind for fault in faults} == {"odd photograph"}
    assert any("a1.tif can be read, but not the rest of its file (" in fault.statement for fault in faults)


def test_an_impossible_file_name_is_a_fault(dataset: Dataset) -> None:
    dataset.change("a1", image="images/a\0b.jpg")
    assert [fault.kind for fault in dataset.examine().faults] == ["undecodable photograph"]


def test_faults_survive_on_disk(tmp_path: Path, dataset: Dataset) -> None:
    for kind in ("unknown label", "missing saliency map", "similar classes"):
        plant(dataset, kind)
    faults = dataset.examine().faults
    write_faults(tmp_path / "faults.csv", faults)
    lines = read_faults(tmp_path / "faults.csv")
    assert [(line["kind"], line["severity"], line["id"], line["file"], line["sentence"]) for line in lines] == [
        (fault.kind, fault.severity, fault.id, fault.file, fault.sentence) for fault in faults
    ]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "severity,kind,id,file,sentence\n1,2\n", "severity\n\xff"])
def test_a_corrupt_list_of_faults_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "quarantine.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"quarantine\.csv is corrupt"):
        read_faults(path)
    with pytest.raises(UserError, match=r"other\.csv does not exist"):
        read_faults(tmp_path / "other.csv")


def test_numbers_agree_with_their_nouns() -> None:
    assert [count(number, "error") for number in (0, 1, 2)] == ["0 errors", "1 error", "2 errors"]
    assert Fault("no class", "x", "x names no class").sentence.startswith("x names no class: list the classes")
