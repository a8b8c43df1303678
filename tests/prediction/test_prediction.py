import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segmenters import PROVENANCE, build, write_model

import rca
from rca.cli.main import build_parser, main
from rca.core.errors import UserError
from rca.core.files import PALETTE, hash_file, read_mask
from rca.prediction.inputs import read_image, read_size
from rca.prediction.tiling import PredictionOptions
from rca.segmentation.network import load_segmenter
from rca.segmentation.predict import PredictionSettings, predict_mask


def draw(height: int = 45, width: int = 58, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save(path: Path, image: np.ndarray | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw() if image is None else image).save(path, **options)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "segmenter.safetensors")


@pytest.fixture
def here(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a model, and photographs of one name in two folders."""
    save(tmp_path / "a/x.png")
    save(tmp_path / "b/x.png", draw(33, 47, 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- in Python


@pytest.mark.parametrize("form", ["path", "text", "picture", "array"])
def test_an_image_is_predicted_in_every_form(model: Path, tmp_path: Path, form: str) -> None:
    path = save(tmp_path / "x.png")
    image = {"path": path, "text": str(path), "picture": Image.open(path), "array": draw()}[form]
    prediction = rca.load(model, "cpu").predict(image)
    assert (prediction.mask == predict_mask(load_segmenter(model), draw(), PredictionSettings())).all()
    assert prediction.mask.dtype == np.uint8
    assert prediction.confidence.shape == prediction.mask.shape == (45, 58)
    assert prediction.confidence.dtype == np.float32
    assert prediction.confidence.min() >= 0.25  # the best of four labels
    assert prediction.confidence.max() <= 1


def test_classes_and_areas_are_those_of_the_mask(model: Path) -> None:
    prediction = rca.load(str(model)).predict(draw(301, 58), flip=False)
    truth = {int(label): prediction.mask == label for label in np.unique(prediction.mask)}
    assert [one.label for one in prediction.labels] == sorted(truth)
    assert prediction.classes == tuple(" abc"[label] for label in sorted(truth) if label)
    assert len(prediction.classes) > 1
    assert prediction.areas == {" abc"[label]: where.sum() for label, where in truth.items() if label}
    for one in prediction.labels:
        assert one.name == ("background", "a", "b", "c")[one.label]
        assert one.share == truth[one.label].mean()
        assert one.confidence == pytest.approx(prediction.confidence[truth[one.label]].mean(dtype=float), abs=1e-6)


def test_a_picture_is_rotated_upright_before_prediction(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = save(tmp_path / "x.png", exif=exif)
    prediction = rca.load(model).predict(path)
    assert prediction.mask.shape == (58, 45)
    assert (read_image(path) == np.rot90(draw(), -1)).all()


def test_images_up_to_a_gigapixel_are_read(tmp_path: Path) -> None:
    def write_header(width: int, height: int) -> Path:
        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"
        (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
        return tmp_path / "x.png"

    bound = Image.MAX_IMAGE_PIXELS
    assert read_size(write_header(40_000, 10_000)) == (40_000, 10_000)
    with pytest.raises(UserError, match=r"x\.png has more than 1073741824 pixels: scale it down or leave it out\."):
        read_size(write_header(40_000, 40_000))
    assert bound == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_8_bits_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(draw()).convert(mode)
    picture.save(tmp_path / "x.tif")
    assert (read_image(tmp_path / "x.tif") == np.asarray(picture.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((4, 5), np.uint8), "(4, 5) of uint8"),
        (np.zeros((4, 5, 3), np.float32), "of float32"),
        (np.zeros((0, 5, 3), np.uint8), "(0, 5, 3)"),
        (Image.new("I;16", (4, 5)), "more than 8 bits a channel: save it with 8 bits"),
        ("gone.jpg", "gone.jpg does not exist"),
    ],
)
def test_bad_images_are_reported(model: Path, image: object, told: str) -> None:
    with pytest.raises(UserError) as caught:
        rca.load(model).predict(image)  # type: ignore[arg-type]
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tile": 100}, "options.tile is 100: input should be a multiple of 32"),
        ({"tile": 64, "overlap": 64}, "overlap is 64: it may be at most half of the tile (64)"),
        ({"scales": [0.5, 0]}, "options.scales.1 is 0"),
        ({"scales": []}, "options.scales"),
        ({"crf": True}, "options.crf is an unknown key"),
    ],
)
def test_a_bad_option_is_reported(model: Path, options: dict, told: str) -> None:
    with pytest.raises(UserError) as caught:
        rca.load(model).predict(draw(), **options)
    assert told in str(caught.value)


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_missing_device_is_reported(model: Path, device: str) -> None:
    with pytest.raises(UserError, match=f"There is no device {device} here"):
        rca.load(model, device)


def test_importing_rca_loads_nothing_else() -> None:
    script = "import sys, rca; assert not {'torch', 'numpy', 'PIL', 'pydantic'} & set(sys.modules); rca.load"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- on the command line


def test_photographs_become_masks_overlays_and_a_summary(here: Path) -> None:
    assert main(["predict", "segmenter.safetensors", "a", "b/x.png", "a/x.png", "--out", "out"]) == 0
    summary = json.loads((here / "out/predictions.json").read_text())
    assert [one["image"] for one in summary["images"]] == ["../a/x.png", "../b/x.png"]
    assert summary["broken"] == []
    loaded = rca.load("segmenter.safetensors")
    for one, image in zip(summary["images"], (draw(), draw(33, 47, 1)), strict=True):
        expected = loaded.predict(image)
        mask = here / "out" / one["mask"]
        assert (read_mask(mask) == expected.mask).all()
        with Image.open(mask) as picture:
            assert picture.mode == "P"
            assert picture.getpalette() == PALETTE
        assert (one["height"], one["width"]) == image.shape[:2]
        assert [(each["name"], each["pixels"]) for each in one["classes"]] == [
            (each.name, each.pixels) for each in expected.labels
        ]
        with Image.open(here / "out" / one["overlay"]) as picture:
            assert picture.width >= 480
    about = summary["model"]
    assert about["sha256"] == hash_file(here / "segmenter.safetensors")
    assert about["provenance"] == vars(PROVENANCE)
    assert about["classes"] == ["a", "b", "c"]
    assert about["options"] == json.loads(PredictionOptions().model_dump_json())


def list_masks(out: Path) -> set[str]:
    return {path.relative_to(out / "masks").as_posix() for path in out.rglob("masks/**/*.png")}


def test_names_never_collide(here: Path) -> None:
    save(here / "a/x.jpg")
    save(here / "a/X.bmp")
    save(here / "a/deep/y.webp")
    (here / "a/notes.txt").write_text("no image")
    save(here / "a/.hidden/z.png")
    assert main(["predict", "segmenter.safetensors", "a", "b"]) == 0
    out = here / "predictions"
    assert list_masks(out) == {"a/X.png", "a/x.jpg.png", "a/x.png.png", "a/deep/y.png", "b/x.png"}
    assert len({path.as_posix().casefold() for path in out.rglob("overlays/**/*.jpg")}) == 5


@pytest.mark.parametrize("pattern", ["*/x.png", "**/*.png", "[ab]/x.*"])
def test_a_quoted_pattern_finds_what_the_shell_would(here: Path, pattern: str) -> None:
    (here / "a/x.txt").write_text("no image")
    assert main(["predict", "segmenter.safetensors", pattern, "--out", "out"]) == 0
    assert list_masks(here / "out") == {"a/x.png", "b/x.png"}


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(here: Path) -> None:
    save(here / "a/x[1].png")
    assert main(["predict", "segmenter.safetensors", "a/x[1].png"]) == 0
    assert list_masks(here / "predictions") == {"x[1].png"}


def test_earlier_results_are_kept_unless_forced_and_never_taken_for_photographs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "segmenter.safetensors", "."]
    assert main(arguments) == 0
    kept = {path: path.read_bytes() for path in (here / "predictions").rglob("*.*")}
    save(here / "a/x.png", draw(seed=5))
    assert main(arguments) == 2
    assert "predictions.json exists: name another folder with --out, or overwrite" in capsys.readouterr().err
    assert kept == {path: path.read_bytes() for path in (here / "predictions").rglob("*.*")}
    assert main([*arguments, "--force"]) == 0
    assert kept.keys() == set((here / "predictions").rglob("*.*"))
    assert (
        read_mask(here / "predictions/masks/a/x.png") == rca.load("segmenter.safetensors").predict(draw(seed=5)).mask
    ).all()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


BAD: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "no file": (lambda path: None, ["a/gone.png"], "a/gone.png does not exist"),
    "no folder": (lambda path: None, ["gone/*.png"], "fits the pattern gone/*.png: name another"),
    "empty folder": (lambda path: (path / "c").mkdir(), ["c"], "is in the folder c: name another"),
    "text": (lambda path: (path / "a/t.jpg").write_text("hello"), ["a"], "a/t.jpg is broken ("),
    "16 bits": (
        lambda path: Image.fromarray(np.zeros((4, 4), np.uint16)).save(path / "a/t.png"), ["a"],
        "a/t.png has more than 8 bits a channel: save it",
    ),
    "no model": (lambda path: (path / "segmenter.safetensors").unlink(), ["a"], "segmenter.safetensors does not exist"),
    "other model": (
        lambda path: (path / "segmenter.safetensors").write_bytes(b"no"), ["a"], "segmenter.safetensors is broken"
    ),
    "bad option": (lambda path: None, ["a", "--tile", "33"], "tile is 33"),
    "no device": (lambda path: None, ["a", "--device", "abacus"], "There is no device abacus"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_reported_before_any_work(here: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    spoil, arguments, told = BAD[fault]
    spoil(here)
    assert main(["predict", "segmenter.safetensors", "b", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert not (here / "predictions").exists()


def test_an_image_that_turns_out_to_be_broken_does_not_stop_the_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(here / "a/x.png")
    assert main(["predict", "segmenter.safetensors", "a", "b"]) == 2
    summary = json.loads((here / "predictions/predictions.json").read_text())
    assert [one["image"] for one in summary["images"]] == ["../b/x.png"]
    assert [one["image"] for one in summary["broken"]] == ["../a/x.png"]
    assert list_masks(here / "predictions") == {"b/x.png"}
    first, last = capsys.readouterr().err.splitlines()
    assert "a/x.png is broken (image file is truncated" in first
    assert "1 of 2 images could not be read" in last


def test_photographs_far_larger_than_the_trainings_are_noted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(here / "large.png", draw(240, 120))
    assert main(["predict", "segmenter.safetensors", "a", "--out", "small"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["predict", "segmenter.safetensors", "large.png", "--out", "large"]) == 0
    assert "use `--scales 0.25 --tile 256`" in capsys.readouterr().err
    arguments = ["large.png", "--scales", "0.25", "--tile", "256", "--overlap", "32", "--no-flip"]
    assert main(["predict", "segmenter.safetensors", *arguments]) == 0
    assert capsys.readouterr().err == ""
    mask = rca.load("segmenter.safetensors").predict(here / "large.png", scales=(0.25,), flip=False, overlap=32).mask
    assert (read_mask(here / "predictions/masks/large.png") == mask).all()


def test_the_help_names_the_true_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    defaults = PredictionOptions()
    for name, default in (("tile", defaults.tile), ("overlap", defaults.overlap), ("batch-size", defaults.batch_size)):
        assert f"(default: {default})" in text.split(f" --{name} N ")[-1].split(" --")[0]
    assert defaults.scales == (1.0,)
    assert defaults.flip


def test_a_model_without_provenance_predicts(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", build("deeplab_v2"))
    assert rca.load(path).describe()["provenance"] is None
    assert rca.load(path).predict(draw()).mask.shape == (45, 58)
