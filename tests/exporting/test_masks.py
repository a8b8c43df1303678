"""Exports of masks to COCO and VOC, against pycocotools and the reader of VOC."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage
from segmenters import write_model

from rca.cli.main import main
from rca.core.files import PALETTE, read_mask, read_photograph, write_mask
from rca.data.formats.coco import CocoSettings
from rca.data.formats.dataset import read_dataset
from rca.data.formats.voc import VocSettings
from rca.data.manifest import Manifest, write_manifest
from rca.exporting.voc import make_ids

CLASSES = ("cat", "dog", "cow")
NAMES = ["a1", "b2", "c3", "d4"]


@pytest.fixture
def voc(make_voc: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_voc()


@pytest.fixture
def run(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with refined masks in two shards, made with two thresholds, and masks of two splits."""
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "runs/mine/data", manifest)
    for number, record in enumerate(manifest.images):
        mask = read_mask(manifest.truth(record))
        nothing = np.zeros_like(mask)
        for threshold, shown in (("best", mask), ("fixed", nothing), ("best_predicted_tags", nothing)):
            path = tmp_path / f"runs/mine/rca/0/refined/{number % 2}/{threshold}/{record.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, shown)
        for split in record.splits:
            path = tmp_path / f"runs/mine/rca/0/predictions/{split}/{record.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, mask)
    return tmp_path / "runs/mine/rca/0"


@pytest.fixture
def predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `rca predict` made of photographs with awkward names, one of them taken with an upright camera."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.safetensors")
    random = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, options in (("a/x 1.jpg", {}), ("b/ü.JPG", {"exif": turned}), ("b/x.webp", {"lossless": True})):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (45, 58, 3)).astype(np.uint8)).save(path, **options)
    assert main(["predict", "model.safetensors", "photos", "--out", "out"]) == 0
    return tmp_path / "out"


