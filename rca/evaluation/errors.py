"""Kinds of errors of masks: each wrong pixel of a class has one kind, so the kinds add up to what its IoU lacks.

The kinds follow TIDE's (Bolya et al., ECCV 2020), here of pixels: a mask names no single objects. An object is all that
an image shows of a class.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import ndimage

from rca.core.arrays import Float64Array, Int64Array, UInt8Array
from rca.evaluation.masks import Key
from rca.evaluation.metrics import Confusion, PredictedIgnore

# The pixels that a class has in the truth, in the mask, or in both.
KINDS = ("hit", "missed", "too_small", "undecided", "confused", "too_large", "leaked", "taken")
MEANINGS = {
    "hit": "the mask has the class where it is",
    "missed": "background where an object is that is hardly found",
    "too_small": "background where the rest of an object is that is found",
    "undecided": "undecided where an object is",
    "confused": "another class where an object is",
    "too_large": "the class on background, in a region that reaches its object",
    "leaked": "the class on background, away from its object or without one",
    "taken": "the class where an object of another class is",
}
# What the figures tell apart: the wrong class is both ways round.
SHARES = ("missed", "too_small", "undecided", "wrong_class", "too_large", "leaked")
# Of which less is found, an object is missed.
FOUND = 0.1
# Sizes of objects: least shares of the image's known pixels. "absent" is a class that the image does not show.
SIZES = {"absent": 0.0, "small": 0.0, "medium": 0.05, "large": 0.2}
# The numbers of classes that an image shows; the last stands for more as well.
NUMBERS = ("0", "1", "2", "3", "4 or more")

# Regions that touch at a corner are one.
_NEIGHBOURS = np.ones((3, 3), int)

PARTS = ("class", "size", "classes_shown")


class ErrorCounts:
    """Pixels of each class by kind, object size and number of classes in the image.

    Args:
        classes: The number of object classes, C.

    Attributes:
        counts: (C, 4, 5, 8), int64: classes 1..C, `SIZES`, `NUMBERS` and `KINDS`.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, len(SIZES), len(NUMBERS), len(KINDS)), np.int64)

    def add(self, truth: UInt8Array, prediction: UInt8Array, confusion: Confusion) -> None:
        """Count one image. Pixels whose truth is 255 are left out.

        Args:
            truth: (H, W), uint8, 0..C and 255.
            prediction: (H, W), uint8, 0..C and 255.
            confusion: The confusion matrix of this image alone.
        """
        pixels = confusion.counts
        areas, known = pixels.sum(1), max(int(pixels.sum()), 1)
        number = min(int(np.count_nonzero(areas[1:])), len(NUMBERS) - 1)
        places = ndimage.find_objects(np.where(prediction <= len(self.counts), prediction, 0))
        for label in np.flatnonzero(areas + pixels[:, :-1].sum(0)).tolist():
            if label:
                leaked = int(pixels[0, label])
                if leaked and pixels[label, label]:  # without a hit, no region reaches the object
                    leaked = count_leaked(truth, prediction, label, places)
                size = name_size(areas[label] / known)
                self.counts[label - 1, size, number] += sort_pixels(pixels, label, leaked)

    def __iadd__(self, other: "ErrorCounts") -> "ErrorCounts":
        self.counts += other.counts
        return self

    def share(self, ignore: PredictedIgnore) -> dict[str, Float64Array]:
        """The shares of `share_errors` of each class, each (C,)."""
        shares = [share_errors(pixels, ignore) for pixels in self.counts.sum((1, 2))]
        return {name: np.array([share[name] for share in shares]) for name in SHARES}


def sort_pixels(pixels: Int64Array, label: int, leaked: int) -> Int64Array:
    """The pixels of a label in one image by `KINDS`, (8,).

    Args:
        pixels: (C+1, C+2), the image's confusion matrix.
        label: The label, 1..C.
        leaked: How many of its pixels on background are away from its object.
    """
    hit, area = pixels[label, label], pixels[label].sum()
    background, undecided = pixels[label, 0], pixels[label, -1]
    found = hit >= FOUND * area
    confused, taken = area - hit - background - undecided, pixels[1:, label].sum() - hit
    missed, too_small = (0, background) if found else (background, 0)
    too_large = pixels[0, label] - leaked
    return np.array([hit, missed, too_small, undecided, confused, too_large, leaked, taken])


def count_leaked(
    truth: UInt8Array, prediction: UInt8Array, label: int, places: list[tuple[slice, slice] | None]
) -> int:
    """The pixels of a label on true background, in regions of the mask that do not reach the label's object.

    Args:
        truth: (H, W), uint8.
        prediction: (H, W), uint8.
        label: The label, which the mask has on background.
        places: The box of each label in the mask, from `scipy.ndimage.find_objects`.
    """
    box = places[label - 1]
    there, region = truth[box], prediction[box] == label
    regions, count = ndimage.label(region, _NEIGHBOURS)
    reaching = np.zeros(count + 1, bool)
    reaching[regions[there == label]] = True
    reaching[0] = True  # outside of the regions
    return int(np.count_nonzero(~reaching[regions] & (there == 0)))


def name_size(share: float) -> int:
    """The place in `SIZES` of an object that takes this share of its image's known pixels."""
    if not share:
        return 0
    return max(number for number, least in enumerate(SIZES.values()) if share >= least)


def list_errors(errors: Mapping[Key, ErrorCounts], classes: tuple[str, ...]) -> pd.DataFrame:
    """A table of pixels, with a line for each kind of mask, split, threshold, class, size and number that occurs."""
    lines = []
    for (kind, split, choice), counted in errors.items():
        for place in np.argwhere(counted.counts.any(-1)):
            label, size, number = place
            names = (kind, split, choice, classes[label], list(SIZES)[size], NUMBERS[number])
            lines.append((*names, *counted.counts[label, size, number]))
    return pd.DataFrame(lines, columns=["kind", "split", "threshold", *PARTS, *KINDS])


def share_errors(pixels: Int64Array, ignore: PredictedIgnore) -> dict[str, float]:
    """The shares of errors in what a class covers in the truth or the mask; they and its IoU add up to 1.

    Args:
        pixels: (8,) by `KINDS`.
        ignore: Whether undecided pixels are errors or are left out.

    Returns:
        The shares by `SHARES`; NaN where there is no pixel.
    """
    by_kind = dict(zip(KINDS, map(int, pixels), strict=True))
    by_kind["wrong_class"] = by_kind["confused"] + by_kind["taken"]
    if ignore == "exclude":
        by_kind["undecided"] = 0
    total = by_kind["hit"] + sum(by_kind[name] for name in SHARES)
    return {name: by_kind[name] / total if total else float("nan") for name in SHARES}
