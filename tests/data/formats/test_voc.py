from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.data.formats.dataset import examine_dataset, list_dataset, read_dataset
from rca.data.formats.voc import VOC_CLASSES, VocSettings
from rca.data.manifest import Manifest

SETTINGS = VocSettings(name="tiny", format="voc", splits=("train", "val"))
LISTS = "ImageSets/Segmentation"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dataset_is_read_as_it_was_written(make_voc: Callable[..., Path], manifest: Manifest, workers: int) -> None:
    assert read_dataset(make_voc(), SETTINGS, workers) == manifest


def test_only_the_lists_asked_for_are_read(make_voc: Callable[..., Path]) -> None:
    found = read_dataset(make_voc(), SETTINGS.model_copy(update={"splits": ("val",)}))
    assert [(record.id, record.splits) for record in found.images] == [("c3", ("val",)), ("d4", ("val",))]


def test_an_image_twice_on_a_list_is_one_image_once_in_its_split(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    (root / LISTS / "train.txt").write_text("a1\nb2\na1\n")
    records = read_dataset(root, SETTINGS.model_copy(update={"splits": ("train",)})).images
    assert [(record.id, record.splits) for record in records] == [("a1", ("train",)), ("b2", ("train",))]


def test_a_name_that_is_listed_twice_is_reported_with_its_list(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    (root / LISTS / "train.txt").write_text("a1\nb2\na1\n")
    faults = [fault for fault in examine_dataset(root, SETTINGS).faults if fault.kind == "listed twice"]
    assert [(fault.file, fault.id, fault.severity) for fault in faults] == [
        (str(root / LISTS / "train.txt"), "a1", "warning")
    ]


def test_masks_are_searched_in_the_order_of_their_folders(make_voc: Callable[..., Path]) -> None:
    root = make_voc("SegmentationClassAug")
    own = root / "SegmentationClass"
    own.mkdir()
    Image.fromarray(np.full((40, 52), 3, np.uint8)).save(own / "a1.png")
    settings = SETTINGS.model_copy(update={"masks": ("SegmentationClass", "SegmentationClassAug")})
    found = {record.id: record for record in read_dataset(root, settings).images}
    assert found["a1"].mask == "SegmentationClass/a1.png"
    assert found["a1"].tags == (2,)
    assert found["b2"].mask == "SegmentationClassAug/b2.png"


def test_photographs_may_be_png(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    with Image.open(root / "JPEGImages/a1.jpg") as photograph:
        photograph.save(root / "JPEGImages/a1.png")
    (root / "JPEGImages/a1.jpg").unlink()
    assert read_dataset(root, SETTINGS).images[0].image == "JPEGImages/a1.png"


def test_vocs_own_classes_need_no_file(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    (root / "classes.txt").unlink()
    found = list_dataset(root, SETTINGS.model_copy(update={"classes": "voc"}))
    assert found.classes == VOC_CLASSES
    assert (len(VOC_CLASSES), VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == (
        20,
        "aeroplane",
        "person",
        "tvmonitor",
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def write_picture(path: Path, fill: int | tuple[int, ...], height: int = 40, width: int = 52) -> None:
    shape = (height, width, 3) if isinstance(fill, tuple) else (height, width)
    Image.fromarray(np.full(shape, fill, np.uint8)).save(path)


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no photographs": ("JPEGImages", lambda path: path.rename(path.with_name("other")), "no folder JPEGImages"),
    "missing list": (f"{LISTS}/val.txt", Path.unlink, "does not exist"),
    "empty list": (f"{LISTS}/val.txt", lambda path: path.write_text("\n \n"), "No image belongs to the split val"),
    "list in Latin-1": (f"{LISTS}/val.txt", lambda path: path.write_bytes(b"caf\xe9\n"), "not UTF-8"),
    "missing classes": ("classes.txt", Path.unlink, "does not exist"),
    "classes in Latin-1": ("classes.txt", lambda path: path.write_bytes(b"caf\xe9\n"), "not UTF-8"),
    "missing photograph": ("JPEGImages/b2.jpg", Path.unlink, "does not exist"),
    "missing mask": ("SegmentationClass/a1.png", Path.unlink, "does not exist"),
    "truncated photograph": ("JPEGImages/a1.jpg", truncate, "is broken"),
    "photograph that is text": ("JPEGImages/a1.jpg", lambda path: path.write_text("hello"), "is broken"),
    "truncated mask": ("SegmentationClass/a1.png", truncate, "is broken"),
    "mask of another size": ("SegmentationClass/a1.png", lambda path: write_picture(path, 1, 52, 40), "40x52"),
    "mask with an unknown label": ("SegmentationClass/a1.png", lambda path: write_picture(path, 4), "label 4"),
    "mask in colours": ("SegmentationClass/a1.png", lambda path: write_picture(path, (9, 9, 9)), "8-bit channel"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_file(make_voc: Callable[..., Path], fault: str) -> None:
    name, damage, message = FAULTS[fault]
    root = make_voc()
    damage(root / name)
    with pytest.raises(UserError) as caught:
        read_dataset(root, SETTINGS)
    sentence = str(caught.value)
    assert message in sentence
    assert Path(name).name in sentence
    assert "\n" not in sentence


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_dataset(tmp_path / "nowhere", SETTINGS)


def test_several_workers_report_a_fault_as_one_does(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    truncate(root / "JPEGImages/d4.jpg")
    with pytest.raises(UserError, match=r"d4\.jpg is broken"):
        read_dataset(root, SETTINGS, workers=2)


def test_a_list_of_images_without_masks_is_read_for_prediction_alone(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    (root / LISTS / "test.txt").write_text("d4\nc3\n")
    (root / LISTS / "val.txt").write_text("c3\n")
    (root / "SegmentationClass/d4.png").unlink()
    settings = VocSettings.model_validate({**SETTINGS.model_dump(), "splits": ("train", "val", "test")})
    assert [fault.id for fault in examine_dataset(root, settings).errors] == ["d4"]
    settings = VocSettings.model_validate({**settings.model_dump(), "unlabelled": ("test",)})
    found = {record.id: record for record in read_dataset(root, settings).images}
    assert (found["d4"].mask, found["d4"].tags, found["d4"].splits) == (None, (), ("test",))
    assert found["c3"].mask == "SegmentationClass/c3.png"  # which other lists name, too
    assert found["c3"].splits == ("train", "val", "test")
    with pytest.raises(ValueError, match="unlabelled names test: add it to splits as well"):
        VocSettings.model_validate({**SETTINGS.model_dump(), "unlabelled": ("test",)})
