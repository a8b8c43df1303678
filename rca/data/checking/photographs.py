"""Examine one photograph for faults."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from rca.core.images import PictureError, decode_photograph, open_picture
from rca.data.faults import Fault
from rca.data.formats.files import drop_suffix

# A backbone like VGG16 halves an image four times, so a smaller one would be left without a pixel.
MIN_SIDE = 16
# The values of EXIF's orientation that ask for a rotation or a mirroring; 1 asks for none, others are undefined.
TURNED = range(2, 9)
# Pillow's names of formats that users know by another name.
SAME_FORMAT = {"MPO": "JPEG"}


def examine_photograph(path: Path) -> tuple[tuple[int, int] | None, list[Fault]]:
    """Read a photograph; return its height and width, or None if it cannot be read, and its faults.

    Args:
        path: The file.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with open_picture(path, "photograph") as image:
                pixels = decode_photograph(image, path)
                faults = _describe_if_possible(image, path)
        except PictureError as error:
            other = _find_other(path) if error.fault == "missing" else None
            if other is not None:
                statement = f"The photograph {path} does not exist, but {other} is there"
                return None, [Fault("photograph of another name", str(path), statement)]
            return None, [Fault(f"{error.fault} photograph", str(path), error.statement)]
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        statement = f"The photograph {path} is {width}x{height}, less than {MIN_SIDE} pixels a side"
        faults.append(Fault("tiny photograph", str(path), statement))
    if (pixels == pixels[0, 0]).all():
        faults.append(Fault("blank photograph", str(path), f"The photograph {path} has only one colour"))
    messages = (str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
    for text in dict.fromkeys(messages):
        reason = " ".join(text.split()).rstrip(".")
        faults.append(Fault("odd photograph", str(path), f"Pillow reads the photograph {path}, but warns {reason!r}"))
    return (height, width), faults


def _find_other(path: Path) -> str | None:
    """A file beside a missing photograph that differs from it in its suffix, in case or in leading zeros alone."""
    try:
        names = sorted(os.listdir(path.parent))
    except (OSError, ValueError):
        return None
    wanted = drop_suffix(path.name).casefold().lstrip("0")
    return next((name for name in names if Path(name).stem.casefold().lstrip("0") == wanted), None)


def _describe_if_possible(image: ImageFile, path: Path) -> list[Fault]:
    """What is unusual about a decoded photograph, even if the rest of its file is broken."""
    try:
        return list(_describe(image, path))
    except Exception as error:  # of a broken EXIF block or second picture: IndexError, SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        statement = f"The photograph {path} can be read, but not the rest of its file ({reason})"
        return [Fault("odd photograph", str(path), statement)]


def _describe(image: ImageFile, path: Path) -> Iterator[Fault]:
    """What is unusual about a decoded photograph, according to its file."""
    orientation = image.getexif().get(Base.Orientation)
    if orientation in TURNED:
        statement = f"The photograph {path} has the EXIF orientation {orientation}, but is read as stored"
        yield Fault("turned photograph", str(path), statement)
    if image.mode == "CMYK":
        yield Fault("CMYK photograph", str(path), f"The photograph {path} is CMYK, and read without its colour profile")
    if image.has_transparency_data:
        statement = f"The photograph {path} has an alpha channel, and is read as if it were opaque"
        yield Fault("alpha channel", str(path), statement)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in SAME_FORMAT:
        statement = f"The photograph {path} holds {frames} pictures, and only the first is read"
        yield Fault("animation", str(path), statement)
    yield from compare_suffix(image, path, "photograph")


def compare_suffix(image: ImageFile, path: Path, what: str) -> Iterator[Fault]:
    """Check that a picture's suffix is that of its format.

    Args:
        image: The picture.
        path: Its file.
        what: "photograph" or "mask".
    """
    named = Image.registered_extensions().get(path.suffix.lower())
    actual = SAME_FORMAT.get(image.format or "", image.format)
    if named is not None and SAME_FORMAT.get(named, named) != actual:
        yield Fault(f"misnamed {what}", str(path), f"The {what} {path} is a {actual}, unlike its suffix")
