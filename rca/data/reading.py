"""From what is listed to what is there: every photograph, mask and saliency map is opened and checked once."""

import unicodedata
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from rca.artifacts import IGNORE, hash_file, write_mask
from rca.data.faults import Fault
from rca.data.listing import Entry, Listing
from rca.data.manifest import SAFE_ID, ImageRecord, locate
from rca.errors import UserError
from rca.pictures import PictureError, decode_mask, decode_photograph, open_picture
from rca.progress import track

# A backbone like VGG16 halves an image four times: less leaves it no pixel.
MIN_SIDE = 16
# EXIF's values of the orientation that ask a viewer to turn or mirror; 1 asks for nothing, others mean nothing.
TURNED = range(2, 9)
# What Pillow calls the formats of photographs that are one and the same to a person.
SAME_FORMAT = {"MPO": "JPEG"}


def fold(name: str) -> str:
    """A name without what people do not see or mean: case, spaces, and the Unicode form in which it is written."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


@dataclass(frozen=True)
class Reading:
    """What was found of one image.

    Attributes:
        record: The image; None where an error keeps it from being used.
        sha256: Checksum of the photograph's file, "" where there is none.
        faults: All that is wrong with it.
    """

    record: ImageRecord | None
    sha256: str
    faults: tuple[Fault, ...]


def read_listing(root: Path, listing: Listing, workers: int = 1, draw_into: Path | None = None) -> tuple[Reading, ...]:
    """Open and check all that a listing names.

    Args:
        root: The dataset's.
        listing: What a format listed.
        workers: How many processes decode; the result does not depend on it.
        draw_into: The folder to write masks to that have to be drawn; None looks at them and keeps none.

    Returns:
        What was found of each image, in the order of the listing.
    """
    read = partial(read_entry, root, listing.classes, draw_into=draw_into)
    return tuple(_map(read, listing.entries, workers))


def _map(read: partial[Reading], entries: tuple[Entry, ...], workers: int) -> Iterator[Reading]:
    if workers == 1:
        yield from track(map(read, entries), "reading images", len(entries))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        yield from track(pool.map(read, entries, chunksize=16), "reading images", len(entries))


def read_entry(root: Path, classes: tuple[str, ...], entry: Entry, draw_into: Path | None = None) -> Reading:
    """Open and check what belongs to one image, to the last fault.

    Args:
        root: The dataset's.
        classes: Its classes.
        entry: The image.
        draw_into: The folder to write its mask to if that has to be drawn; None looks at it and keeps none.
    """
    photograph = locate(root, entry.image)
    size, faults = _examine_photograph(photograph)
    mask = None
    if entry.mask is not None:
        mask, found = _examine_mask(root, entry, size, len(classes))
        faults += found
    if entry.saliency is not None:
        faults += _examine_map(locate(root, entry.saliency), size, "saliency map")[1]
    faults += _examine_names(photograph, classes, entry)
    faults = [Fault(fault.kind, fault.file, fault.statement, entry.id) for fault in faults]
    sha256 = _hash(photograph)
    record = None
    if size is not None and not any(fault.severity == "error" for fault in faults):
        record = ImageRecord(
            id=entry.id,
            image=entry.image,
            mask=entry.mask,
            saliency=entry.saliency,
            width=size[1],
            height=size[0],
            tags=_find_tags(classes, entry, mask),
            splits=entry.splits,
            source=entry.source,
            weight=entry.weight,
            sha256=sha256,
            mask_sha256=_keep_mask(root, entry, mask, draw_into),
            saliency_sha256="" if entry.saliency is None else hash_file(locate(root, entry.saliency)),
        )
    return Reading(record, sha256, tuple(faults))


def _hash(path: Path) -> str:
    """A file's checksum, "" where it cannot be read or is empty, so that it equals no other."""
    try:
        return hash_file(path) if path.stat().st_size else ""
    except (OSError, UserError):
        return ""


