"""Tags from annotations, masks and lists of SBD, saliency maps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from rca.core.errors import UserError
from rca.data.formats.dataset import examine_dataset, list_dataset, read_dataset
from rca.data.formats.sbd import SbdMask, derive_trainaug
from rca.data.formats.voc import VocSettings, read_objects

SETTINGS = VocSettings(name="tiny", format="voc", splits=("train", "val"))
LISTS = "ImageSets/Segmentation"


def change(**changes: object) -> VocSettings:
    return SETTINGS.model_copy(update=changes)


def write_objects(path: Path, *objects: tuple[str, bool]) -> None:
    path.parent.mkdir(exist_ok=True)
    parts = "<part><name>head</name></part>"
    text = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult>{parts}</object>"
        for name, difficult in objects
    )
    path.write_text(f"<annotation><filename>x.jpg</filename>{text}</annotation>")


# --- annotations


@pytest.fixture
def annotated(make_voc: Callable[..., Path]) -> Path:
    root = make_voc()
    for name in ("a1", "b2", "c3", "d4"):
        write_objects(root / f"Annotations/{name}.xml", ("dog", False), ("cow", True), ("dog", False))
    write_objects(root / "Annotations/c3.xml")
    for name, size in (("a1", (40, 52)), ("b2", (33, 47))):
        Image.fromarray(np.full(size, 2, np.uint8)).save(root / f"SegmentationClass/{name}.png")
    return root


@pytest.mark.parametrize(("difficult", "expected"), [(True, (1, 2)), (False, (1,))])
def test_tags_may_come_from_annotations(annotated: Path, difficult: bool, expected: tuple[int, ...]) -> None:
    found = read_dataset(annotated, change(tags="annotations", difficult=difficult)).images
    assert [record.tags for record in found] == [expected, expected, (), expected]
    assert all(record.mask for record in found)


def test_an_image_with_annotations_needs_no_mask(annotated: Path) -> None:
    (annotated / "SegmentationClass/b2.png").unlink()
    found = {record.id: record for record in read_dataset(annotated, change(tags="annotations")).images}
    assert found["b2"].mask is None
    assert found["a1"].mask == "SegmentationClass/a1.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "a1.xml does not exist"),
        ("<annotation><object>", "a1.xml is not valid XML"),
        ("<annotation><object><name> </name></object></annotation>", "a1.xml has an object without a name"),
        ("<annotation><object><name>horse</name></object></annotation>", "a1.jpg has the tag 'horse', which is no"),
        (
            '<!DOCTYPE a [<!ENTITY b "b">]><annotation><object><name>&c;</name></object></annotation>',
            "a1.xml is not valid XML",
        ),
    ],
)
def test_a_broken_annotation_is_named(annotated: Path, text: str | None, message: str) -> None:
    path = annotated / "Annotations/a1.xml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_dataset(annotated, change(tags="annotations"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_whose_annotation_is_broken_is_left_out(annotated: Path) -> None:
    (annotated / "Annotations/b2.xml").write_text("<annotation>")
    found = examine_dataset(annotated, change(tags="annotations"))
    assert [(fault.kind, fault.id) for fault in found.errors] == [("broken annotation", "b2")]
    assert "b2.xml is not valid XML" in found.errors[0].sentence
    assert [record.id for record in found.accept("quarantine").images] == ["a1", "c3", "d4"]


def test_parts_of_objects_are_no_tags(tmp_path: Path) -> None:
    write_objects(tmp_path / "x/a.xml", ("person", False))
    assert read_objects(tmp_path / "x/a.xml") == ("person",)


# --- SBD


def write_sbd(path: Path, mask: np.ndarray) -> None:
    """A file as SBD has them: a struct GTcls with Boundaries, Segmentation and CategoriesPresent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    present = np.unique(mask[mask > 0])
    savemat(path, {"GTcls": {"Boundaries": np.zeros(3), "Segmentation": mask, "CategoriesPresent": present}})


