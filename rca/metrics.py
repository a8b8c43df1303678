"""One confusion matrix for everything, what is read off it, and the boundary IoU beside it.

All figures are fractions over the whole dataset, not means over images (the definition of PASCAL VOC).
"""

import math
from typing import Literal

import numpy as np
from scipy import ndimage

from rca.artifacts import IGNORE

PredictedIgnore = Literal["count_as_error", "exclude"]
# Cheng et al., Boundary IoU, CVPR 2021: within 2 % of an image's diagonal of a contour.
BOUNDARY_DISTANCE = 0.02


class Confusion:
    """Counts of pixels by true and predicted label.

    Args:
        classes: How many object classes there are, C.

    Attributes:
        counts: (C+1, C+2), int64: rows are true labels, columns predicted ones, the last one for predicted ignore.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes + 1, classes + 2), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image. Pixels whose truth is 255 are left out.

        Args:
            truth: (H, W), uint8, 0..C and 255.
            prediction: (H, W), uint8, 0..C and 255.

        Raises:
            ValueError: the shapes differ or a label is above C.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"The truth is {truth.shape}, the prediction {prediction.shape}: they must agree.")
        # Every pair of 8-bit values in one pass: three times faster than looking for unknown labels first.
        pairs = np.bincount((truth.astype(np.uint16) << 8 | prediction).ravel(), minlength=1 << 16).reshape(256, 256)
        for name, axis in (("truth", 1), ("prediction", 0)):
            unknown = np.flatnonzero(pairs.sum(axis)[self.classes + 1 : IGNORE])
            if len(unknown):
                highest = self.classes + 1 + unknown[-1]
                raise ValueError(f"The {name} holds the label {highest}, but there are {self.classes} classes.")
        self.counts += pairs[: self.classes + 1, [*range(self.classes + 1), IGNORE]]

    def __iadd__(self, other: "Confusion") -> "Confusion":
        self.counts += other.counts
        return self

    def _counted(self, ignore: PredictedIgnore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True positives, pixels of each true label and pixels of each predicted label, each (C+1,)."""
        square = self.counts[:, :-1]
        truth = square.sum(1) if ignore == "exclude" else self.counts.sum(1)
        return np.diagonal(square), truth, square.sum(0)

    def iou(self, ignore: PredictedIgnore = "count_as_error") -> np.ndarray:
        """Intersection over union of each label (C+1,), background first; NaN where a label never occurs."""
        hit, truth, predicted = self._counted(ignore)
        return _divide(hit, truth + predicted - hit)

    def precision(self) -> np.ndarray:
        """Which part of the pixels given a label have it (C+1,); NaN where none was given it."""
        hit, _, predicted = self._counted("exclude")
        return _divide(hit, predicted)

    def recall(self, ignore: PredictedIgnore = "count_as_error") -> np.ndarray:
        """Which part of the pixels that have a label were given it (C+1,); NaN where none has it."""
        hit, truth, _ = self._counted(ignore)
        return _divide(hit, truth)

    def coverage(self) -> float:
        """Which part of the known pixels was given a label at all, 0..1."""
        return float(self.counts[:, :-1].sum() / max(self.counts.sum(), 1))

    def summarise(self, ignore: PredictedIgnore = "count_as_error") -> dict[str, float]:
        """mIoU, mean precision and mean recall over the labels that occur, background included, and coverage."""
        return {
            "miou": _mean(self.iou(ignore)),
            "precision": _mean(self.precision()),
            "recall": _mean(self.recall(ignore)),
            "coverage": self.coverage(),
        }


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

    def __init__(self, labels: np.ndarray, boundary_distance: float = BOUNDARY_DISTANCE) -> None:
        self.labels = labels
        self.known = labels != IGNORE
        self.reach = max(1, round(boundary_distance * math.hypot(*labels.shape)))
        self.boundary = mark_boundary(labels, self.reach) & self.known