def _examine_photograph(path: Path) -> tuple[tuple[int, int] | None, list[Fault]]:
    """A photograph's height and width, None where it cannot be read, and what is wrong with it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with open_picture(path, "photograph") as image:
                pixels = decode_photograph(image, path)
                faults = _describe_if_possible(image, path)
        except PictureError as error:
            return None, [Fault(f"{error.fault} photograph", str(path), error.statement)]
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        statement = f"The photograph {path} is {width}x{height}, less than {MIN_SIDE} pixels a side"
        faults.append(Fault("tiny photograph", str(path), statement))
    if (pixels == pixels[0, 0]).all():
        faults.append(Fault("blank photograph", str(path), f"The photograph {path} is of one colour all over"))
    for text in dict.fromkeys(str(one.message) for one in said if issubclass(one.category, UserWarning)):
        reason = " ".join(text.split()).rstrip(".")
        faults.append(Fault("odd photograph", str(path), f"Pillow reads the photograph {path}, but says {reason!r}"))
    return (height, width), faults


def _describe_if_possible(image: ImageFile, path: Path) -> list[Fault]:
    """What is unusual about a photograph that was decoded, whatever bytes lie behind its pixels."""
    try:
        return list(_describe(image, path))
    except Exception as error:  # of a broken EXIF block or second picture: IndexError, SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        statement = f"The photograph {path} can be read, but not what else is in its file ({reason})"
        return [Fault("odd photograph", str(path), statement)]


def _describe(image: ImageFile, path: Path) -> Iterator[Fault]:
    """What is unusual about a photograph that was decoded, by what its file says of it."""
    orientation = image.getexif().get(Base.Orientation)
    if orientation in TURNED:
        statement = f"The photograph {path} is turned by its EXIF orientation {orientation}, but is read as stored"
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
    yield from _compare_suffix(image, path, "photograph")


def _compare_suffix(image: ImageFile, path: Path, what: str) -> Iterator[Fault]:
    named = Image.registered_extensions().get(path.suffix.lower())
    found = SAME_FORMAT.get(image.format or "", image.format)
    if named is not None and SAME_FORMAT.get(named, named) != found:
        yield Fault(f"misnamed {what}", str(path), f"The {what} {path} is a {found}, whatever its suffix says")


def _examine_map(path: Path, size: tuple[int, int] | None, what: str) -> tuple[np.ndarray | None, list[Fault]]:
    """A picture of one channel, None where it cannot be read, and what is wrong with it.

    Args:
        path: The file.
        size: The photograph's height and width; None where it is not known.
        what: "mask" or "saliency map".
    """
    faults = []
    try:
        with open_picture(path, what) as image:
            if what == "mask" and image.format == "JPEG":
                faults.append(Fault("lossy mask", str(path), f"The mask {path} is a JPEG"))
            elif what == "mask":
                faults += _compare_suffix(image, path, what)
            found = decode_mask(image, path, what)
    except PictureError as error:
        return None, [*faults, Fault(f"{error.fault} {what}", str(path), error.statement)]
    return found, [*faults, *_compare_sizes(found, size, what, f"{what} {path}", path)]


def _examine_mask(
    root: Path, entry: Entry, size: tuple[int, int] | None, classes: int
) -> tuple[np.ndarray | None, list[Fault]]:
    """A mask, None where it cannot be had, and what is wrong with it."""
    if entry.draw is None:
        path = locate(root, entry.mask or "")
        name = f"mask {path}"
        mask, faults = _examine_map(path, size, "mask")
    else:
        path = locate(root, entry.image)
        name = f"mask of {path}"
        try:
            mask = entry.draw()
        except UserError as error:
            return None, [Fault.tell("undecodable mask", path, error)]
        faults = list(_compare_sizes(mask, size, "mask", name, path))
    if mask is not None:
        faults += _examine_labels(mask, classes, name, path)
    return mask, faults


def _keep_mask(root: Path, entry: Entry, mask: np.ndarray | None, draw_into: Path | None) -> str:
    """The checksum of a mask's file, which is written first if it was drawn; "" where there is none."""
    if entry.mask is None or mask is None:
        return ""
    path = locate(root, entry.mask)
    if entry.draw is not None:
        if draw_into is None:
            return ""
        path = draw_into / path.name
        write_mask(path, mask)
    return hash_file(path)


def _compare_sizes(
    found: np.ndarray, size: tuple[int, int] | None, what: str, name: str, path: Path
) -> Iterator[Fault]:
    if size is not None and found.shape != size:
        sizes = f"{found.shape[1]}x{found.shape[0]}, its photograph {size[1]}x{size[0]}"
        yield Fault(f"{what} of another size", str(path), f"The {name} is {sizes}")


def _examine_labels(mask: np.ndarray, classes: int, name: str, path: Path) -> Iterator[Fault]:
    labels = _list_labels(mask)
    unknown = [str(label) for label in labels if label > classes and label != IGNORE]
    if unknown and classes:  # without classes that is told once
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        many = "label" if len(unknown) == 1 else "labels"
        statement = f"The {name} holds the {many} {shown}, but there are {classes} classes"
        yield Fault("unknown label", str(path), statement)
    if labels == [IGNORE]:
        yield Fault("all-ignore mask", str(path), f"The {name} is to be ignored ({IGNORE}) all over")


def _list_labels(mask: np.ndarray) -> list[int]:
    """The labels in a mask, ascending."""
    return np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()


def _examine_names(photograph: Path, classes: tuple[str, ...], entry: Entry) -> Iterator[Fault]:
    """What is wrong with an image's id and tags."""
    if not SAFE_ID.fullmatch(entry.id):
        statement = f"The image {photograph} has the id {entry.id!r}, which cannot be a file name"
        yield Fault("unusable id", str(photograph), statement)
    for tag in dict.fromkeys(entry.tags or ()):
        if tag not in classes and classes:
            alike = next((f" (but {name!r} is)" for name in classes if fold(name) == fold(tag)), "")
            statement = f"The image {photograph} has the tag {tag!r}, which is no class{alike}"
            yield Fault("unknown tag", str(photograph), statement)


def _find_tags(classes: tuple[str, ...], entry: Entry, mask: np.ndarray | None) -> tuple[int, ...]:
    """The image's classes as indices, ascending: those listed, or else those in its mask."""
    if entry.tags is None:
        return () if mask is None else tuple(label - 1 for label in _list_labels(mask) if label not in (0, IGNORE))
    return tuple(sorted({classes.index(tag) for tag in entry.tags if tag in classes}))
