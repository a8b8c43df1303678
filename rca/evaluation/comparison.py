"""The difference of two runs, or of two states of one run: each figure, paired over random seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rca.evaluation.tables import CONFIDENCE, compare_pairs


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
