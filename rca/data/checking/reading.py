"""Open and check every photograph, mask and saliency map of a dataset, once."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, hash_file, write_mask
from rca.core.progress import track
from rca.data.checking.masks import count_labels, examine_map, examine_mask, list_labels
from rca.data.checking.photographs import examine_photograph
from rca.data.faults import Fault
from rca.data.ids import is_id
from rca.data.listing import Entry, Listing
from rca.data.manifest import ImageRecord, locate
from rca.data.names import find_similar, fold


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading one image.

    Attributes:
        record: The image; None if it has an error.
        sha256: Checksum of the photograph's file; "" if there is none.
        faults: All its faults.
        pixels: The number of pixels of each label in its mask; None if it has none that can be read.
    """

    record: ImageRecord | None
    sha256: str
    faults: tuple[Fault, ...]
    pixels: Mapping[int, int] | None = None


def read_listing(root: Path, listing: Listing, workers: int = 1, draw_into: Path | None = None) -> tuple[Reading, ...]:
    """Open and check all files that a listing names.

    Args:
        root: The dataset's root.
        listing: The dataset as listed.
        workers: The number of processes; the result does not depend on it.
        draw_into: The folder to write drawn masks to; None checks them and writes none.

    Returns:
        The reading of each image, in the order of the listing.
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
    """Open and check the files of one image and collect all its faults.

    Args:
        root: The dataset's root.
        classes: The names of the classes.
        entry: The image.
        draw_into: The folder to write its mask to if it is drawn; None checks it and writes none.
    """
    photograph = locate(root, entry.image)
    size, faults = examine_photograph(photograph)
    mask = None
    if entry.mask is not None:
        mask, mask_faults = examine_mask(root, entry, size, len(classes))
        faults += mask_faults
    if entry.saliency is not None:
        faults += examine_map(locate(root, entry.saliency), size, "saliency map")[1]
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
    return Reading(record, sha256, tuple(faults), None if mask is None else count_labels(mask))


def _hash(path: Path) -> str:
    """A file's checksum; "", which counts as no duplicate, if it cannot be read or is empty."""
    try:
        return hash_file(path) if path.stat().st_size else ""
    except (OSError, UserError, ValueError):  # ValueError: the name cannot be a file's
        return ""


def _keep_mask(root: Path, entry: Entry, mask: UInt8Array | None, draw_into: Path | None) -> str:
    """The checksum of a mask's file, which is first written if the mask was drawn; "" if there is none."""
    if entry.mask is None or mask is None:
        return ""
    path = locate(root, entry.mask)
    if entry.draw is not None:
        if draw_into is None:
            return ""
        path = draw_into / path.name
        write_mask(path, mask)
    return hash_file(path)


def _examine_names(photograph: Path, classes: tuple[str, ...], entry: Entry) -> Iterator[Fault]:
    """The faults of an image's id and tags."""
    if not is_id(entry.id):
        statement = f"The image {photograph} has the id {entry.id!r}, which cannot be a file name"
        yield Fault("unusable id", str(photograph), statement)
    for tag in dict.fromkeys(entry.tags or ()):
        if tag not in classes and classes:
            same = next((name for name in classes if fold(name) == fold(tag)), None) or find_similar(tag, classes)
            alike = f" (but {same!r} is)" if same else ""
            statement = f"The image {photograph} has the tag {tag!r}, which is no class{alike}"
            yield Fault("unknown tag", str(photograph), statement)


def _find_tags(classes: tuple[str, ...], entry: Entry, mask: UInt8Array | None) -> tuple[int, ...]:
    """The image's classes as ascending indices: those listed, else those in its mask and those kept besides."""
    if entry.tags is None:
        shown = {label - 1 for label in list_labels(mask) if label not in (0, IGNORE)} if mask is not None else set()
        return tuple(sorted(shown | {classes.index(tag) for tag in entry.kept if tag in classes}))
    return tuple(sorted({classes.index(tag) for tag in entry.tags if tag in classes}))
