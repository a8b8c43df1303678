"""The figures of a run: those of all its masks, and that of its classifier."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rca.core.files import read_mask
from rca.core.progress import track
from rca.data.manifest import Manifest
from rca.evaluation.mask_counts import MaskCounts, Truth
from rca.evaluation.masks import Key, Masks
from rca.evaluation.metrics import Figures, Metrics, PredictedIgnore, average_precision
from rca.evaluation.protocol import TAGS
from rca.labels.thresholds import CHOICES


def score_masks(
    manifest: Manifest, masks: Masks, wanted: Mapping[str, Sequence[str]], boundary_distance: float
) -> dict[Key, MaskCounts]:
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
        Key(kind, split, choice): MaskCounts(classes)
        for kind, splits in wanted.items()
        for split in splits
        for choice in (("",) if kind == "segmentation" else CHOICES)
    }
    records = manifest.select_any(tuple({key.split for key in totals}))
    for record in track(records, "scoring", len(records)):
        truth = Truth(read_mask(manifest.truth(record)), boundary_distance)
        for kind, splits in wanted.items():
            scored = [split for split in splits if split in record.splits]
            for keys, mask in masks.read(kind, record, scored) if scored else ():
                counts = MaskCounts(classes)
                counts.add(truth, mask)
                for key in keys:
                    totals[key] += counts
    return totals


def score_classifier(manifest: Manifest, masks: Masks, split: str) -> float:
    """Mean average precision of the classifier's scores of a split's images."""
    records = manifest.select(split)
    scores = [masks.find_shard(record).read_logits(record.id) for record in records]
    tags = [manifest.encode_tags(record) for record in records]
    return average_precision(np.stack(scores), np.stack(tags).astype(bool))


def collect_metrics(
    counts: Mapping[Key, MaskCounts],
    ranking: Mapping[str, float],
    manifest: Manifest,
    thresholds: Mapping[str, float],
    ignore: PredictedIgnore,
) -> Metrics:
    """All figures as fractions; None where there is nothing to average."""
    metrics: Metrics = {}

    def plain(figures: dict[str, float]) -> Figures:
        return {name: None if math.isnan(value) else round(value, 6) for name, value in figures.items()}

    for (kind, split, choice), mask_counts in counts.items():
        split_metrics = metrics.setdefault(kind, {}).setdefault(split, {})
        figures = mask_counts.summarise(ignore)
        if choice:
            split_metrics[choice] = plain({**figures, "threshold": thresholds[choice]})
        else:
            split_metrics.update(plain(figures))
    for split, value in ranking.items():
        images = len(manifest.select(split))
        metrics.setdefault("classification", {}).setdefault(split, {}).update(plain({"map": value, "images": images}))
    return metrics


def list_per_class(counts: Mapping[Key, MaskCounts], classes: tuple[str, ...], ignore: PredictedIgnore) -> pd.DataFrame:
    """A table of the figures of each kind, split, threshold and class, and of the classes' mean."""
    figures = ("iou", "boundary_iou", "precision", "recall")
    rows = []
    for (kind, split, choice), mask_counts in counts.items():
        summary = mask_counts.summarise(ignore)
        lines = [*mask_counts.list_labels(ignore), [summary[name] for name in ("miou", *figures[1:])]]
        for name, line in zip(("background", *classes, "mean"), lines, strict=True):
            rows.append((kind, split, choice, TAGS[kind], mask_counts.images, ignore, name, *line))
    columns = ["kind", "split", "threshold", "tags", "images", "predicted_ignore", "class", *figures]
    return pd.DataFrame(rows, columns=columns)
