"""Curves as SVG files, for light and dark pages; the same figures give the same bytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe and Ito's colours, which colour-blind people can tell apart, without yellow and black: those vanish on a light
# or on a dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("solid", "dashed", "dotted")
# Size on the page, in pixels.
WIDTH, HEIGHT = 480, 300

# A placeholder: the colour of axes and letters follows the viewer's colour scheme.
_INK = "#5a6472"
_STYLE = "<style>svg{color:#4b5563}@media (prefers-color-scheme:dark){svg{color:#b4bcc8}}</style>"
_SETTINGS: "dict[RcKeyType, object]" = {
    "svg.hashsalt": "rca",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


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


def draw_curves(
    path: Path, curves: Mapping[str, pd.DataFrame], lines: Mapping[str, Line], x: str, y: str, *, mark_highest: bool
) -> None:
    """Write a chart with a line for each run and a band from the lowest to the highest seed.

    Args:
        path: The SVG file.
        curves: The summary of each run, from `summarise_seeds`.
        lines: The line of each run.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        mark_highest: Whether a dot marks each line's highest point.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), layout="constrained")
        axes = figure.add_subplot()
        for run, curve in curves.items():
            line = lines[run]
            marker = "o" if len(curve) < 2 else ""  # a line through one point is invisible
            axes.fill_between(curve.index, curve["low"], curve["high"], color=line.colour, alpha=0.2, linewidth=0)
            axes.plot(curve.index, curve["mean"], color=line.colour, linestyle=line.dash, marker=marker, markersize=4)
            if mark_highest and len(curve):
                top = curve[curve["mean"] == curve["mean"].max()].iloc[:1]
                axes.plot(top.index, top["mean"], "o", color=line.colour, markersize=5)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(True)
        if x == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace(_INK, "currentColor").replace("<defs>", f"<defs>{_STYLE}", 1)
    path.write_text(text, encoding="utf-8")