def mark_boundary(labels: np.ndarray, reach: int) -> np.ndarray:
    """Find the pixels near a contour, those of all labels at once.

    Args:
        labels: (H, W), uint8.
        reach: Pixels, at least 1.

    Returns:
        (H, W), bool: the pixels with another label, or the outside of the image, at most `reach` rows and columns away.
        For each label these are what `reach` erosions by a square of 3x3 pixels take from it.
    """
    side = 2 * reach + 1
    near = ndimage.maximum_filter(labels, side, mode="nearest") != ndimage.minimum_filter(labels, side, mode="nearest")
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

    def add(self, truth: Truth, prediction: np.ndarray) -> None:
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

    def iou(self, ignore: PredictedIgnore = "count_as_error") -> np.ndarray:
        """Intersection over union of each label's pixels near contours (C+1,); NaN where there is none."""
        both, truth, undecided, predicted = self.counts
        truth = truth if ignore == "exclude" else truth + undecided
        return _divide(both, truth + predicted - both)


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

    def add(self, truth: Truth, prediction: np.ndarray) -> None:
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

    def summarise(self, ignore: PredictedIgnore) -> dict[str, float]:
        """The figures over all labels, NaN where there is nothing to average.

        Args:
            ignore: What `miou`, `boundary_iou` and `recall` do with pixels that a mask leaves undecided.

        Returns:
            What `Confusion.summarise` gives, `miou_count_as_error`, `miou_exclude`, `boundary_iou` and `images`.
        """
        return {
            **self.confusion.summarise(ignore),
            "miou_count_as_error": _mean(self.confusion.iou("count_as_error")),
            "miou_exclude": _mean(self.confusion.iou("exclude")),
            "boundary_iou": _mean(self.boundary.iou(ignore)),
            "images": self.images,
        }

    def list_labels(self, ignore: PredictedIgnore) -> np.ndarray:
        """IoU, boundary IoU, precision and recall of each label (C+1, 4), background first."""
        one = self.confusion
        return np.stack([one.iou(ignore), self.boundary.iou(ignore), one.precision(), one.recall(ignore)], 1)


class ThresholdSweep:
    """Confusions of one set of score maps at many thresholds, counted in one pass.

    Args:
        classes: How many object classes there are, C.
        thresholds: (T,), ascending.
    """

    def __init__(self, classes: int, thresholds: np.ndarray) -> None:
        self.classes, self.thresholds = classes, np.asarray(thresholds)
        # Pixels by (true label, label with the highest score, how many thresholds that score exceeds).
        self.counts = np.zeros((classes + 1, classes + 1, len(self.thresholds) + 1), np.int64)

    def add(self, truth: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Count one image.

        Args:
            truth: (H, W), uint8, 0..C and 255.
            scores: (K, H, W), float, 0..1.
            labels: (K,), uint8, the labels that were scored.
        """
        known = truth != IGNORE
        if len(labels):
            best, label = scores.max(0)[known], labels[scores.argmax(0)][known].astype(np.int64)
        else:
            best, label = np.zeros(known.sum()), np.zeros(known.sum(), np.int64)
        exceeded = np.searchsorted(self.thresholds, best, side="left")
        index = np.ravel_multi_index((truth[known].astype(np.int64), label, exceeded), self.counts.shape)
        self.counts += np.bincount(index, minlength=self.counts.size).reshape(self.counts.shape)

    def confusion(self, index: int) -> Confusion:
        """The confusion matrix at `thresholds[index]`: foreground is where the score exceeds it."""
        result = Confusion(self.classes)
        result.counts[:, :-1] = self.counts[:, :, index + 1 :].sum(2)
        result.counts[:, 0] += self.counts[:, :, : index + 1].sum((1, 2))
        return result


def average_precision(scores: np.ndarray, tags: np.ndarray) -> float:
    """Mean average precision of a classifier over the classes that occur.

    Args:
        scores: (N, C), higher for more sure.
        tags: (N, C), bool.

    Returns:
        0..1, the area under each class's precision-recall steps (no interpolation), averaged; NaN without a positive.
    """
    from sklearn.metrics import average_precision_score  # takes a second, which choosing a threshold need not pay

    occurring = tags.any(0)
    if not occurring.any():
        return float("nan")
    return float(average_precision_score(tags[:, occurring], scores[:, occurring], average="macro"))


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
