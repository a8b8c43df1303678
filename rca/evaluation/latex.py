"""The table of a paper in LaTeX (booktabs): the best in bold, spreads, marks of significance, and published figures."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rca.core.errors import UserError
from rca.core.reading import read_text
from rca.evaluation.tables import CONFIDENCE, Row, arrange, choose_shown, format_mean, take_apart

SPECIAL = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "“": "``",
    "”": "''",
}
MARK = "$^{*}$"
PUBLISHED = ("method", "metric", "percent", "source")


class Published(NamedTuple):
    """A published figure.

    Attributes:
        method: The method.
        metric: What the figure is, as `table.csv` names it, e.g. segmentation.val.miou.
        percent: Its value in percent.
        source: Where it was published.
    """

    method: str
    metric: str
    percent: float
    source: str


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def read_published(path: Path, metrics: Sequence[str]) -> list[Published]:
    """Read published figures from a CSV file with the columns `PUBLISHED`.

    Args:
        path: The file.
        metrics: The metrics of the table.

    Raises:
        UserError: a column or a source is missing, a value is no percentage, or a metric is not in the table.
    """
    lines = csv.DictReader(read_text(path).splitlines())
    if missing := [name for name in PUBLISHED if name not in (lines.fieldnames or ())]:
        raise UserError(f"{path} has no column {missing[0]}: its first line must be {','.join(PUBLISHED)}.")
    found = []
    for number, line in enumerate(lines, 2):
        method, metric, percent, source = (str(line[name] or "").strip() for name in PUBLISHED)
        if not re.fullmatch(r"\d{1,3}(\.\d+)?", percent) or float(percent) > 100:
            raise UserError(f"{path}, line {number}: {percent!r} is no percentage: write 0 to 100, e.g. 64.2.")
        if not method or not source:
            raise UserError(f"{path}, line {number}: a figure needs a method and the source that published it.")
        if metric not in metrics:
            raise UserError(f"{path}, line {number}: the table has no {metric!r}: choose from {', '.join(metrics)}.")
        found.append(Published(method, metric, float(percent), source))
    return found


def format_latex(table: pd.DataFrame, published: Sequence[Published] = ()) -> str:
    """The table of means in percent, the highest of each column bold.

    A star marks a difference to the first run whose interval leaves out 0. Published figures stand below, each method
    with its source; they take no part in what is bold.
    """
    shown = choose_shown(table)
    highest = shown.groupby("metric")["mean"].max().to_dict()
    several = shown["run"].nunique() > 1

    def describe(row: Row) -> str:
        mean, _, spread = format_mean(row, "±").partition("±")
        best = several and mean == f"{100 * highest[row.metric]:.1f}"
        cell = rf"\textbf{{{mean}}}" if best else mean
        return cell + (MARK if row.low > 0 or row.high < 0 else "") + (rf" $\pm$ {spread}" if spread else "")

    header, *lines = arrange(shown, describe)
    body = [[escape(run), escape(choice), *cells] for run, choice, *cells in lines]
    below = arrange_published(published, header)
    start = rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}"
    rows = [draw(map(escape, header)), r"\midrule", *map(draw, body)]
    rows += [r"\midrule", *map(draw, below)] if below else []
    return "\n".join([start, r"\toprule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def arrange_published(published: Sequence[Published], header: Sequence[str]) -> list[list[str]]:
    """The cells of published figures: a line for each method, source and threshold."""
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for figure in published:
        metric = take_apart(figure.metric)
        line = lines.setdefault((figure.method, figure.source, metric.choice), {})
        line[metric.column] = f"{figure.percent:.1f}"
    return [
        [f"{escape(method)} ({escape(source)})", escape(choice), *(cells.get(name, "") for name in header[2:])]
        for (method, source, choice), cells in lines.items()
    ]


def draw(cells: Iterable[str]) -> str:
    """A line of a table."""
    return " & ".join(cells) + r" \\"


def format_float(table: pd.DataFrame, published: Sequence[Published], protocols: str) -> str:
    """The table as a float of a paper, with the protocol of its figures as its caption.

    Args:
        table: From `rca.evaluation.tables.build_table`.
        published: Published figures.
        protocols: The protocol in sentences.
    """
    seeds = int(table["seeds"].max())
    sentences = ["In percent" + (f", mean ± sample standard deviation over {seeds} seeds." if seeds > 1 else ".")]
    if table["low"].notna().any():
        difference = f"a difference to {table['run'].iloc[0]} whose {CONFIDENCE:.0%} interval, paired over seeds,"
        sentences.append(f"A star marks {difference} leaves out 0.")
    caption = escape(" ".join([*sentences, *protocols.split()]))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", format_latex(table, published).rstrip()]
    return "\n".join([*lines, r"\end{table}", ""])
