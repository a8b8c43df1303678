"""The report's figures of each class: the IoU of every run, as bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rca.evaluation.protocol import KIND_NAMES


@dataclass(frozen=True)
class Bar:
    """An IoU over seeds, in percent: its mean as a number and as it is printed, and ± its standard deviation."""

    share: float
    mean: str
    spread: str


@dataclass(frozen=True)
class ClassTable:
    """The IoU of one kind of mask on one split.

    Attributes:
        name: What was scored, e.g. "segmentation, val".
        rows: A class's name and its bar of each run; None where the run has none, or no image has the class. Background
            comes first, and the mean last.
    """

    name: str
    rows: list[tuple[str, dict[str, Bar | None]]]


def arrange_classes(results: Mapping[str, Sequence[pd.DataFrame]]) -> list[ClassTable]:
    """Arrange the IoU of each class, at the best threshold where there is one, the last kinds first.

    Args:
        results: For each run its seeds' figures of each class, as `evaluate` writes them.
    """
    tables = []
    for run, of_seeds in results.items():
        for table in of_seeds:
            chosen = table[table["threshold"].fillna("") != "fixed"]
            # By place, since a class may be called "mean".
            tables.append(chosen.assign(run=run, place=chosen.groupby(["kind", "split"]).cumcount()))
    every = pd.concat(tables)
    order = {kind: -number for number, kind in enumerate(KIND_NAMES)}
    found = sorted(dict.fromkeys(zip(every["kind"], every["split"], strict=True)), key=lambda one: order[one[0]])
    arranged = []
    for kind, split in found:
        lines = every[(every["kind"] == kind) & (every["split"] == split)]
        figures = lines.groupby(["run", "place"])["iou"].agg(["mean", "std"])
        names = lines.drop_duplicates("place").sort_values("place")["class"]
        rows = [(name, {run: _make_bar(figures, (run, place)) for run in results}) for place, name in enumerate(names)]
        arranged.append(ClassTable(f"{KIND_NAMES[kind]}, {split}", rows))
    return arranged


def _make_bar(figures: pd.DataFrame, key: tuple[str, int]) -> Bar | None:
    if key not in figures.index or pd.isna(mean := 100 * figures.loc[key, "mean"]):
        return None
    spread = 100 * figures.loc[key, "std"]
    return Bar(round(mean, 1), f"{mean:.1f}", "" if pd.isna(spread) else f"{spread:.1f}")
