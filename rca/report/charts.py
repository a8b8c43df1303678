"""What the page's charts show of runs: their colours, and the mean and range over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

# Okabe and Ito's colours, which colour-blind people can tell apart, without yellow and black: those vanish on a light
# or on a dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("solid", "dashed", "dotted")


@dataclass(frozen=True)
class Line:
    """How a run is drawn in every chart.

    Attributes:
        run: The run's name.
        colour: As CSS.
        dash: "solid", "dashed" or "dotted".
    """

    run: str
    colour: str
    dash: str


def assign_lines(runs: Sequence[str]) -> dict[str, Line]:
    """Give each run its own line: colours differ first, then dashes."""
    return {
        run: Line(run, COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)])
        for number, run in enumerate(runs)
    }


def summarise_seeds(tables: Sequence[pd.DataFrame], x: str, y: str) -> pd.DataFrame:
    """Mean, lowest and highest `y` over seeds at each `x`.

    Args:
        tables: A table for each seed; those without the column `y` are left out.
        x: The column of the horizontal axis.
        y: The column of the vertical axis.

    Returns:
        Columns `mean`, `low` and `high`, indexed by ascending `x`; empty if no table has the column `y`.
    """
    parts = [table[[x, y]].dropna() for table in tables if y in table]
    if not parts:
        return pd.DataFrame(columns=["mean", "low", "high"], dtype=float)
    groups = pd.concat(parts).groupby(x)[y]
    return pd.DataFrame({"mean": groups.mean(), "low": groups.min(), "high": groups.max()})


def measure_reliability(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """How often the class with the highest score is right, by the score.

    Args:
        tables: For each seed the curve over thresholds that `choose_threshold` wrote, with the same thresholds.

    Returns:
        A line for each range of scores with a pixel, from a threshold to the next: columns `low`, `high`, `pixels` of
        all seeds, and `right`, the share of them that is right.
    """
    joined = pd.concat(tables)
    sums = joined.groupby("threshold")[["pixels", "right"]].sum().reset_index()
    ends = [*sums["threshold"][1:], 1.0]
    lines = pd.DataFrame({"low": sums["threshold"], "high": ends[: len(sums)], "pixels": sums["pixels"]})
    lines["right"] = sums["right"] / sums["pixels"]
    return lines[lines["pixels"] > 0].astype({"pixels": int})
