"""All that is counted of masks against true ones: a confusion matrix, and the boundary IoU beside it."""

import math

import numpy as np
from scipy import ndimage

from rca.core.arrays import BoolArray, Float64Array, UInt8Array
from rca.core.files import IGNORE
from rca.evaluation.metrics import Confusion, PredictedIgnore, divide, mean

# Cheng et al., Boundary IoU, CVPR 2021: within 2 % of an image's diagonal of a contour.
BOUNDARY_DISTANCE = 0.02


class Truth:
    """A true mask, and what all masks that are scored against it need to know of it.

    Args:
        labels: (H, W), uint8, 0..C and 255.
        boundary_distance: As a share of the diagonal.

    Attributes:
        labels: As given.
        known: (H, W), bool: where the truth is not 255.
        reach: How many pixels from a contour count as near it.
        boundary: (H, W), bool: the known pixels near a contour.
    """

    def __init__(self, labels: UInt8Array, boundary_distance: float = BOUNDARY_DISTANCE) -> None:
        self.labels = labels
        self.known = labels != IGNORE
        self.reach = max(1, round(boundary_distance * math.hypot(*labels.shape)))
        self.boundary = mark_boundary(labels, self.reach) & self.known


def mark_boundary(labels: UInt8Array, reach: int) -> BoolArray:
    """Find the pixels near a contour, those of all labels at once.

    Args:
        labels: (H, W), uint8.
        reach: Pixels, at least 1.

    Returns:
        (H, W), bool: the pixels with another label, or the outside of the image, at most `reach` rows and columns away.
        For each label these are what `reach` erosions by a square of 3x3 pixels take from it.
    """
    side = 2 * reach + 1
    near: BoolArray = ndimage.maximum_filter(labels, side, mode="nearest") != ndimage.minimum_filter(
        labels, side, mode="nearest"
    )
    near[:reach] = near[-reach:] = near[:, :reach] = near[:, -reach:] = True
    return near


class BoundaryCounts:
    """Counts of pixels near contours: the boundary IoU (Cheng et al., CVPR 2021), over a dataset as the IoU is.

    Where the truth is 255, the prediction is taken to be so too: a mask that is right wherever the truth is known has a
    boundary IoU of 1, whatever contour it draws through pixels that count for nothing.

    Args:
        classes: How many object classes there are, C.

    Attributes:
        counts: (4, C+1), int64: of each label the known pixels near a contour of that label, in both masks; in the
            truth, where the prediction gives a label; in the truth, where it gives none; in the prediction.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((4, classes + 1), np.int64)

    def add(self, truth: Truth, prediction: UInt8Array) -> None:
        """Count one image.

        Args:
            truth: Its true mask.
            prediction: (H, W), uint8, 0..C and 255.
        """
        near = mark_boundary(np.where(truth.known, prediction, IGNORE).astype(np.uint8), truth.reach) & truth.known
        decided = prediction != IGNORE
        chosen = (
            truth.labels[truth.boundary & near & (prediction == truth.labels)],
            truth.labels[truth.boundary & decided],
            truth.labels[truth.boundary & ~decided],
            prediction[near & decided],
        )
        self.counts += [np.bincount(labels, minlength=self.counts.shape[1]) for labels in chosen]

    def __iadd__(self, other: "BoundaryCounts") -> "BoundaryCounts":
        self.counts += other.counts
        return self

    def iou(self, ignore: PredictedIgnore = "count_as_error") -> Float64Array:
        """Intersection over union of each label's pixels near contours (C+1,); NaN where there is none."""
        both, truth, undecided, predicted = self.counts
        truth = truth if ignore == "exclude" else truth + undecided
        return divide(both, truth + predicted - both)


class MaskCounts:
    """All that is counted of the masks of some images.

    Args:
        classes: How many object classes there are, C.

    Attributes:
        images: How many were counted.
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
        """The same counts for as many classes as the highest label that occurs asks for."""
        known = self.confusion.counts
        highest = int(np.flatnonzero(known.sum(1) + known[:, :-1].sum(0)).max(initial=0))
        trimmed = MaskCounts(highest)
        trimmed.images = self.images
        trimmed.confusion.counts += known[: highest + 1, [*range(highest + 1), -1]]
        trimmed.boundary.counts += self.boundary.counts[:, : highest + 1]
        return trimmed

    def summarise(self, ignore: PredictedIgnore) -> dict[str, float]:
        """The figures over all labels, NaN where there is nothing to average.

        Args:
            ignore: What `miou`, `boundary_iou` and `recall` do with pixels that a mask leaves undecided.

        Returns:
            What `Confusion.summarise` gives, `miou_count_as_error`, `miou_exclude`, `boundary_iou` and `images`.
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
        one = self.confusion
        return np.stack([one.iou(ignore), self.boundary.iou(ignore), one.precision(), one.recall(ignore)], 1)
