"""Find the photographs that a user names, by files, folders and patterns, and read them."""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.images import PICTURE_FAULTS, PictureError, has_deep_channels, open_picture

# The suffixes of photographs in folders and patterns; a named file may have any format that Pillow reads.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
# The most pixels of a photograph: 3 GiB as RGB.
MOST_PIXELS = 1 << 30
# EXIF's tag for the orientation, and its value for a picture that is stored upright.
ORIENTATION, UPRIGHT = 0x0112, 1

ImageLike = str | Path | Image.Image | UInt8Array


def find_images(names: Sequence[str], skipped: Path | None = None) -> list[Path]:
    """Find photographs.

    Args:
        names: Files, folders (with all folders below them) and glob patterns (`**` for folders at any depth).
        skipped: A folder that folders and patterns leave out, e.g. that of earlier results.

    Returns:
        Each file once, those of a folder or a pattern sorted, without hidden files.

    Raises:
        UserError: a file is missing, or a folder or a pattern yields no photograph.
    """
    images: dict[str, Path] = {}
    for name in names:
        for path in _expand(name, skipped):
            images.setdefault(os.path.abspath(path), path)
    return list(images.values())


def _expand(name: str, skipped: Path | None) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        # Not Path.rglob, which finds hidden files too.
        files, where = glob.iglob("**", root_dir=path, recursive=True), f"is in the folder {name}"
    elif glob.has_magic(name):
        files, where = glob.iglob(name, recursive=True), f"fits the pattern {name}"
        path = Path()
    else:
        raise UserError(f"The image {name} does not exist: name files, folders or patterns.")
    images = [path / file for file in files if Path(file).suffix.lower() in SUFFIXES and (path / file).is_file()]
    if skipped is not None:
        images = [image for image in images if not image.absolute().is_relative_to(skipped.absolute())]
    if not images:
        raise UserError(f"No image ({', '.join(sorted(SUFFIXES))}) {where}: name another.")
    return sorted(images)


def read_size(path: Path) -> tuple[int, int]:
    """Read a photograph's header.

    Returns:
        Width and height as stored; the EXIF orientation may swap them.

    Raises:
        UserError: the file is missing or broken, or cannot be segmented.
    """
    with open_image(path, decode=False) as image:
        return image.size


def read_image(image: ImageLike) -> UInt8Array:
    """Read a photograph.

    Args:
        image: A path or a Pillow image, which is rotated as its EXIF orientation says, or an array (H, W, 3), uint8,
            RGB.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        UserError: the file is missing or broken, or the image does not have 8 bits a channel.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise UserError(f"An image must be an array (H, W, 3) of uint8, not {image.shape} of {image.dtype}.")
        return image
    if isinstance(image, Image.Image):
        if has_deep_channels(image):
            raise UserError(f"The image has more than 8 bits a channel: {PICTURE_FAULTS['16-bit']}.")
        return _decode(image)
    with open_image(Path(image)) as opened:
        return _decode(opened)


def is_upright(image: Image.Image) -> bool:
    """Whether a picture is stored upright."""
    return _read_orientation(image) == UPRIGHT


def measure_upright(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture once it is upright."""
    is_sideways = _read_orientation(image) >= 5
    return (image.height, image.width) if is_sideways else (image.width, image.height)


def _read_orientation(image: Image.Image) -> int:
    # A PNG may hold it behind its pixels, which Pillow then decodes.
    value = image.getexif().get(ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def _decode(image: Image.Image) -> UInt8Array:
    """The pixels, without needless copies: a large image takes gigabytes."""
    if not is_upright(image):
        image = ImageOps.exif_transpose(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


@contextmanager
def open_image(path: Path, decode: bool = True) -> Iterator[Image.Image]:
    """Open a photograph of at most `MOST_PIXELS`.

    Args:
        path: The file.
        decode: Whether to decode the pixels, or to read only the header.

    Raises:
        UserError: the file is missing or broken, too large, or has more than 8 bits a channel.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with open_picture(path, "photograph", MOST_PIXELS, decode) as image:
            yield image
    except PictureError as error:
        advice = PICTURE_FAULTS[error.fault].replace("take it off the lists", "leave it out")
        raise UserError(f"{error.statement}: {advice}.") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
