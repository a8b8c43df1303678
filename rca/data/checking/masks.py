"""Examine one mask or saliency map for faults."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL.ImageFile import ImageFile

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, PALETTE
from rca.core.images import PictureError, decode_mask, open_picture
from rca.data.checking.photographs import compare_suffix
from rca.data.faults import Fault, FaultError
from rca.data.listing import Entry
from rca.data.manifest import locate

VOC_COLOURS = tuple(tuple(PALETTE[3 * label : 3 * label + 3]) for label in range(256))
VOC_LABELS = {colour: label for label, colour in enumerate(VOC_COLOURS)}


def examine_mask(
    root: Path, entry: Entry, size: tuple[int, int] | None, classes: int
) -> tuple[UInt8Array | None, list[Fault]]:
    """Read or draw an image's mask; return it, or None if it cannot be read, and its faults.

    Args:
        root: The dataset's root.
        entry: The image, which has a mask.
        size: The photograph's height and width; None if unknown.
        classes: The number of classes.
    """
    if entry.draw is None:
        path = locate(root, entry.mask or "")
        name = f"mask {path}"
        mask, faults = examine_map(path, size, "mask")
    else:
        path = locate(root, entry.image)
        name = f"mask of {path}"
        try:
            mask = entry.draw()
        except FaultError as error:
            return None, [error.fault]
        except UserError as error:
            return None, [Fault.tell("undecodable mask", path, error)]
        faults = list(_compare_sizes(mask, size, "mask", name, path))
    if mask is not None:
        faults += _examine_labels(mask, classes, name, path)
    return mask, faults


def examine_map(path: Path, size: tuple[int, int] | None, what: str) -> tuple[UInt8Array | None, list[Fault]]:
    """Read a picture of one channel; return it, or None if it cannot be read, and its faults.

    Args:
        path: The file.
        size: The photograph's height and width; None if unknown.
        what: "mask" or "saliency map".
    """
    faults = []
    try:
        with open_picture(path, what) as image:
            if what == "mask" and image.format == "JPEG":
                faults.append(Fault("lossy mask", str(path), f"The mask {path} is a JPEG"))
            elif what == "mask":
                faults += compare_suffix(image, path, what)
            pixels = decode_mask(image, path, what)
            if what == "mask":
                faults += _examine_coding(image, pixels, path)
    except PictureError as error:
        return None, [*faults, Fault(f"{error.fault} {what}", str(path), error.statement)]
    return pixels, [*faults, *_compare_sizes(pixels, size, what, f"{what} {path}", path)]


def _compare_sizes(
    pixels: UInt8Array, size: tuple[int, int] | None, what: str, name: str, path: Path
) -> Iterator[Fault]:
    if size is not None and pixels.shape != size:
        sizes = f"{pixels.shape[1]}x{pixels.shape[0]}, its photograph {size[1]}x{size[0]}"
        yield Fault(f"{what} of another size", str(path), f"The {name} is {sizes}")


def _examine_coding(image: ImageFile, mask: UInt8Array, path: Path) -> Iterator[Fault]:
    """Values of a stored mask that are no labels: white for the object, or places in another palette than VOC's."""
    labels = list_labels(mask)
    palette = image.getpalette() or []
    colours = {label: tuple(palette[3 * label : 3 * label + 3]) for label in labels} if image.mode == "P" else {}
    if labels == [0, IGNORE] and colours.get(IGNORE) != VOC_COLOURS[IGNORE]:
        yield Fault("binary mask", str(path), f"The mask {path} holds 0 and {IGNORE} alone")
    places = {label: VOC_LABELS.get(colour) for label, colour in colours.items()}
    moved = [label for label, place in places.items() if place != label]
    if moved and None not in places.values():
        statement = f"The mask {path} has the colour of VOC's label {places[moved[0]]} at the value {moved[0]}"
        yield Fault("shuffled palette", str(path), statement)


def _examine_labels(mask: UInt8Array, classes: int, name: str, path: Path) -> Iterator[Fault]:
    labels = list_labels(mask)
    unknown = [str(label) for label in labels if label > classes and label != IGNORE]
    if unknown and classes:  # that there are no classes is reported once
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        noun = "label" if len(unknown) == 1 else "labels"
        statement = f"The {name} holds the {noun} {shown}, but there are {classes} classes"
        yield Fault("unknown label", str(path), statement)
    if labels == [IGNORE]:
        yield Fault("all-ignore mask", str(path), f"The {name} holds only ignored pixels ({IGNORE})")


def list_labels(mask: UInt8Array) -> list[int]:
    """The labels in a mask, ascending."""
    return list(count_labels(mask))


def count_labels(mask: UInt8Array) -> dict[int, int]:
    """The number of pixels of each label in a mask, by ascending label."""
    counts = np.bincount(mask.ravel(), minlength=256)
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
