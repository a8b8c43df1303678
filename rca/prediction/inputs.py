"""Find the photographs that a user names, by files, folders and patterns, and read them."""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError, explain, quote
from rca.core.images import PICTURE_FAULTS, SUFFIXES, PictureError, has_deep_channels, open_picture
from rca.core.reading import check_file

# The most pixels of a photograph: 3 GiB as RGB.
MOST_PIXELS = 1 << 30
# EXIF's tag for the orientation, its value for a picture that is stored upright, and what turns the others upright.
ORIENTATION, UPRIGHT = 0x0112, 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ImageLike = str | Path | Image.Image | UInt8Array | Tensor


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
        if not name.strip():
            raise UserError("The name of an image is empty (an unset variable?): name files, folders or patterns.")
        for path in _expand(name, skipped):
            images.setdefault(os.path.abspath(path), path)
    return list(images.values())


def _expand(name: str, skipped: Path | None) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found, where = _match(("**",), path), f"is in the folder {quote(name)}"
    elif glob.has_magic(name) and not path.exists():
        found, where = _match(Path(name).parts, Path()), f"fits the pattern {quote(name)}"
    else:
        try:
            check_file(path, "The image")
        except FileNotFoundError:
            raise UserError(f"The image {quote(name)} does not exist: name files, folders or patterns.") from None
        return [_check_name(path)]
    images = [_check_name(file) for file in found if file.suffix.lower() in SUFFIXES and file.is_file()]
    if skipped is not None:
        images = [image for image in images if not image.absolute().is_relative_to(skipped.absolute())]
    if not images:
        raise UserError(f"No image ({', '.join(sorted(SUFFIXES))}) {where}: name another.")
    return sorted(images)


def walk_folders(folder: Path) -> Iterator[Path]:
    """A folder and all below it but hidden ones; one that several paths lead to, by links, is entered once."""
    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop(0)
        about = place.stat()
        if (about.st_dev, about.st_ino) in entered:
            continue
        entered.add((about.st_dev, about.st_ino))
        yield place
        inside = sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_dir())
        # Links last, so that a photograph has the path that shows no link.
        waiting[:0] = [path for path in inside if not path.is_symlink()]
        waiting += [path for path in inside if path.is_symlink()]


def _match(parts: tuple[str, ...], root: Path) -> Iterator[Path]:
    """The files of a pattern; `**` stands for any folders. Not glob's own, which follows links round and round."""
    before, after = (parts[: parts.index("**")], parts[parts.index("**") + 1 :]) if "**" in parts else (parts, ())
    hits = (root / hit for hit in glob.iglob(os.path.join(*before), root_dir=root)) if before else iter([root])
    if "**" not in parts:
        yield from hits
        return
    for start in hits:
        for folder in walk_folders(start) if start.is_dir() else ():
            yield from _match(after or ("*",), folder)


def _check_name(path: Path) -> Path:
    """Refuse a name that the results could not repeat."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError as error:
        raise UserError(str(explain(error))) from None
    return path


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
        image: A path or a Pillow image, which is rotated as its EXIF orientation says, an array (H, W, 3), uint8, RGB,
            or a tensor (3, H, W), RGB, of uint8 or of floats of 0..1, which are rounded to 8 bits.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        UserError: the file is missing or broken, or the image does not have 8 bits a channel.
    """
    if isinstance(image, Tensor):
        image = _read_tensor(image)
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


def _read_tensor(image: Tensor) -> UInt8Array:
    """The pixels (H, W, 3) of a tensor (3, H, W)."""
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        raise UserError(f"An image must be a tensor (3, H, W), not {tuple(image.shape)}.")
    if image.is_floating_point():
        if not (image.min() >= 0 and image.max() <= 1):
            raise UserError("An image of floats must lie in 0..1: undo its normalisation, or give it as uint8.")
        image = (255 * image.detach()).round().to(torch.uint8)
    array: UInt8Array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


def is_upright(image: Image.Image) -> bool:
    """Whether a picture is stored upright."""
    return _read_orientation(image) == UPRIGHT


def measure_upright(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture once it is upright."""
    is_sideways = _read_orientation(image) >= 5
    return (image.height, image.width) if is_sideways else (image.width, image.height)


def _read_orientation(image: Image.Image) -> int:
    # A PNG may hold it behind its pixels, which Pillow then decodes.
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # of a broken EXIF block: SyntaxError, struct.error, ...; viewers show such a picture as stored
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def _decode(image: Image.Image) -> UInt8Array:
    """The pixels, without needless copies: a large image takes gigabytes."""
    if (turn := _TURNS.get(_read_orientation(image))) is not None:
        image = image.transpose(turn)
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
