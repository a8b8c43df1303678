"""The difference of two runs, or of two states of one run: paired over random seeds, and over images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rca.core.arrays import Float64Array, Int64Array
from rca.evaluation.metrics import divide
from rca.evaluation.tables import CONFIDENCE, compare_pairs

CHUNK = 100  # draws at a time, so that memory holds their weights


class Difference(NamedTuple):
    """A figure of two runs.

    Attributes:
        name: What the figure is of, e.g. ("seed", "val", "best", "miou").
        first: The first run's mean over the seeds that both have.
        second: The second run's.
        difference: `second - first`.
        low: The lower end of its interval, paired over seeds; NaN for one seed.
        high: The upper end.
        seeds: The number of seeds that both have.
    """

    name: tuple[str, ...]
    first: float
    second: float
    difference: float
    low: float
    high: float
    seeds: int


def compare_figures(first: pd.DataFrame, second: pd.DataFrame, names: Sequence[str], value: str) -> list[Difference]:
    """Compare the figures that two frames share, seed by seed.

    Args:
        first: A line for each figure and seed: the columns `names`, `seed` and `value`.
        second: The same of the other run.
        names: The columns that name a figure.
        value: The column of its value; lines of NaN are left out.

    Returns:
        The differences, in the order of the first frame.
    """
    key = [*names, "seed"]
    both = first.dropna(subset=[value]).merge(second.dropna(subset=[value]), on=key, suffixes=("_first", "_second"))
    found = []
    for name, lines in both.groupby(list(names), sort=False):
        before, after = (lines[f"{value}_{which}"].to_numpy(np.float64) for which in ("first", "second"))
        _, low, high = compare_pairs(after, before)
        difference = float((after - before).mean())
        found.append(Difference(name, float(before.mean()), float(after.mean()), difference, low, high, len(lines)))
    return found


def score_images(lines: pd.DataFrame) -> pd.DataFrame:
    """The IoU of each image and seed, the mean over the labels in its truth or mask; undecided pixels are errors.

    Args:
        lines: Columns image, seed, label, hit, truth and predicted, as `rca.results` gives them.

    Returns:
        Columns image, seed and iou.
    """
    ious = lines["hit"] / (lines["truth"] + lines["predicted"] - lines["hit"])
    return lines.assign(iou=ious).groupby(["image", "seed"], sort=False)["iou"].mean().reset_index()


def resample_images(
    first: pd.DataFrame, second: pd.DataFrame, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The difference of two runs' mIoU, with its interval over images: a paired bootstrap, by percentiles.

    Args:
        first: Columns image, label, hit, truth and predicted; lines of several seeds are added.
        second: The same of the other run.
        draws: How often the images are drawn, with replacement.
        seed: The seed of the draws.

    Returns:
        mIoU of the second less that of the first, over the images that both have, and the ends of the interval; NaN if
        they share no image.
    """
    images = sorted(set(first["image"]) & set(second["image"]))
    if not images:
        return float("nan"), float("nan"), float("nan")
    labels = max(first["label"].max(), second["label"].max()) + 1
    counts = np.stack([_arrange(lines, images, labels) for lines in (first, second)], 1)
    flat = counts.reshape(len(images), -1)
    random = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, CHUNK):
        weights = random.multinomial(len(images), np.full(len(images), 1 / len(images)), min(CHUNK, draws - start))
        found.append(_subtract((weights @ flat).reshape(-1, *counts.shape[1:])))
    low, high = np.quantile(np.concatenate(found), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(_subtract(counts.sum(0)[None])[0]), float(low), float(high)


def _arrange(lines: pd.DataFrame, images: Sequence[str], labels: int) -> Int64Array:
    """Pixels of each image and label: in both, in the truth, and predicted (N, 3, labels)."""
    arranged = np.zeros((len(images), 3, labels), np.int64)
    chosen = lines[lines["image"].isin(images)]
    places = chosen["image"].map({image: place for place, image in enumerate(images)}).to_numpy()
    for number, name in enumerate(("hit", "truth", "predicted")):
        np.add.at(arranged, (places, number, chosen["label"].to_numpy()), chosen[name].to_numpy())
    return arranged


def _subtract(counts: Int64Array) -> Float64Array:
    """The differences of mIoU of pixels (draws, 2, 3, labels): the second run less the first."""
    hit, truth, predicted = counts[:, :, 0], counts[:, :, 1], counts[:, :, 2]
    mious = np.nanmean(divide(hit, truth + predicted - hit), axis=2)
    differences: Float64Array = mious[:, 1] - mious[:, 0]
    return differences


def format_comparison(differences: Sequence[Difference], header: Sequence[str]) -> str:
    """A Markdown table in percent, and points for the differences; one that may be chance stands in brackets.

    Args:
        differences: The lines.
        header: The names of the columns: what the figure is of, the first run and the second.
    """
    lines = [[*header, "difference", f"{CONFIDENCE:.0%} interval"]]
    for each in differences:
        interval = "" if np.isnan(each.low) else f"[{100 * each.low:+z.1f}, {100 * each.high:+z.1f}]"
        points = f"{100 * each.difference:+z.1f}"
        certain = each.difference == 0 or each.low > 0 or each.high < 0
        means = [f"{100 * mean:.1f}" for mean in (each.first, each.second)]
        lines.append([" ".join(filter(None, each.name)), *means, points if certain else f"({points})", interval])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    ]
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([rows[0], rule, *rows[1:]]) + "\n"
