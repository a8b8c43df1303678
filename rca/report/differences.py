"""Each class's IoU beside that of the first run, with intervals over seeds and over images; and the IoU of images."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import pandas as pd

from rca.evaluation.comparison import average, compare_figures, find_interval, resample_ious, score_images
from rca.evaluation.protocol import KIND_NAMES
from rca.report.errors import choose_best, choose_masks

COLUMNS = (
    "run", "masks", "class", "first", "second", "difference",
    "low_seeds", "high_seeds", "interval_seeds", "low_images", "high_images", "interval_images",
)  # fmt: skip
MEAN = "mean of all"  # a class may be called "mean"


class Series(TypedDict):
    """The IoU of images under one run's masks of a kind.

    Attributes:
        run: The run.
        masks: The kind and the split, e.g. "segmentation, val".
        split: The split.
        ious: For each image of the split, its IoU in tenths of a percent: the mean over its labels and over seeds.
    """

    run: str
    masks: str
    split: str
    ious: list[int]


class ImageScores(TypedDict):
    """The IoU of all images that were scored.

    Attributes:
        images: The images' ids, by split.
        series: The masks, later kinds first, run by run.
    """

    images: dict[str, list[str]]
    series: list[Series]


def list_masks(tables: Sequence[pd.DataFrame]) -> list[tuple[str, str]]:
    """The kinds and splits of masks in some tables, later kinds first."""
    order = {kind: -number for number, kind in enumerate(KIND_NAMES)}
    found = dict.fromkeys(pair for table in tables for pair in zip(table["kind"], table["split"], strict=True))
    return sorted(found, key=lambda masks: order[masks[0]])


def join_seeds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables of a run's seeds in one, at the best threshold if there is one, with the seed's number."""
    return pd.concat([choose_best(table).assign(seed=number) for number, table in enumerate(tables)])


def compare_classes(
    per_class: Mapping[str, Sequence[pd.DataFrame]], images: Mapping[str, Sequence[pd.DataFrame]], ignored: bool
) -> pd.DataFrame:
    """Compare each run with the first one, class by class.

    Args:
        per_class: For each run, the figures of each class that `evaluate` wrote for its seeds.
        images: For each run, the pixels of each image that it wrote.
        ignored: Whether undecided pixels are left out.

    Returns:
        `COLUMNS`, in percent and points: a line for each other run, kind of masks, and class, the background first and
        the mean last. Intervals over seeds are Student's t of the paired differences, missing for one seed; those over
        images are a paired bootstrap by percentiles.
    """
    figures = {run: number_classes(join_seeds(tables)) for run, tables in per_class.items()}
    counted = {run: drop_undecided(join_seeds(tables), ignored) for run, tables in images.items()}
    first, *others = figures
    lines: list[tuple[object, ...]] = []
    for kind, split in list_masks(list(figures.values())):
        scored = {run: choose_masks(table, kind, split) for run, table in figures.items()}
        runs = [run for run in others if not (scored[run].empty or scored[first].empty)]
        if not runs:
            continue
        _, drawn = resample_ious([choose_masks(counted[run], kind, split) for run in (first, *runs)])
        with_mean = np.concatenate([drawn, average(drawn)[..., None]], -1)
        for number, run in enumerate(runs, 1):
            low, high = find_interval(with_mean[:, number] - with_mean[:, 0])
            over_images = dict(zip([*range(len(low) - 1), MEAN], zip(low, high, strict=True), strict=True))
            for each in compare_figures(scored[first], scored[run], ("place", "class"), "iou"):
                place, name = each.name
                ends = ((each.low, each.high), over_images[MEAN if name == MEAN else int(place)])
                intervals = [value for pair in ends for value in (*(100 * end for end in pair), describe(*pair))]
                means = (100 * each.first, 100 * each.second, 100 * each.difference)
                lines.append((run, f"{KIND_NAMES[kind]}, {split}", name, *means, *intervals))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def number_classes(table: pd.DataFrame) -> pd.DataFrame:
    """Give each line the place of its class, and the last of each kind, split and seed the name `MEAN`."""
    groups = table.groupby(["kind", "split", "seed"])["class"]
    place, last = groups.cumcount(), groups.cumcount(ascending=False) == 0
    return table.assign(place=place, **{"class": table["class"].mask(last, MEAN)})


def drop_undecided(lines: pd.DataFrame, ignored: bool) -> pd.DataFrame:
    """Pixels of images and labels; undecided ones are no part of the truth if they are left out."""
    return lines.assign(truth=lines["truth"] - lines["undecided"]) if ignored else lines


def describe(low: float, high: float) -> str:
    """An interval of fractions in points; "unknown" without one."""
    return "unknown" if np.isnan(low) else f"{100 * low:+z.1f} to {100 * high:+z.1f}"


def collect_images(images: Mapping[str, Sequence[pd.DataFrame]], ignored: bool) -> ImageScores:
    """Collect the IoU of all images that were scored, as `compare_classes` takes them; -1 where it is unknown."""
    counted = {run: drop_undecided(join_seeds(tables), ignored) for run, tables in images.items()}
    masks = list_masks(list(counted.values()))
    listed = {
        split: sorted({image for table in counted.values() for image in table.loc[table["split"] == split, "image"]})
        for split in dict.fromkeys(split for _, split in masks)
    }
    series: list[Series] = []
    for run, table in counted.items():
        for kind, split in masks:
            lines = choose_masks(table, kind, split)
            if not lines.empty:
                means = score_images(lines).groupby("image")["iou"].mean().reindex(listed[split])
                ious = (1000 * means).round().fillna(-1).astype(int).tolist()
                series.append({"run": run, "masks": f"{KIND_NAMES[kind]}, {split}", "split": split, "ious": ious})
    return {"images": listed, "series": series}