def draw_coco(file: Path) -> dict[str, np.ndarray]:
    """The masks of a COCO file, as pycocotools reads it."""
    coco = COCO(str(file))
    masks = {}
    for image in coco.loadImgs(coco.getImgIds()):
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for one in coco.loadAnns(coco.getAnnIds(image["id"])):
            region = coco.annToMask(one).astype(bool)
            assert (mask[region] == 0).all()
            mask[region] = one["category_id"]
            rows, columns = np.nonzero(region)
            assert one["area"] == region.sum()
            left, top = columns.min(), rows.min()
            assert one["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        masks[image["file_name"]] = mask
    return masks


def read_back(folder: Path, split: str = "train", *masks: str) -> Manifest:
    settings = VocSettings(name="back", format="voc", splits=(split,), masks=masks or ("SegmentationClass",))
    return read_dataset(folder, settings)


# --- COCO


@pytest.mark.parametrize("components", [False, True])
def test_pycocotools_gives_back_the_masks(voc: Path, components: bool) -> None:
    arguments = ["export", "coco", str(voc / "SegmentationClass"), "out.json"]
    assert main([*arguments, *(["--components"] if components else [])]) == 0
    found = draw_coco(Path("out.json"))
    assert sorted(found) == [f"{name}.jpg" for name in NAMES]
    for name in NAMES:
        assert (found[f"{name}.jpg"] == read_mask(voc / f"SegmentationClass/{name}.png")).all()
    data = json.loads(Path("out.json").read_text())
    expected = {1: "cat", 2: "dog", 3: "cow", 255: "ignore"}
    assert {one["id"]: one["name"] for one in data["categories"]} == expected
    masks = [read_mask(voc / f"SegmentationClass/{name}.png") for name in NAMES]
    regions = [mask == label for mask in masks for label in np.unique(mask) if label]
    count = sum(ndimage.label(region, np.ones((3, 3)))[1] for region in regions) if components else len(regions)
    assert len(data["annotations"]) == count


def test_nothing_is_called_ignored_where_nothing_is(run: Path) -> None:
    (run / "predictions/val/d4.png").unlink()
    assert main(["export", "coco", str(run / "predictions/val"), "out.json"]) == 0
    data = json.loads(Path("out.json").read_text())
    assert [one["name"] for one in data["categories"]] == list(CLASSES)
    assert [one["file_name"] for one in data["images"]] == ["c3.jpg"]
    assert data["annotations"] == []


def test_predictions_come_back_from_coco(predicted: Path) -> None:
    assert main(["export", "coco", "out", "out.json"]) == 0
    found = draw_coco(Path("out.json"))
    assert sorted(found) == ["a/x 1.jpg", "b/x.webp", "b/ü.JPG"]
    assert found["b/ü.JPG"].shape == (58, 45)
    for name, mask in found.items():
        assert (mask == read_mask((predicted / "masks" / name).with_suffix(".png"))).all()


# --- VOC


@pytest.mark.parametrize(("threshold", "flags"), [("best", []), ("fixed", ["--threshold", "fixed"])])
def test_a_runs_masks_come_back_from_voc(run: Path, manifest: Manifest, threshold: str, flags: list[str]) -> None:
    assert main(["export", "voc", str(run / "refined"), "out", "--split", "corrected", *flags]) == 0
    back = read_back(Path("out"), "corrected")
    assert back.classes == manifest.classes
    assert [record.id for record in back.images] == NAMES
    for number, (record, original) in enumerate(zip(back.images, manifest.images, strict=True)):
        made = run / f"refined/{number % 2}/{threshold}/{record.id}.png"
        assert (read_mask(back.truth(record)) == read_mask(made)).all()
        assert back.truth(record).read_bytes() == made.read_bytes()
        assert record.sha256 == original.sha256  # the photograph is the same file
    with Image.open("out/SegmentationClass/a1.png") as picture:
        assert picture.getpalette() == PALETTE
    lines = Path("out/labelmap.txt").read_text().splitlines()
    expected = ["# label:color_rgb:parts:actions", "background:0,0,0::", "cat:128,0,0::", "dog:0,128,0::"]
    expected += ["cow:128,128,0::"] + (["ignored:224,224,192::"] if threshold == "best" else [])
    assert lines == expected


def test_predictions_come_back_from_voc(predicted: Path) -> None:
    assert main(["export", "voc", "out/masks", "voc"]) == 0
    back = read_back(Path("voc"))
    assert [(record.id, Path(record.image).suffix) for record in back.images] == [
        ("a_x_1", ".jpg"),
        ("b_x", ".png"),  # no format of VOC
        ("b_ü", ".png"),  # turned
    ]
    names = ("a/x 1", "b/x", "b/ü")
    for record, name in zip(back.images, names, strict=True):
        assert (read_mask(back.truth(record)) == read_mask(predicted / f"masks/{name}.png")).all()
    assert back.photograph(back.images[0]).read_bytes() == Path("photos/a/x 1.jpg").read_bytes()
    stored = read_photograph(Path("photos/b/ü.JPG"))
    assert (read_photograph(back.photograph(back.images[2])) == np.rot90(stored, -1)).all()
    original = read_photograph(Path("photos/b/x.webp"))
    assert (read_photograph(back.photograph(back.images[1])) == original).all()


def test_corrected_masks_come_back_before_the_others(run: Path) -> None:
    """What the README says: correct some masks, keep them in a folder of their own that is looked in first."""
    assert main(["export", "voc", str(run / "refined"), "out"]) == 0
    corrected = read_mask(Path("out/SegmentationClass/b2.png"))
    corrected[:9] = 2
    Path("out/Corrected").mkdir()
    write_mask(Path("out/Corrected/b2.png"), corrected)
    back = read_back(Path("out"), "train", "Corrected", "SegmentationClass")
    for record in back.images:
        folder = "Corrected" if record.id == "b2" else "SegmentationClass"
        assert record.mask == f"{folder}/{record.id}.png"
    changed = back.images[back.index["b2"]]
    assert (read_mask(back.truth(changed)) == corrected).all()
    assert 1 in changed.tags


def test_ids_are_safe_and_differ_in_more_than_letter_case() -> None:
    assert make_ids(["a/x", "a_x", "A_X", "é", "e\u0301", "..", "ok.1"]) == [
        *("a_x", "a_x-2", "A_X-3", "é", "é-2", "_..", "ok.1"),
    ]


# --- what is bad


def test_existing_files_are_not_overwritten(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = str(voc / "SegmentationClass")
    Path("out.json").write_text("mine")
    assert main(["export", "coco", masks, "out.json"]) == 2
    assert "out.json exists: name another file, or overwrite it with --force" in capsys.readouterr().err
    assert Path("out.json").read_text() == "mine"
    assert main(["export", "coco", masks, "out.json", "--force"]) == 0
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    assert main(["export", "voc", masks, "out"]) == 2
    assert "out exists, and its masks may have been corrected by hand" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


BAD = {
    "no folder": (lambda root: None, "gone", "The folder of masks gone does not exist"),
    "no mask": (lambda root: (root / "empty").mkdir(), "voc/empty", "voc/empty holds no mask"),
    "no classes": (lambda root: (root / "classes.txt").unlink(), "voc/SegmentationClass", "name their file with --cl"),
    "no photographs": (
        lambda root: (root / "JPEGImages").rename(root / "photos"), "voc/SegmentationClass", "with --photographs"
    ),
    "no photograph": (
        lambda root: (root / "JPEGImages/b2.jpg").unlink(), "voc/SegmentationClass", "b2.png has no photograph in"
    ),
    "size": (
        lambda root: write_mask(root / "SegmentationClass/b2.png", np.zeros((9, 7), np.uint8)),
        "voc/SegmentationClass", "b2.png is 7x9, its photograph voc/JPEGImages/b2.jpg 47x33",
    ),
    "label": (
        lambda root: write_mask(root / "SegmentationClass/b2.png", np.full((33, 47), 4, np.uint8)),
        "voc/SegmentationClass", "b2.png holds the label 4, but there are 3 classes",
    ),
    "broken": (
        lambda root: (root / "SegmentationClass/b2.png").write_bytes(b"no"), "voc/SegmentationClass", "b2.png is broken"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("target", ["coco", "voc"])
def test_bad_masks_are_reported_and_nothing_is_written(
    voc: Path, capsys: pytest.CaptureFixture[str], fault: str, target: str
) -> None:
    damage, folder, told = BAD[fault]
    damage(voc)
    assert main(["export", target, folder, "out"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not Path("out").exists()


def test_other_faults_of_a_run_and_of_predictions_are_reported(
    run: Path, predicted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, told in (
        (run / "predictions", "are masks of one image: name the folder of one of them"),
        (run, "are masks of one image"),
    ):
        assert main(["export", "coco", str(folder), "x.json"]) == 2
        assert told in capsys.readouterr().err
    write_mask(run / "refined/0/best/z.png", np.zeros((3, 3), np.uint8))
    assert main(["export", "coco", str(run / "refined"), "x.json"]) == 2
    assert "z.png belongs to no image of" in capsys.readouterr().err
    Path("photos/a/x 1.jpg").unlink()
    assert main(["export", "voc", "out", "x"]) == 2
    assert "x 1.jpg does not exist" in capsys.readouterr().err
    (predicted / "predictions.json").write_text("{}")
    assert main(["export", "voc", "out", "x"]) == 2
    assert "is not a file of `rca predict`" in capsys.readouterr().err
    assert main(["export", "voc", str(run / "predictions/val"), "x", "--split", "../x"]) == 2
    assert "'../x' cannot name a split: use up to 100 letters, digits" in capsys.readouterr().err


def test_classes_and_photographs_may_be_named(voc: Path) -> None:
    (voc / "classes.txt").rename("names.txt")
    (voc / "JPEGImages").rename("photos")
    arguments = [str(voc / "SegmentationClass"), "out", "--classes", "names.txt", "--photographs", "photos"]
    assert main(["export", "voc", *arguments]) == 0
    assert read_back(Path("out")).classes == CLASSES


# --- what rca writes, rca reads


@pytest.mark.parametrize("components", [False, True])
def test_a_dataset_in_coco_layout_comes_back_from_its_export(voc: Path, tmp_path: Path, components: bool) -> None:
    """With pixels of 255 undecided again, and an image without an object."""
    flags = ["--components"] if components else []
    assert main(["export", "coco", str(voc / "SegmentationClass"), "voc/train.json", *flags]) == 0
    settings = CocoSettings(
        name="back",
        format="coco",
        splits=("train",),
        annotations="{split}.json",
        images="JPEGImages",
        unannotated="background",
    )
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    notes: list[str] = []
    back = read_dataset(voc, settings, drawn=drawn, draw_into=drawn, report=notes.append)
    assert back.classes == CLASSES
    assert [record.id for record in back.images] == NAMES
    for record in back.images:
        original = read_mask(voc / f"SegmentationClass/{record.id}.png")
        assert (read_mask(back.truth(record)) == original).all()
        assert {tag + 1 for tag in record.tags} == set(np.unique(original).tolist()) - {0, 255}
    assert any("the category ignore is no class: its" in note and "are undecided" in note for note in notes)


def test_masks_that_a_tool_wrote_in_the_colours_of_the_label_map_come_back(voc: Path, tmp_path: Path) -> None:
    """As CVAT exports them: RGB, the label map alone, and in another order."""
    assert main(["export", "voc", str(voc / "SegmentationClass"), "out"]) == 0
    for path in Path("out/SegmentationClass").iterdir():
        with Image.open(path) as picture:
            picture.convert("RGB").save(path)
    first, *lines = Path("out/labelmap.txt").read_text().splitlines()
    Path("out/labelmap.txt").write_text("\r\n".join([first, *reversed(lines)]) + "\r\n")
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    settings = VocSettings(name="back", format="voc", splits=("train",))
    back = read_dataset(Path("out"), settings, drawn=drawn, draw_into=drawn)
    assert back.classes == CLASSES
    for record in back.images:
        assert (read_mask(back.truth(record)) == read_mask(voc / f"SegmentationClass/{record.id}.png")).all()
