"""Confusion matrices and the figures computed from them.

All figures are fractions over the whole dataset, not means over images (as PASCAL VOC defines them).
"""

from typing import Literal, TypeAlias

import numpy as np

from rca.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array, IntegerArray, UInt8Array
from rca.core.files import IGNORE

PredictedIgnore = Literal["count_as_error", "exclude"]
Figures: TypeAlias = dict[str, float | None]
# By kind and split: the figures, or the figures of each threshold. `dvc metrics` shows this nesting.
Metrics: TypeAlias = dict[str, dict[str, dict[str, float | Figures | None]]]


def find_runs(codes: IntegerArray) -> tuple[IntegerArray, Int64Array]:
    """The runs of equal neighbours in N codes: neighbouring pixels mostly agree, and runs are counted much faster.

    Args:
        codes: (N,), N at least 1.

    Returns:
        The code of each run, and its length (R,).
    """
    starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    return codes[starts], np.diff(starts, append=len(codes))


class Confusion:
    """Counts of pixels by true and predicted label.

    Args:
        classes: The number of object classes, C.

    Attributes:
        counts: (C+1, C+2), int64: rows are true labels, columns predicted labels; the last column is predicted ignore.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes + 1, classes + 2), np.int64)

    def add(self, truth: UInt8Array, prediction: UInt8Array) -> None:
        """Count one image. Pixels whose truth is 255 are left out.

        Args:
            truth: (H, W), uint8, 0..C and 255.
            prediction: (H, W), uint8, 0..C and 255.

        Raises:
            ValueError: the shapes differ or a label is above C.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"The truth is {truth.shape}, the prediction {prediction.shape}: they must agree.")
        runs, lengths = find_runs((truth.astype(np.uint16) << 8 | prediction).ravel())
        pairs = np.bincount(runs, lengths, 1 << 16).astype(np.int64).reshape(256, 256)
        for name, axis in (("truth", 1), ("prediction", 0)):
            unknown = np.flatnonzero(pairs.sum(axis)[self.classes + 1 : IGNORE])
            if len(unknown):
                highest = self.classes + 1 + unknown[-1]
                raise ValueError(f"The {name} holds the label {highest}, but there are {self.classes} classes.")
        self.counts += pairs[: self.classes + 1, [*range(self.classes + 1), IGNORE]]

    def __iadd__(self, other: "Confusion") -> "Confusion":
        self.counts += other.counts
        return self

    def _counted(self, ignore: PredictedIgnore) -> tuple[Int64Array, Int64Array, Int64Array]:
        """True positives, true pixels and predicted pixels of each label, each (C+1,)."""
        square = self.counts[:, :-1]
        truth = square.sum(1) if ignore == "exclude" else self.counts.sum(1)
        return np.diagonal(square), truth, square.sum(0)

    def iou(self, ignore: PredictedIgnore = "count_as_error") -> Float64Array:
        """Intersection over union of each label (C+1,), background first; NaN for a label that never occurs."""
        hit, truth, predicted = self._counted(ignore)
        return divide(hit, truth + predicted - hit)

    def precision(self) -> Float64Array:
        """Precision of each label (C+1,); NaN for a label that is never predicted."""
        hit, _, predicted = self._counted("exclude")
        return divide(hit, predicted)

    def recall(self, ignore: PredictedIgnore = "count_as_error") -> Float64Array:
        """Recall of each label (C+1,); NaN for a label that the truth lacks."""
        hit, truth, _ = self._counted(ignore)
        return divide(hit, truth)

    def coverage(self) -> float:
        """The share of known pixels that were given any label, 0..1."""
        return float(self.counts[:, :-1].sum() / max(self.counts.sum(), 1))

    def summarise(self, ignore: PredictedIgnore = "count_as_error") -> dict[str, float]:
        """mIoU, mean precision and mean recall over the labels that occur, with the background; and coverage."""
        return {
            "miou": mean(self.iou(ignore)),
            "precision": mean(self.precision()),
            "recall": mean(self.recall(ignore)),
            "coverage": self.coverage(),
        }


class ThresholdSweep:
    """Confusion matrices of score maps at many thresholds, counted in one pass.

    Args:
        classes: The number of object classes, C.
        thresholds: (T,), ascending.
    """

    def __init__(self, classes: int, thresholds: Float64Array) -> None:
        self.classes, self.thresholds = classes, np.asarray(thresholds)
        # Pixels by (true label, label with the highest score, number of thresholds that the score exceeds).
        self.counts = np.zeros((classes + 1, classes + 1, len(self.thresholds) + 1), np.int64)

    def add(self, truth: UInt8Array, scores: FloatArray, labels: UInt8Array) -> None:
        """Count one image.

        Args:
            truth: (H, W), uint8, 0..C and 255.
            scores: (K, H, W), float, 0..1.
            labels: (K,), uint8, the labels of the maps.
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
        """The confusion matrix at `thresholds[index]`; scores above it are foreground."""
        result = Confusion(self.classes)
        result.counts[:, :-1] = self.counts[:, :, index + 1 :].sum(2)
        result.counts[:, 0] += self.counts[:, :, : index + 1].sum((1, 2))
        return result

    def reliability(self, index: int) -> tuple[int, int]:
        """The pixels whose highest score is above `thresholds[index]` and not above the next, and how many are right.

        A pixel is right if its class of the highest score is its true one.
        """
        pixels = self.counts[:, :, index + 1]
        return int(pixels.sum()), int(np.trace(pixels[1:, 1:]))


def average_precision(scores: Float32Array, tags: BoolArray) -> float:
    """Mean average precision of a classifier over the classes that occur.

    Args:
        scores: (N, C), higher for more certain.
        tags: (N, C), bool.

    Returns:
        0..1, the mean area under the classes' precision-recall curves, without interpolation; NaN without a positive.
    """
    # Imported here, since it takes a second, which other users of this module can save.
    from sklearn.metrics import average_precision_score

    occurring = tags.any(0)
    if not occurring.any():
        return float("nan")
    return float(average_precision_score(tags[:, occurring], scores[:, occurring], average="macro"))


def divide(top: Int64Array | Float64Array, bottom: Int64Array) -> Float64Array:
    """The quotients; NaN where the divisor is 0."""
    quotients = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=quotients, where=bottom > 0)
    return quotients


def mean(values: Float64Array) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
