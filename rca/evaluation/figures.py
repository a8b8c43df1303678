"""The figures of a run: those of all its masks, and that of its classifier."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rca.core.arrays import Int64Array, UInt8Array
from rca.core.files import IGNORE, read_mask
from rca.core.progress import track
from rca.data.manifest import Manifest
from rca.evaluation.errors import SHARES, ErrorCounts
from rca.evaluation.image_counts import count_labels
from rca.evaluation.mask_counts import MaskCounts, Truth
from rca.evaluation.masks import Key, Masks
from rca.evaluation.metrics import Figures, Metrics, PredictedIgnore, average_precision, mean
from rca.evaluation.protocol import SEGMENTED, TAGS
from rca.labels.thresholds import CHOICES


class Counted:
    """All that is counted of some masks.

    Args:
        classes: The number of object classes, C.

    Attributes:
        masks: The pixels of all images.
        errors: Them by kind of error.
        images: Each image's id and its pixels, from `rca.evaluation.image_counts.count_labels`.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.masks, self.errors = MaskCounts(classes), ErrorCounts(classes)
        self.images: list[tuple[str, Int64Array]] = []

    def add(self, image_id: str, truth: Truth, mask: UInt8Array) -> None:
        """Count one image's mask (H, W), uint8, 0..C and 255."""
        counts = MaskCounts(self.classes)
        counts.add(truth, mask)
        self.masks += counts
        self.errors.add(truth.labels, mask, counts.confusion)
        self.images.append((image_id, count_labels(counts.confusion)))

    def __iadd__(self, other: "Counted") -> "Counted":
        self.masks += other.masks
        self.errors += other.errors
        self.images += other.images
        return self


def score_masks(
    manifest: Manifest, masks: Masks, wanted: Mapping[str, Sequence[str]], boundary_distance: float
) -> dict[Key, Counted]:
    """Count the pixels of masks of each kind, split and threshold, reading each image's truth once.

    Args:
        manifest: The dataset.
        masks: The run's masks.
        wanted: The splits to score, by kind.
        boundary_distance: The boundary IoU's distance from a contour, as a share of an image's diagonal.

    Raises:
        UserError: an image lacks a true mask or one of the run's, or no image belongs to a split.
    """
    classes = len(manifest.classes)
    totals = {
        Key(kind, split, choice): Counted(classes)
        for kind, splits in wanted.items()
        for split in splits
        for choice in (("",) if kind in SEGMENTED else CHOICES)
    }
    records = manifest.select_any(tuple({key.split for key in totals}))
    for record in track(records, "scoring", len(records)):
        truth = Truth(read_mask(manifest.truth(record)), boundary_distance)
        for kind, splits in wanted.items():
            scored = [split for split in splits if split in record.splits]
            for keys, mask in masks.read(kind, record, scored) if scored else ():
                counted = Counted(classes)
                counted.add(record.id, truth, mask)
                for key in keys:
                    totals[key] += counted
    return totals


def score_classifier(manifest: Manifest, masks: Masks, split: str) -> float:
    """Mean average precision of the classifier's scores of a split's images."""
    records = manifest.select(split)
    scores = [masks.find_shard(record).read_logits(record.id) for record in records]
    tags = [manifest.encode_tags(record) for record in records]
    return average_precision(np.stack(scores), np.stack(tags).astype(bool))


def collect_metrics(
    counts: Mapping[Key, Counted],
    ranking: Mapping[str, float],
    manifest: Manifest,
    thresholds: Mapping[str, float],
    ignore: PredictedIgnore,
) -> Metrics:
    """All figures as fractions, those of errors as means over the classes; None where there is nothing to average."""
    metrics: Metrics = {}

    def plain(figures: dict[str, float]) -> Figures:
        return {name: None if math.isnan(value) else round(value, 6) for name, value in figures.items()}

    for (kind, split, choice), counted in counts.items():
        split_metrics = metrics.setdefault(kind, {}).setdefault(split, {})
        shares = counted.errors.share(ignore)
        figures = {**counted.masks.summarise(ignore), **{name: mean(values) for name, values in shares.items()}}
        if choice:
            split_metrics[choice] = plain({**figures, "threshold": thresholds[choice]})
        else:
            split_metrics.update(plain(figures))
    for split, value in ranking.items():
        images = len(manifest.select(split))
        metrics.setdefault("classification", {}).setdefault(split, {}).update(plain({"map": value, "images": images}))
    return metrics


def list_per_class(counts: Mapping[Key, Counted], classes: tuple[str, ...], ignore: PredictedIgnore) -> pd.DataFrame:
    """A table of the figures of each kind, split, threshold and class, and of the classes' mean.

    The background has no kinds of errors: each of its errors is one of a class.
    """
    figures = ("iou", "boundary_iou", "precision", "recall")
    rows = []
    for (kind, split, choice), counted in counts.items():
        summary = counted.masks.summarise(ignore)
        lines = [*counted.masks.list_labels(ignore), [summary[name] for name in ("miou", *figures[1:])]]
        of_classes = counted.errors.share(ignore)
        shares = np.stack([of_classes[name] for name in SHARES], 1)
        wrong = [np.full(len(SHARES), np.nan), *shares, [mean(values) for values in shares.T]]
        for name, line, shown in zip(("background", *classes, "mean"), lines, wrong, strict=True):
            rows.append((kind, split, choice, TAGS[kind], counted.masks.images, ignore, name, *line, *shown))
    columns = ["kind", "split", "threshold", "tags", "images", "predicted_ignore", "class", *figures, *SHARES]
    return pd.DataFrame(rows, columns=columns)


def list_confusion(counts: Mapping[Key, Counted]) -> pd.DataFrame:
    """A table of the confusion matrix of each kind, split and threshold, with a line for each entry that is not 0.

    Columns kind, split, threshold, truth, predicted (labels; 255 for undecided) and pixels.
    """
    rows = []
    for key, counted in counts.items():
        pixels = counted.masks.confusion.counts
        labels = [*range(pixels.shape[0]), IGNORE]
        rows += [(*key, truth, labels[found], pixels[truth, found]) for truth, found in np.argwhere(pixels)]
    return pd.DataFrame(rows, columns=["kind", "split", "threshold", "truth", "predicted", "pixels"])
