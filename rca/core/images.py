"""Opening pictures from other sources: faults are named, and nothing is guessed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.reading import check_file


class PictureError(UserError):
    """A picture that cannot be read without guessing.

    Attributes:
        fault: One of `PICTURE_FAULTS`.
        statement: The message without its advice.
    """

    fault: str
    statement: str


# The faults that keep a picture from being read, and what to do.
PICTURE_FAULTS = {
    "missing": "restore it or take it off the lists",
    "empty": "copy it again or take it off the lists",
    "truncated": "copy it again or take it off the lists",
    "undecodable": "replace it or take it off the lists",
    "zero-size": "replace it or take it off the lists",
    "oversized": "scale it down or take it off the lists",
    "16-bit": "save it with 8 bits a channel",
    "wrong-mode": "write its labels as numbers in one 8-bit channel, or list its colours in labelmap.txt",
}
# The only formats that are opened, whatever a file's suffix: Pillow reads others by starting programs (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# The suffixes of pictures that are looked for, in any case.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
# The size from which Pillow warns of a decompression bomb.
MAX_PIXELS = 89_478_485


@contextmanager
def open_picture(path: Path, what: str, max_pixels: int = MAX_PIXELS, decode: bool = True) -> Iterator[ImageFile]:
    """Open a picture.

    Args:
        path: The file.
        what: Its name in messages.
        max_pixels: The most pixels allowed; above `MAX_PIXELS`, Pillow's own limit must be lifted too.
        decode: Whether to decode the pixels, or to read only the header.

    Raises:
        PictureError: the file is missing, broken, too large or of another format, or a photograph has more than 8 bits
            a channel.
    """
    with _name_fault(path, what, max_pixels), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such a picture is refused below
        check_file(path, f"The {what}")
        image = Image.open(path, formats=FORMATS)
    with image:
        with _name_fault(path, what, max_pixels):
            is_deep = has_deep_channels(image)
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            if decode:
                image.load()  # a truncated file shows only when its pixels are read
        if is_deep and what == "photograph":
            raise _refuse("16-bit", f"The {what} {path} has more than 8 bits a channel")
        yield image


def decode_mask(image: Image.Image, path: Path, what: str = "mask") -> UInt8Array:
    """`rca.core.files.read_mask` for a picture that `open_picture` opened."""
    if image.mode not in ("P", "L"):
        raise _refuse("wrong-mode", f"The {what} {path} is a {image.mode} picture, not one 8-bit channel")
    return np.array(image, dtype=np.uint8)


def decode_photograph(image: Image.Image, path: Path) -> UInt8Array:
    """`rca.core.files.read_photograph` for a picture that `open_picture` opened."""
    with _name_fault(path, "photograph"):
        return np.array(image.convert("RGB"))


@contextmanager
def _name_fault(path: Path, what: str, max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise _refuse("missing", f"The {what} {path} does not exist") from None
    except UserError as error:
        raise _refuse("undecodable", str(error).rpartition(": ")[0]) from None
    except Image.DecompressionBombError:
        raise _refuse("oversized", f"The {what} {path} has more than {max_pixels} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # broken bytes raise all sorts: SyntaxError, TypeError, struct.error, ...
        fault, reason = _diagnose(path, error)
        raise _refuse(fault, f"The {what} {path} is broken ({reason})") from None


def _refuse(fault: str, statement: str) -> PictureError:
    error = PictureError(f"{statement}: {PICTURE_FAULTS[fault]}.")
    error.fault, error.statement = fault, statement
    return error


def has_deep_channels(image: Image.Image) -> bool:
    """Whether a picture stores more than 8 bits a channel; to be called before a file is decoded.

    Pillow drops the lower half of 16-bit colours and clips 16-bit grey to white.
    """
    return image.mode[0] in "IF" or any(
        ";16" in mode and "BGR" not in mode  # BGR;16 is 16 bits for all three channels
        for mode in (str(tile[3]) for tile in getattr(image, "tile", ()))  # the codec's name for what it stores
    )


def _diagnose(path: Path, error: Exception) -> tuple[str, str]:
    """The fault of a file that Pillow cannot read, and the reason."""
    reason = str(error).split("\n")[0] or type(error).__name__
    if isinstance(error, OSError) and error.errno:
        return "undecodable", str(error.strerror)
    if isinstance(error, UnicodeEncodeError):
        return "undecodable", f"its name cannot be written in {error.encoding}"
    if isinstance(error, UnidentifiedImageError):
        reason = f"its content is none of {', '.join(FORMATS)}"
        with open(path, "rb") as file:
            head = file.read(24)
        if not head:
            return "empty", "its file is empty"
        # Pillow does not identify a PNG without pixels; its width and height follow 16 bytes.
        if head.startswith(b"\x89PNG") and b"\0\0\0\0" in (head[16:20], head[20:24]):
            return "zero-size", "it has no pixels"
    return ("truncated" if "truncated" in reason.lower() else "undecodable"), reason
