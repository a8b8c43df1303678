"""Tables of metrics: a line for each run, mean ± standard deviation over its seeds."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

# What the table shows of each kind; everything else is in the metrics files.
SHOWN = ("miou", "map")


def flatten(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield a metric's dotted name, e.g. `seed.train.best.miou`, and its value."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def build_table(metrics: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """Mean and standard deviation over seeds.

    Args:
        metrics: For each run the metrics of its seeds, nested, as fractions.

    Returns:
        A line for each run and metric: `run`, `metric` (dotted name), `mean`, `std` (of a sample; NaN for one seed) and
        `seeds`, in the runs' and metrics' own order.
    """
    rows = []
    for run, of_seeds in metrics.items():
        flat = [dict(flatten(one)) for one in of_seeds]
        for name in dict.fromkeys(key for one in flat for key in one):
            values = np.array([one[name] for one in flat if one.get(name) is not None], dtype=float)
            if name.rpartition(".")[2] in SHOWN and len(values):
                spread = values.std(ddof=1) if len(values) > 1 else math.nan
                rows.append((run, name, values.mean(), spread, len(values)))
    return pd.DataFrame(rows, columns=["run", "metric", "mean", "std", "seeds"])


def format_markdown(table: pd.DataFrame) -> str:
    """A Markdown table in percent: a line for each run, a column for each metric."""
    header, *lines = _arrange(table, " ± ")
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, rule, *lines))


def format_latex(table: pd.DataFrame) -> str:
    """The same table in LaTeX (booktabs)."""
    header, *lines = _arrange(table, r" $\pm$ ")
    escaped = [[cell.replace("_", r"\_").replace("%", r"\%") for cell in cells] for cells in (header, *lines)]
    body = [" & ".join(cells) + r" \\" for cells in escaped]
    start = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    return "\n".join([start, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", ""])


def _arrange(table: pd.DataFrame, plus_minus: str) -> list[list[str]]:
    names = list(dict.fromkeys(table["metric"]))
    cells = {(row.run, row.metric): row for row in table.itertuples()}
    header = ["run", *(name.replace(".", " ").replace(" miou", "").replace("map", "mAP") for name in names)]
    lines = [header]
    for run in dict.fromkeys(table["run"]):
        line = [str(run)]
        for name in names:
            row = cells.get((run, name))
            if row is None:
                line.append("")
            else:
                spread = "" if math.isnan(row.std) else f"{plus_minus}{100 * row.std:.1f}"
                line.append(f"{100 * row.mean:.1f}{spread}")
        lines.append(line)
    return lines
