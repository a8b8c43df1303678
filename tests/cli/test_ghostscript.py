"""A picture that is a program is never run: Ghostscript does not start, whatever a file's suffix and its reader."""

import json
from pathlib import Path

import numpy as np
import pytest
from ghostscript import EPS, SUFFIXES, set_trap
from PIL import Image
from segmenters import write_model

import rca
from rca.cli.main import main
from rca.core.errors import UserError
from rca.core.files import read_mask, read_photograph
from rca.core.images import SUFFIXES as READ
from rca.data.formats.dataset import build_dataset_settings, examine_dataset
from rca.prediction.inputs import read_image, read_size

TELL = "none of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return set_trap(tmp_path, monkeypatch)


def save(path: Path, channels: int = 3, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels if channels == 3 else np.full((40, 40), value, np.uint8)).save(path)


def plant(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(EPS)


def test_the_trap_works(mark: Path) -> None:
    """Pillow left to itself starts the program: the tests below can fail."""
    plant(Path("evil.jpg"))
    with pytest.raises(Exception), Image.open("evil.jpg") as image:  # noqa: B017, PT011, the program draws nothing
        image.load()
    assert mark.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_reader_starts_it(mark: Path, suffix: str) -> None:
    path = Path(f"evil{suffix}")
    plant(path)
    for read in (read_photograph, read_mask, read_image, read_size):
        with pytest.raises(UserError, match=TELL):
            read(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", sorted({*READ, ".JPG"}))
@pytest.mark.parametrize("layout", ["folder", "voc", "coco"])
def test_no_check_of_a_dataset_starts_it(mark: Path, layout: str, suffix: str) -> None:
    """The suffixes that a dataset's files may have; a file of another suffix is none of its pictures."""
    folders = {
        "folder": ("images", "masks"),
        "voc": ("JPEGImages", "SegmentationClass"),
        "coco": ("train2014", "masks"),
    }
    photographs, masks = folders[layout]
    save(Path(f"set/{photographs}/good.png"))
    save(Path(f"set/{photographs}/masked.png"))
    plant(Path(f"set/{photographs}/evil{suffix}"))
    plant(Path(f"set/{masks}/masked{suffix}"))
    plant(Path(f"set/saliency/good{suffix}"))
    names = ("good", "masked", "evil")
    if layout == "folder":
        Path("set/tags.csv").write_text("\n".join(["id,tags,split", *(f"{name},cat,train" for name in names)]))
    elif layout == "voc":
        save(Path("set/SegmentationClass/good.png"), 1, 1)
        Path("set/classes.txt").write_text("cat\n")
        Path("set/ImageSets/Segmentation").mkdir(parents=True)
        Path("set/ImageSets/Segmentation/train.txt").write_text("\n".join(names))
    else:
        write_coco(Path("set/annotations/instances_train2014.json"), suffix)
    data = {"name": "x", "format": layout, "splits": ["train"], "saliency": "saliency"}
    faults = examine_dataset(Path("set"), build_dataset_settings(data, "params.yaml")).faults
    broken = {(fault.kind, Path(fault.file).name) for fault in faults if TELL in fault.sentence}
    assert ("undecodable photograph", f"evil{suffix}") in broken
    if layout != "coco":
        assert ("undecodable mask", f"masked{suffix}") in broken
    assert ("undecodable saliency map", f"good{suffix}") in broken
    assert not mark.exists()


def write_coco(path: Path, suffix: str) -> None:
    files = ("good.png", "masked.png", f"evil{suffix}")
    images = [{"id": n, "file_name": file, "height": 40, "width": 40} for n, file in enumerate(files)]
    shape = [[2, 2, 20, 2, 20, 20, 2, 20]]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "segmentation": shape, "iscrowd": 0} for n in range(3)]
    path.parent.mkdir(parents=True)
    categories = [{"id": 1, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_command_starts_it(mark: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    write_model(Path("good.safetensors"))
    Path("c.txt").write_text("cat\n")
    evil = f"evil{suffix}"
    plant(Path("photos") / evil)
    save(Path("masks/evil.png"), 1, 1)
    plant(Path("broken/evil.png"))  # the commands below read masks of this suffix alone
    commands = [
        ["predict", "good.safetensors", f"photos/{evil}", "--out", "out"],
        ["score", "--predictions", "broken", "--truth", "masks"],
        ["score", "--predictions", "masks", "--truth", "broken"],
        ["export", "voc", "broken", "new", "--classes", "c.txt", "--photographs", "photos"],
        ["export", "coco", "broken", "new.json", "--classes", "c.txt", "--photographs", "photos"],
    ]
    for command in commands:
        assert main(command) == 2, command
        text = capsys.readouterr().err
        assert text.count("\n") == 1, text
    main(["export", "voc", "masks", "copied", "--classes", "c.txt", "--photographs", "photos"])  # it may copy the file
    with pytest.raises(UserError, match=TELL):
        rca.load("good.safetensors").predict(f"photos/{evil}")
    assert not mark.exists()
