"""The difference of two runs, or of two states of one run: paired over random seeds, and over images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

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


def resample_ious(
    tables: Sequence[pd.DataFrame], draws: int = 1000, seed: int = 0
) -> tuple[Float64Array, Float64Array]:
    """IoU of several runs over the images that all have, and over images drawn from them, the same for all runs.

    Args:
        tables: For each of R runs the columns image, seed, label, hit, truth and predicted.
        draws: How often as many images are drawn, with replacement.
        seed: The seed of the draws.

    Returns:
        (R, L) and (draws, R, L): means over the seeds that all runs have; NaN for a label that no drawn image shows,
        and for all where the runs share no image or seed.
    """
    seeds = sorted(set.intersection(*(set(lines["seed"]) for lines in tables)))
    images = sorted(set.intersection(*(set(lines["image"]) for lines in tables)))
    labels = int(max((lines["label"].max() for lines in tables if len(lines)), default=-1)) + 1
    shape = (len(tables), len(seeds), labels, 3)
    if not images or not seeds:
        return np.full((len(tables), labels), np.nan), np.full((draws, len(tables), labels), np.nan)
    chosen = [lines[lines["image"].isin(images) & lines["seed"].isin(seeds)] for lines in tables]
    pixels = _arrange(chosen, images, seeds, shape)
    random = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, CHUNK):
        weights = random.multinomial(len(images), np.full(len(images), 1 / len(images)), min(CHUNK, draws - start))
        found.append(_measure((pixels @ weights.T).T.reshape(-1, *shape)))
    return _measure(np.asarray(pixels.sum(1)).reshape(1, *shape))[0], np.concatenate(found)


def find_interval(drawn: Float64Array) -> tuple[Float64Array, Float64Array]:
    """The ends of the interval of figures (draws, ...), by percentiles; NaN where no draw has a figure."""
    known = np.isfinite(drawn).any(0)
    ends = np.full((2, *known.shape), np.nan)
    ends[:, known] = np.nanquantile(drawn[:, known], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return ends[0], ends[1]


def resample_images(first: pd.DataFrame, second: pd.DataFrame, draws: int = 1000) -> tuple[float, float, float]:
    """The difference of two runs' mIoU, with its interval over images: a paired bootstrap, by percentiles.

    Args:
        first: Columns image, seed, label, hit, truth and predicted.
        second: The same of the other run.
        draws: How often the images are drawn, with replacement.

    Returns:
        mIoU of the second less that of the first, over the images and seeds that both have, and the ends of the
        interval; NaN if they share none.
    """
    whole, drawn = resample_ious((first, second), draws)
    difference, differences = (average(ious[..., 1, :]) - average(ious[..., 0, :]) for ious in (whole, drawn))
    low, high = find_interval(differences)
    return float(difference), float(low), float(high)


def average(ious: Float64Array) -> Float64Array:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    known = np.isfinite(ious)
    return divide(np.where(known, ious, 0).sum(-1), known.sum(-1))


def _arrange(
    tables: Sequence[pd.DataFrame], images: Sequence[str], seeds: Sequence[int], shape: tuple[int, ...]
) -> sparse.csr_array:
    """Pixels (R * S * L * 3, N) of each run, seed and label in both, in the truth, and in the mask, by image."""
    place_of = {image: place for place, image in enumerate(images)}
    rows, columns, values = [], [], []
    for run, lines in enumerate(tables):
        at = lines["image"].map(place_of).to_numpy()
        number = np.searchsorted(seeds, lines["seed"])
        for which, name in enumerate(("hit", "truth", "predicted")):
            rows.append(np.ravel_multi_index((run, number, lines["label"].to_numpy(), which), shape))
            columns.append(at)
            values.append(lines[name].to_numpy())
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array(entries, (int(np.prod(shape)), len(images)))


def _measure(pixels: Int64Array) -> Float64Array:
    """The IoU (draws, R, L) of pixels (draws, R, S, L, 3): means over the seeds."""
    hit, truth, predicted = np.moveaxis(pixels, -1, 0)
    return average(np.moveaxis(divide(hit, truth + predicted - hit), 2, -1))


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
