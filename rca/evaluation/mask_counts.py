"""Pixel counts of masks against true masks: a confusion matrix, and the counts of the boundary IoU."""

import math

import numpy as np

from rca.core.arrays import BoolArray, Float64Array, UInt8Array
from rca.core.files import IGNORE
from rca.evaluation.metrics import Confusion, PredictedIgnore, divide, find_runs, mean

# As a share of an image's diagonal (Cheng et al., Boundary IoU, CVPR 2021).
BOUNDARY_DISTANCE = 0.02


class Truth:
    """A true mask with what is derived from it, shared by all masks that are scored against it.

    Args:
        labels: (H, W), uint8, 0..C and 255.
        boundary_distance: How near a contour is near, as a share of the image's diagonal.

    Attributes:
        labels: (H, W), uint8, the mask.
        known: (H, W), bool: where the mask is not 255.
        hidden: (H, W), uint8: 255 where the mask is 255, else 0.
        reach: The distance from a contour in pixels.
        boundary: (H, W), bool: the known pixels near a contour.
    """

    def __init__(self, labels: UInt8Array, boundary_distance: float = BOUNDARY_DISTANCE) -> None:
        self.labels = labels
        self.known = labels != IGNORE
        self.hidden = (labels == IGNORE) * np.uint8(IGNORE)
        self.reach = max(1, round(boundary_distance * math.hypot(*labels.shape)))
        self.boundary = mark_boundary(labels, self.reach) & self.known


def mark_boundary(labels: UInt8Array, reach: int) -> BoolArray:
    """Find the pixels near a contour, for all labels at once.

    Args:
        labels: (H, W), uint8.
        reach: Pixels, at least 1.

    Returns:
        (H, W), bool: the pixels at most `reach` rows and columns away from another label or the outside of the image.
        Of each label, these are the pixels that `reach` erosions by a 3x3 square remove.
    """
    near = np.ones(labels.shape, bool)
    # A window inside the image holds one label if no two neighbours in it differ.
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    if min(labels.shape) > 2 * reach:
        inside = _slide(across, 2 * reach + 1, 2 * reach) | _slide(down, 2 * reach, 2 * reach + 1)
        near[reach:-reach, reach:-reach] = inside
    return near


def _slide(marks: BoolArray, height: int, width: int) -> BoolArray:
    """Whether each window (height, width) that fits into marks (H, W) holds one (H - height + 1, W - width + 1)."""
    return _slide_down(_slide_down(marks, height).T, width).T


def _slide_down(marks: BoolArray, length: int) -> BoolArray:
    """Whether each run of rows of this length holds a mark; windows are joined to windows twice as long."""
    joined = 1
    while joined < length:
        step = min(joined, length - joined)
        marks = marks[:-step] | marks[step:]
        joined += step
    return marks


class BoundaryCounts:
    """Counts of pixels near contours, for the boundary IoU (Cheng et al., CVPR 2021) over a whole dataset.

    Where the truth is 255, the prediction is set to 255 too. So a mask that is right wherever the truth is known has a
    boundary IoU of 1, whatever contours it has elsewhere.

    Args:
        classes: The number of object classes, C.

    Attributes:
        counts: (4, C+1), int64: of each label, the known pixels near one of its contours: in both masks; in the truth,
            where the prediction has a label; in the truth, where it has none; in the prediction.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((4, classes + 1), np.int64)

    def add(self, truth: Truth, prediction: UInt8Array) -> None:
        """Count one image.

        Args:
            truth: Its true mask.
            prediction: (H, W), uint8, 0..C and 255.
        """
        near = mark_boundary(prediction | truth.hidden, truth.reach) & truth.known
        marks = truth.boundary.view(np.uint8) | near.view(np.uint8) << 1
        codes = truth.labels.astype(np.uint32)
        for shift, part in ((8, prediction), (2, marks)):  # in place, which halves the time
            codes <<= shift
            codes |= part
        runs, lengths = find_runs(codes.ravel())
        marked = np.flatnonzero(runs & 3)
        runs, lengths = runs[marked], lengths[marked]
        labels, found, boundary, near = runs >> 10, runs >> 2 & 255, runs & 1 > 0, runs & 2 > 0
        decided = found != IGNORE
        for row, (one, chosen) in enumerate(
            (
                (labels, boundary & near & (found == labels)),
                (labels, boundary & decided),
                (labels, boundary & ~decided),
                (found, near & decided),
            )
        ):
            self.counts[row] += np.bincount(one[chosen], lengths[chosen], self.counts.shape[1]).astype(np.int64)

    def __iadd__(self, other: "BoundaryCounts") -> "BoundaryCounts":
        self.counts += other.counts
        return self

    def iou(self, ignore: PredictedIgnore = "count_as_error") -> Float64Array:
        """Intersection over union of each label's pixels near contours (C+1,); NaN where there are none."""
        both, truth, undecided, predicted = self.counts
        truth = truth if ignore == "exclude" else truth + undecided
        return divide(both, truth + predicted - both)


class MaskCounts:
    """All pixel counts of the masks of some images.

    Args:
        classes: The number of object classes, C.

    Attributes:
        images: The number of images counted.
        confusion: Pixels by true and predicted label.
        boundary: Pixels near contours.
    """

    def __init__(self, classes: int) -> None:
        self.images = 0
        self.confusion = Confusion(classes)
        self.boundary = BoundaryCounts(classes)

    def add(self, truth: Truth, prediction: UInt8Array) -> None:
        """Count one image.

        Args:
            truth: Its true mask.
            prediction: (H, W), uint8, 0..C and 255.

        Raises:
            ValueError: the sizes differ or a label is above C.
        """
        self.confusion.add(truth.labels, prediction)
        self.boundary.add(truth, prediction)
        self.images += 1

    def __iadd__(self, other: "MaskCounts") -> "MaskCounts":
        self.images += other.images
        self.confusion += other.confusion
        self.boundary += other.boundary
        return self

    def trim(self) -> "MaskCounts":
        """The same counts, for no more classes than the highest label that occurs."""
        known = self.confusion.counts
        highest = int(np.flatnonzero(known.sum(1) + known[:, :-1].sum(0)).max(initial=0))
        trimmed = MaskCounts(highest)
        trimmed.images = self.images
        trimmed.confusion.counts += known[: highest + 1, [*range(highest + 1), -1]]
        trimmed.boundary.counts += self.boundary.counts[:, : highest + 1]
        return trimmed

    def summarise(self, ignore: PredictedIgnore) -> dict[str, float]:
        """The figures over all labels; NaN where there is nothing to average.

        Args:
            ignore: How `miou`, `boundary_iou` and `recall` treat pixels that a mask leaves undecided.

        Returns:
            The figures of `Confusion.summarise`, `miou_count_as_error`, `miou_exclude`, `boundary_iou` and `images`.
        """
        return {
            **self.confusion.summarise(ignore),
            "miou_count_as_error": mean(self.confusion.iou("count_as_error")),
            "miou_exclude": mean(self.confusion.iou("exclude")),
            "boundary_iou": mean(self.boundary.iou(ignore)),
            "images": self.images,
        }

    def list_labels(self, ignore: PredictedIgnore) -> Float64Array:
        """IoU, boundary IoU, precision and recall of each label (C+1, 4), background first."""
        iou, boundary_iou = self.confusion.iou(ignore), self.boundary.iou(ignore)
        return np.stack([iou, boundary_iou, self.confusion.precision(), self.confusion.recall(ignore)], 1)