@pytest.fixture
def augmented(make_voc: Callable[..., Path]) -> tuple[Path, dict[str, np.ndarray]]:
    """The small dataset; SBD has a1 (on train), d4 (on val alone), e5 and f6, for which VOC has no mask."""
    root = make_voc()
    random, masks = np.random.default_rng(0), {}
    for name, (height, width) in {"a1": (40, 52), "d4": (51, 35), "e5": (31, 45), "f6": (38, 29)}.items():
        masks[name] = random.integers(0, 4, (height, width)).astype(np.uint8)
        write_sbd(root / f"sbd/cls/{name}.mat", masks[name])
        if not (root / f"JPEGImages/{name}.jpg").exists():
            Image.fromarray(random.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(
                root / f"JPEGImages/{name}.jpg"
            )
    (root / f"{LISTS}/train.txt").write_text("a1\nb2\n")
    (root / f"{LISTS}/val.txt").write_text("c3\nd4\n")
    (root / "sbd/train.txt").write_text("e5\na1\n")
    (root / "sbd/val.txt").write_text("f6\nd4\n")
    return root, masks


def test_trainaug_is_derived(augmented: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    root, masks = augmented
    settings = change(splits=("train", "val", "trainaug"), sbd="sbd")
    listing = list_dataset(root, settings, Path("runs/tiny/data/masks"))
    splits = {entry.id: entry.splits for entry in listing.entries}
    assert splits == {
        "a1": ("train", "trainaug"),
        "b2": ("train", "trainaug"),
        "c3": ("val",),
        "d4": ("val",),
        "e5": ("trainaug",),
        "f6": ("trainaug",),
    }
    paths = {entry.id: entry.mask for entry in listing.entries}
    assert paths["a1"] == "SegmentationClass/a1.png"  # VOC's own mask goes first
    assert paths["e5"] == "./runs/tiny/data/masks/e5.png"
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    manifest = read_dataset(root, settings, 1, drawn=drawn, draw_into=drawn)
    assert sorted(path.name for path in drawn.iterdir()) == ["e5.png", "f6.png"]
    for record in manifest.select("trainaug"):
        if record.id in ("e5", "f6"):
            np.testing.assert_array_equal(np.asarray(Image.open(manifest.truth(record))), masks[record.id])
            assert record.tags == tuple(sorted({int(one) - 1 for one in np.unique(masks[record.id]) if one}))
            assert record.mask_sha256
    assert not list((root / "SegmentationClass").glob("[ef]*"))  # the dataset is left as it was


def test_an_existing_list_precedes_the_derived_one(augmented: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, _ = augmented
    (root / f"{LISTS}/trainaug.txt").write_text("b2\n")
    found = list_dataset(root, change(splits=("trainaug",), sbd="sbd"))
    assert [entry.id for entry in found.entries] == ["b2"]


def test_the_usual_list_has_10582_images(tmp_path: Path) -> None:
    """With lists of the sizes and overlaps of VOC 2012 and SBD."""
    voc_train, voc_val = range(1464), range(1464, 1464 + 1449)
    shared_train, shared_val = voc_train[:1300], voc_val[:937]
    fresh = range(10_000, 10_000 + 11_355 - 1300 - 937)
    names = [f"{number:06d}" for number in (*shared_train, *shared_val, *fresh)]
    for split, part in (("train", names[:8498]), ("val", names[8498:])):
        (tmp_path / f"{split}.txt").write_text("\n".join(part))
    own, held_out = ([f"{number:06d}" for number in numbers] for numbers in (voc_train, voc_val))
    found = derive_trainaug(tmp_path, own, held_out)
    assert len(found) == len(set(found)) == 1464 + len(fresh) == 10_582
    assert not set(found) & set(held_out)
    assert set(own) < set(found)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "broken or not SBD's"),
        (lambda path: path.write_bytes(b"no MATLAB file at all" * 20), "broken or not SBD's"),
        (lambda path: savemat(path, {"other": 3}), "broken or not SBD's"),
        (lambda path: write_sbd(path, np.zeros((3, 4))), "its Segmentation is float64 with 2 axes"),
        (Path.unlink, "does not exist"),
    ],
)
def test_a_broken_file_of_sbd_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "cls/e5.mat"
    write_sbd(path, np.zeros((3, 4), np.uint8))
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        SbdMask(path)()
    assert "e5.mat" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_of_sbd_that_does_not_fit_is_named(augmented: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, masks = augmented
    write_sbd(root / "sbd/cls/e5.mat", masks["e5"].T)
    settings = change(splits=("trainaug",), sbd="sbd")
    with pytest.raises(UserError, match=r"The mask of .*e5\.jpg is 31x45, its photograph 45x31"):
        read_dataset(root, settings)
    write_sbd(root / "sbd/cls/e5.mat", np.where(masks["e5"] == 3, 20, masks["e5"]).astype(np.uint8))
    with pytest.raises(UserError, match=r"The mask of .*e5\.jpg holds the label 20"):
        read_dataset(root, settings)


# --- saliency


def test_saliency_maps_are_optional_for_each_image(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    (root / "maps").mkdir()
    Image.fromarray(np.zeros((40, 52), np.uint8)).save(root / "maps/a1.png")
    found = {record.id: record for record in read_dataset(root, change(saliency="maps")).images}
    assert found["a1"].saliency == "maps/a1.png"
    assert found["b2"].saliency is None


@pytest.mark.parametrize("key", ["saliency", "sbd"])
def test_a_folder_in_the_settings_must_exist(make_voc: Callable[..., Path], key: str) -> None:
    with pytest.raises(UserError, match=rf"nowhere does not exist: put it there, or correct dataset\.{key}"):
        list_dataset(make_voc(), change(**{key: "nowhere"}))
