"""Opening pictures that others made: whatever is wrong with one is named, and nothing is read by guessing."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError


class PictureError(UserError):
    """A picture that cannot be read, or only by guessing.

    Attributes:
        fault: Which of `PICTURE_FAULTS` it has.
        statement: Its sentence without what to do.
    """

    fault: str
    statement: str


# What a picture can have that keeps it from being read, and what to do.
PICTURE_FAULTS = {
    "missing": "restore it or take it off the lists",
    "empty": "copy it anew or take it off the lists",
    "truncated": "copy it anew or take it off the lists",
    "undecodable": "replace it or take it off the lists",
    "zero-size": "replace it or take it off the lists",
    "oversized": "scale it down or take it off the lists",
    "16-bit": "save it with 8 bits a channel",
    "wrong-mode": "save it as an 8-bit PNG of one channel",
}
# Pillow's own bound, from which on it warns of a decompression bomb.
MAX_PIXELS = 89_478_485


@contextmanager
def open_picture(path: Path, what: str, max_pixels: int = MAX_PIXELS, decode: bool = True) -> Iterator[ImageFile]:
    """Give a picture.

    Args:
        path: The file.
        what: What messages call it.
        max_pixels: The most that it may have; above `MAX_PIXELS` only as far as Pillow's own bound is lifted.
        decode: Whether to decode all of it, or to read its header alone.

    Raises:
        PictureError: the file is missing, broken or absurdly large, or a photograph of more than 8 bits a channel.
    """
    with _name_fault(path, what, max_pixels), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such a picture is refused below
        image = Image.open(path)
    with image:
        with _name_fault(path, what, max_pixels):
            deep = has_deep_channels(image)
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            if decode:
                image.load()  # a truncated file shows only when its pixels are read
        if deep and what == "photograph":
            raise _refuse("16-bit", f"The {what} {path} has more than 8 bits a channel")
        yield image


def decode_mask(image: Image.Image, path: Path, what: str = "mask") -> UInt8Array:
    """The values of a picture that `open_picture` gave; otherwise as `rca.core.files.read_mask`."""
    if image.mode not in ("P", "L"):
        raise _refuse("wrong-mode", f"The {what} {path} is a {image.mode} picture, not one 8-bit channel")
    return np.array(image, dtype=np.uint8)


def decode_photograph(image: Image.Image, path: Path) -> UInt8Array:
    """The pixels of a picture that `open_picture` gave; otherwise as `rca.core.files.read_photograph`."""
    with _name_fault(path, "photograph"):
        return np.array(image.convert("RGB"))


@contextmanager
def _name_fault(path: Path, what: str, max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise _refuse("missing", f"The {what} {path} does not exist") from None
    except Image.DecompressionBombError:
        raise _refuse("oversized", f"The {what} {path} has more than {max_pixels} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # on broken bytes decoders raise all sorts: SyntaxError, TypeError, struct.error, ...
        fault, reason = _diagnose(path, error)
        raise _refuse(fault, f"The {what} {path} is broken ({reason})") from None


def _refuse(fault: str, statement: str) -> PictureError:
    error = PictureError(f"{statement}: {PICTURE_FAULTS[fault]}.")
    error.fault, error.statement = fault, statement
    return error


def has_deep_channels(image: Image.Image) -> bool:
    """Whether a picture stores more than 8 bits a channel; of a file, asked before it is decoded.

    Pillow would drop the lower half of 16-bit colours, and clip 16-bit grey to white.
    """
    return image.mode[0] in "IF" or any(
        ";16" in mode and "BGR" not in mode  # BGR;16 is 16 bits for all three channels
        for mode in (str(tile[3]) for tile in getattr(image, "tile", ()))  # how the codec names what it stores
    )


def _diagnose(path: Path, error: Exception) -> tuple[str, str]:
    """Which fault a file has that Pillow cannot read, and why."""
    reason = str(error).split("\n")[0] or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        with open(path, "rb") as file:
            head = file.read(24)
        if not head:
            return "empty", "its file is empty"
        # Pillow does not take a PNG without pixels for a picture at all; width and height follow 16 bytes.
        if head.startswith(b"\x89PNG") and b"\0\0\0\0" in (head[16:20], head[20:24]):
            return "zero-size", "it has no pixels"
    return ("truncated" if "truncated" in reason.lower() else "undecodable"), reason
