import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from pictures import PIXELS, encode, write_png
from PIL import Image

from rca.core.files import read_mask, read_photograph
from rca.core.images import MAX_PIXELS, PICTURE_FAULTS, PictureError, open_picture

GREY_16 = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
BROKEN = {
    "empty": b"",
    "undecodable": b"hello",
    "truncated": encode("JPEG")[:-200],
    "zero-size": write_png(0, 7, 8, 2, b""),
    "oversized": write_png(9460, 9460, 8, 0, b""),
    "16-bit": encode("PNG", GREY_16),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_faults_of_a_photograph_are_named(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(BROKEN[fault])
    with pytest.raises(PictureError) as caught:
        read_photograph(path)
    assert caught.value.fault == fault
    assert str(caught.value) == f"{caught.value.statement}: {PICTURE_FAULTS[fault]}."
    assert str(path) in caught.value.statement


def test_a_missing_picture_and_a_mask_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError) as caught:
        read_mask(tmp_path / "mask.png")
    assert caught.value.fault == "missing"
    (tmp_path / "mask.png").write_bytes(encode("PNG", GREY_16))
    with pytest.raises(PictureError) as caught:
        read_mask(tmp_path / "mask.png")
    assert caught.value.fault == "wrong-mode"


def test_bombs_of_any_size_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    for side in (9460, 20_000, 100_000):
        assert side**2 > MAX_PIXELS
        path.write_bytes(write_png(side, side, 8, 0, b""))
        with pytest.raises(PictureError, match=f"has more than {MAX_PIXELS} pixels"):
            read_photograph(path)


@pytest.mark.parametrize(("depth", "colour", "bytes_a_pixel"), [(16, 0, 2), (16, 2, 6), (16, 4, 4), (16, 6, 8)])
def test_16_bits_a_channel_are_found_in_every_kind_of_png(
    tmp_path: Path, depth: int, colour: int, bytes_a_pixel: int
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(write_png(5, 3, depth, colour, (b"\0" + bytes(range(5 * bytes_a_pixel))) * 3))
    with pytest.raises(PictureError, match="more than 8 bits a channel"):
        read_photograph(path)


def test_16_bits_over_three_channels_are_accepted(tmp_path: Path) -> None:
    """A BMP of 16 bits a pixel holds 5 a channel."""
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    data = struct.pack("<HH", 31 << 10, 31)  # red, blue
    path = tmp_path / "photo.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + header + data)
    np.testing.assert_array_equal(read_photograph(path), [[[255, 0, 0], [0, 0, 255]]])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_file_cut_anywhere_is_refused_or_read_whole(tmp_path: Path, form: str) -> None:
    """No exception but the named one, and never other pixels than those of the whole file."""
    path, whole = tmp_path / "photo", encode(form)
    path.write_bytes(whole)
    expected = read_photograph(path)
    errors = []
    for length in range(0, len(whole), max(1, len(whole) // 97)):
        path.write_bytes(whole[:length])
        try:
            np.testing.assert_array_equal(read_photograph(path), expected)
        except PictureError as error:
            errors.append(error)
    assert len(errors) > 90
    assert {error.fault for error in errors} <= {"empty", "truncated", "undecodable"}
    assert not any("\n" in str(error) for error in errors)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_damaged_bytes_raise_nothing_else(tmp_path: Path, form: str) -> None:
    path, whole = tmp_path / "photo", encode(form)
    random = np.random.default_rng(0)
    faults = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), 400), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_photograph(path)
        except PictureError as error:
            faults.add(error.fault)
    assert "undecodable" in faults
    assert faults <= set(PICTURE_FAULTS)


def test_pixels_are_read_as_stored(tmp_path: Path) -> None:
    """An EXIF tag that asks to turn the picture is left aside: masks lie on the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    path.write_bytes(encode("PNG", exif=exif))
    np.testing.assert_array_equal(read_photograph(path), PIXELS)


def test_the_error_survives_pickling(tmp_path: Path) -> None:
    with pytest.raises(PictureError) as caught, open_picture(tmp_path / "photo.jpg", "photograph"):
        pass
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (str(again), again.fault, again.statement) == (str(caught.value), "missing", caught.value.statement)
