"""The archive for VOC's server: what it holds, and that its checker refuses whatever breaks a rule."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.cli.main import main
from rca.core.errors import UserError
from rca.core.files import PALETTE, write_mask
from rca.data.formats.voc import VOC_CLASSES
from rca.data.manifest import ImageRecord, Manifest, write_manifest
from rca.exporting.voc_test import check_voc_test

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
SIZES = {"2008_000006": (12, 9), "2008_000011": (8, 10), "2012_004331": (7, 7)}  # width, height
MASKS = Path("runs/voc2012/rca/0/predictions/test")


def draw(name: str) -> np.ndarray:
    width, height = SIZES[name]
    return np.random.default_rng(len(name) + width).integers(0, 21, (height, width)).astype(np.uint8)


@pytest.fixture(autouse=True)
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A run on VOC with masks of its test images; the photographs by id."""
    monkeypatch.chdir(tmp_path)
    root = Path("data/voc2012")
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    MASKS.mkdir(parents=True)
    records, found = [], {}
    for name, (width, height) in SIZES.items():
        found[name] = root / f"JPEGImages/{name}.jpg"
        Image.new("RGB", (width, height)).save(found[name])
        write_mask(MASKS / f"{name}.png", draw(name))
        records.append(ImageRecord(name, f"JPEGImages/{name}.jpg", None, width, height, (), ("test",), "main", ""))
    (root / "ImageSets/Segmentation/test.txt").write_text("".join(f"{name}\n" for name in SIZES))
    write_manifest(Path("runs/voc2012/data"), Manifest(root, VOC_CLASSES, tuple(records)))
    return found


def export(*arguments: str) -> int:
    return main(["export", "voc-test", str(MASKS), "results.tgz", *arguments])


@pytest.mark.parametrize("arguments", [(), ("--list", "data/voc2012/ImageSets/Segmentation/test.txt")])
def test_the_archive_holds_the_masks_of_the_list(arguments: tuple[str, ...]) -> None:
    write_mask(MASKS / "2007_000032.png", draw("2012_004331"))  # an image of another list
    assert export(*arguments) == 0
    with tarfile.open("results.tgz", "r:gz") as archive:
        assert sorted(archive.getnames()) == [f"{FOLDER}/{name}.png" for name in sorted(SIZES)]
        for name, size in SIZES.items():
            content = archive.extractfile(f"{FOLDER}/{name}.png")
            assert content is not None
            with Image.open(content) as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "P", size)
                assert (np.array(picture) == draw(name)).all()
                colours = np.array(picture.convert("RGB"))
            # VOC's colours, written down: of background, aeroplane, bicycle and tvmonitor.
            for label, colour in {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 20: (0, 64, 128)}.items():
                assert (colours[draw(name) == label] == colour).all()


def test_the_same_masks_give_the_same_bytes_and_nothing_is_overwritten(capfd: pytest.CaptureFixture[str]) -> None:
    assert export() == 0
    assert "3 masks in results/VOC2012/Segmentation/comp6_test_cls, checked against the server's rules" in (
        capfd.readouterr().out
    )
    first = Path("results.tgz").read_bytes()
    assert export() == 2
    assert "results.tgz exists: name another file, or overwrite it with --force." in capfd.readouterr().err
    assert export("--force") == 0
    assert Path("results.tgz").read_bytes() == first
    assert export("--force", "--competition", "comp5") == 0
    with tarfile.open("results.tgz") as archive:
        assert all(name.startswith("results/VOC2012/Segmentation/comp5_test_cls/") for name in archive.getnames())


def forget_a_mask() -> None:
    (MASKS / "2008_000011.png").unlink()


def leave_a_pixel_open() -> None:
    mask = draw("2008_000011")
    mask[0, 0] = 255
    write_mask(MASKS / "2008_000011.png", mask)


def turn_a_mask() -> None:
    write_mask(MASKS / "2008_000011.png", draw("2008_000011").T)


def use_other_classes() -> None:
    write_manifest(Path("runs/voc2012/data"), Manifest(Path("data/voc2012"), ("cat",), ()))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (forget_a_mask, "has no mask of 1 of the 3 images on the list (2008_000011, ...): name the folder"),
        (leave_a_pixel_open, "2008_000011.png holds the label 255, but the server knows 0 to 20: correct the mask."),
        (turn_a_mask, "2008_000011.png is 10x8, its photograph data/voc2012/JPEGImages/2008_000011.jpg 8x10: name"),
        (use_other_classes, "have other classes than VOC's 20: name those of a run on VOC."),
    ],
)
def test_what_the_server_would_refuse_is_not_written(
    spoil: Callable[[], None], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil()
    assert export() == 2
    assert told in capfd.readouterr().err
    assert not Path("results.tgz").exists()


def test_a_list_that_is_unknown_or_not_of_these_photographs_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    Path("elsewhere").mkdir()
    assert main(["export", "voc-test", "elsewhere", "results.tgz"]) == 2
    assert "elsewhere belongs to no run, so its list of images is unknown: name it with --list." in (
        capfd.readouterr().err
    )
    listed = Path("data/voc2012/ImageSets/Segmentation/test.txt")
    listed.write_text("2008_000006\n2099_000001\n")
    assert export("--list", str(listed)) == 2
    assert (
        "test.txt lists 1 photograph (2099_000001, ...) that are not in data/voc2012/JPEGImages"
        in capfd.readouterr().err
    )


def pack(members: dict[str, bytes]) -> Path:
    with tarfile.open("made.tgz", "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return Path("made.tgz")


def encode(name: str, palette: list[int] | None = PALETTE) -> bytes:
    picture, file = Image.fromarray(draw(name)), io.BytesIO()
    if palette is not None:
        picture.putpalette(palette)
    picture.save(file, format="PNG")
    return file.getvalue()


def test_the_checker_takes_an_archive_of_another_tool(photographs: dict[str, Path]) -> None:
    check_voc_test(pack({f"{FOLDER}/{name}.png": encode(name) for name in SIZES}), photographs, "comp6")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({f"{FOLDER}/2008_000006.png": None}, "lacks 1 of 3 masks"),
        ({f"{FOLDER}/2009_000001.png": encode("2012_004331")}, "2009_000001.png, which the server does not expect"),
        ({f"{FOLDER}/readme.txt": b"ours"}, "readme.txt, which the server does not expect"),
        ({f"{FOLDER}/2008_000006.png": encode("2008_000006", None)}, "is no indexed PNG with VOC's palette"),
        ({f"{FOLDER}/2008_000006.png": encode("2008_000006", PALETTE[::-1])}, "is no indexed PNG with VOC's palette"),
        ({f"{FOLDER}/2008_000006.png": encode("2012_004331")}, "is 7x7, its photograph"),
        ({f"{FOLDER}/2008_000006.png": b"no picture"}, "is no PNG"),
    ],
)
def test_the_checker_names_what_is_against_the_rules(
    photographs: dict[str, Path], change: dict[str, bytes | None], told: str
) -> None:
    members = {f"{FOLDER}/{name}.png": encode(name) for name in SIZES} | change
    with pytest.raises(UserError) as caught:
        check_voc_test(pack({name: one for name, one in members.items() if one is not None}), photographs, "comp6")
    assert told in str(caught.value)


def test_what_is_no_archive_is_told(photographs: dict[str, Path]) -> None:
    for content in (b"", b"text", gzip.compress(b"text" * 300), pack({"a": b"b"}).read_bytes()[:-20]):
        Path("broken.tgz").write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.tgz (is no archive that tar and gzip read|holds a, which)"):
            check_voc_test(Path("broken.tgz"), photographs, "comp6")
