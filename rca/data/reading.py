"""From a listing to the manifest: every photograph, mask and saliency map is opened and checked once, in parallel."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from rca.artifacts import IGNORE, hash_file, read_mask, read_photograph, write_mask
from rca.data.listing import Entry, Listing, locate
from rca.data.manifest import ImageRecord, Manifest
from rca.errors import UserError
from rca.progress import track


def read_listing(root: Path, listing: Listing, workers: int = 1, draw_into: Path | None = None) -> Manifest:
    """Open and check all that a listing names.

    Args:
        root: The dataset's.
        listing: What a format listed.
        workers: How many processes decode; the result does not depend on it.
        draw_into: The folder to write masks to that have to be drawn; None looks at them and keeps none.

    Raises:
        UserError: the first fault, in the order of the listing.
    """
    check = partial(check_entry, root, listing.classes, draw_into=draw_into)
    records = tuple(_map(check, listing.entries, workers))
    return Manifest(root, listing.classes, records)


def _map(check: partial[ImageRecord], entries: tuple[Entry, ...], workers: int) -> Iterator[ImageRecord]:
    if workers == 1:
        yield from track(map(check, entries), "reading images", len(entries))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        yield from track(pool.map(check, entries, chunksize=16), "reading images", len(entries))


def check_entry(root: Path, classes: tuple[str, ...], entry: Entry, draw_into: Path | None = None) -> ImageRecord:
    """Open and check what belongs to one image.

    Args:
        root: The dataset's.
        classes: Its classes.
        entry: The image.
        draw_into: The folder to write its mask to if that has to be drawn; None looks at it and keeps none.

    Raises:
        UserError: the photograph, the mask or the saliency map is missing or broken, they differ in size, the mask
            holds an unknown label, or a tag is no class.
    """
    photograph = read_photograph(locate(root, entry.image))
    size = photograph.shape[:2]
    mask, mask_sha256 = _check_mask(root, entry, size, len(classes), draw_into)
    if entry.saliency is not None:
        path = locate(root, entry.saliency)
        _check_size(read_mask(path, "saliency map"), size, f"saliency map {path}")
    return ImageRecord(
        id=entry.id,
        image=entry.image,
        mask=entry.mask,
        saliency=entry.saliency,
        width=size[1],
        height=size[0],
        tags=_find_tags(root, classes, entry, mask),
        splits=entry.splits,
        source=entry.source,
        weight=entry.weight,
        sha256=hash_file(locate(root, entry.image)),
        mask_sha256=mask_sha256,
        saliency_sha256="" if entry.saliency is None else hash_file(locate(root, entry.saliency)),
    )


def _check_mask(
    root: Path, entry: Entry, size: tuple[int, ...], classes: int, draw_into: Path | None
) -> tuple[np.ndarray | None, str]:
    """The mask and its file's checksum, "" where it has none."""
    if entry.mask is None:
        return None, ""
    path = locate(root, entry.mask)
    mask = entry.draw() if entry.draw else read_mask(path)
    name = f"mask of {locate(root, entry.image)}" if entry.draw else f"mask {path}"
    _check_size(mask, size, name)
    _check_labels(mask, classes, name)
    if entry.draw:
        if draw_into is None:
            return mask, ""
        path = draw_into / path.name
        write_mask(path, mask)
    return mask, hash_file(path)


def _check_size(found: np.ndarray, size: tuple[int, ...], name: str) -> None:
    """A map is of its photograph's height and width."""
    if found.shape != size:
        sizes = f"{found.shape[1]}x{found.shape[0]}, its photograph {size[1]}x{size[0]}"
        raise UserError(f"The {name} is {sizes}: make them the same size.")


def _check_labels(mask: np.ndarray, classes: int, name: str) -> None:
    labels = np.unique(mask)
    unknown = labels[(labels > classes) & (labels != IGNORE)]
    if len(unknown):
        raise UserError(
            f"The {name} holds the label {unknown[0]}, but there are {classes} classes: mend the mask or add the class."
        )


def _find_tags(root: Path, classes: tuple[str, ...], entry: Entry, mask: np.ndarray | None) -> tuple[int, ...]:
    """The image's classes as indices, ascending: those listed, or else those in its mask."""
    if entry.tags is None:
        return () if mask is None else tuple(int(label) - 1 for label in np.unique(mask) if label not in (0, IGNORE))
    for tag in entry.tags:
        if tag not in classes:
            raise UserError(
                f"The image {locate(root, entry.image)} has the tag {tag!r}, which is no class: mend the tag, or add "
                "the class."
            )
    return tuple(sorted({classes.index(tag) for tag in entry.tags}))
