"""Tables of metrics: a line for each run, mean ± standard deviation over its seeds."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

# What the printed table shows of each kind, in this order; everything else is in the metrics files and table.csv.
KINDS = ("seed", "pseudo", "refined", "segmentation", "classification")
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
        `seeds`, in the runs' own order and the pipeline's order of kinds.
    """
    rows = []
    for run, of_seeds in metrics.items():
        flat = [dict(flatten(one)) for one in of_seeds]
        names = dict.fromkeys(key for one in flat for key in one)
        for name in sorted(names, key=lambda name: KINDS.index(name.split(".")[0])):
            values = np.array([one[name] for one in flat if one.get(name) is not None], dtype=float)
            if name.rpartition(".")[2] in SHOWN and len(values):
                spread = values.std(ddof=1) if len(values) > 1 else math.nan
                rows.append((run, name, values.mean(), spread, len(values)))
    return pd.DataFrame(rows, columns=["run", "metric", "mean", "std", "seeds"])


def format_markdown(table: pd.DataFrame) -> str:
    """A Markdown table in percent: a line for each run and threshold, a column for each kind of mask and split."""
    header, *lines = _arrange(table, " ± ")
    rule = ["---", "---"] + ["---:"] * (len(header) - 2)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, rule, *lines))


def format_latex(table: pd.DataFrame) -> str:
    """The same table in LaTeX (booktabs)."""
    header, *lines = _arrange(table, r" $\pm$ ")
    escaped = [[cell.replace("_", r"\_").replace("%", r"\%") for cell in cells] for cells in (header, *lines)]
    body = [" & ".join(cells) + r" \\" for cells in escaped]
    start = rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}"
    return "\n".join([start, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", ""])


def _arrange(table: pd.DataFrame, plus_minus: str) -> list[list[str]]:
    """The cells of the printed table, header first.

    A metric is named `<kind>.<split>[.<threshold>].<figure>`; what has no threshold stands in a run's first line.
    """
    cells: dict[tuple[str, str, str], str] = {}
    for row in table.itertuples():
        kind, split, *rest, _ = str(row.metric).split(".")
        spread = "" if math.isnan(row.std) else f"{plus_minus}{100 * row.std:.1f}"
        column = f"{kind} {split}" if kind != "classification" else f"mAP {split}"
        cells[str(row.run), rest[0] if rest else "", column] = f"{100 * row.mean:.1f}{spread}"
    columns = list(dict.fromkeys(column for _, _, column in cells))
    lines = [["run", "threshold", *columns]]
    for run in dict.fromkeys(table["run"].astype(str)):
        choices = list(dict.fromkeys(choice for one, choice, _ in cells if one == run and choice)) or [""]
        for number, choice in enumerate(choices):
            shared = "" if number == 0 else "-"  # no column is keyed by "-"
            lines.append(
                [run, choice, *(cells.get((run, choice, c)) or cells.get((run, shared, c), "") for c in columns)]
            )
    return lines
