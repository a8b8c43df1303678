"""The report's table of classes: the IoU of every run, as bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rca.evaluation.protocol import KIND_NAMES


@dataclass(frozen=True)
class Bar:
    """An IoU over seeds, in percent: its mean as a number and as text, and its standard deviation as text."""

    share: float
    mean: str
    spread: str


@dataclass(frozen=True)
class ClassTable:
    """The IoU of one kind of mask on one split.

    Attributes:
        name: The kind and the split, e.g. "segmentation, val".
        rows: Each class's name, and its bar for each run; None if the run lacks it or no image shows the class. The
            background comes first and the mean last.
    """

    name: str
    rows: list[tuple[str, dict[str, Bar | None]]]


def arrange_classes(results: Mapping[str, Sequence[pd.DataFrame]]) -> list[ClassTable]:
    """Arrange the IoU of each class, at the best threshold if there is one, later kinds first.

    Args:
        results: For each run, the figures of each class that `evaluate` wrote for its seeds.
    """
    tables = []
    for run, run_tables in results.items():
        for table in run_tables:
            chosen = table[table["threshold"].fillna("") != "fixed"]
            # Grouped by place, since a class may be called "mean".
            tables.append(chosen.assign(run=run, place=chosen.groupby(["kind", "split"]).cumcount()))
    joined = pd.concat(tables)
    order = {kind: -number for number, kind in enumerate(KIND_NAMES)}
    scored = dict.fromkeys(zip(joined["kind"], joined["split"], strict=True))
    arranged = []
    for kind, split in sorted(scored, key=lambda masks: order[masks[0]]):
        lines = joined[(joined["kind"] == kind) & (joined["split"] == split)]
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
