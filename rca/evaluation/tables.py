"""Tables of metrics: a line for each run, mean ± standard deviation over its seeds, and its difference to the first."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from rca.core.arrays import Float64Array
from rca.evaluation.metrics import Figures, Metrics
from rca.evaluation.protocol import TAGS, EvaluationProtocol, group_protocols
from rca.labels.thresholds import CHOICES

# What the tables show of each kind, in this order; everything else is in the metrics files.
KINDS = (*TAGS, "classification")
SHOWN = ("miou", "map", "weak_over_full")
# What they show beside it of masks that leave pixels undecided, and what that is called.
UNDECIDED = {
    "miou_count_as_error": "undecided as errors",
    "miou_exclude": "undecided left out",
    "coverage": "coverage",
}
# Figures that need a name of their own beside the mask's.
FIGURES = {**UNDECIDED, "weak_over_full": "weak over full"}
CONFIDENCE = 0.95  # of the interval of a difference


class Row(NamedTuple):
    """A line of the table: a run's figure.

    Attributes:
        run: The run.
        metric: The figure's dotted name.
        tags: See `rca.evaluation.protocol.TAGS`.
        images: How many were scored; None where that is not known.
        mean: Over the seeds.
        std: Of a sample; NaN for one seed.
        seeds: How many have the figure.
        difference: To the first run, from `compare_pairs`; NaN for the first run.
        low: The lower end of the difference's interval.
        high: The upper end.
    """

    run: str
    metric: str
    tags: str
    images: float | None
    mean: float
    std: float
    seeds: int
    difference: float
    low: float
    high: float


COLUMNS = list(Row._fields)


def read_rows(table: pd.DataFrame) -> Iterator[Row]:
    """The lines of what `build_table` gave."""
    yield from map(Row._make, table[COLUMNS].itertuples(index=False))


def flatten(metrics: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield a metric's dotted name, e.g. `seed.train.best.miou`, and its value."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{name}", value


def add_weak_over_full(metrics: Mapping[str, list[Metrics]], full: Mapping[str, str]) -> dict[str, list[Metrics]]:
    """Add to each run's segmentation its mIoU as a share of that under full supervision, seed by seed.

    Args:
        metrics: As for `build_table`.
        full: For each run the one whose same network was trained on true masks; runs that have none are left out.

    Returns:
        The metrics with `segmentation.<split>.weak_over_full`, null where one of the two has no mIoU, or that is 0.
    """
    added = {run: [dict(one) for one in of_seeds] for run, of_seeds in metrics.items()}
    for run, reference in full.items():
        for one, bound in zip(added[run], metrics[reference], strict=True):
            segmentation: dict[str, dict[str, float | Figures | None]] = {}
            for split, figures in one.get("segmentation", {}).items():
                miou, whole = figures["miou"], bound["segmentation"][split]["miou"]
                share = miou / whole if isinstance(miou, float) and isinstance(whole, float) and whole else None
                segmentation[split] = {**figures, "weak_over_full": share}
            one["segmentation"] = segmentation
    return added


def build_table(metrics: Mapping[str, list[Metrics]]) -> pd.DataFrame:
    """Mean and standard deviation over seeds, and the paired difference to the first run.

    Args:
        metrics: For each run the metrics of its seeds, nested, as fractions; all runs have the same seeds in one order.

    Returns:
        A `Row` for each run and metric. Runs keep their order, kinds that of the pipeline.
        Where masks of any run leave pixels undecided, a kind and split also has the mIoU both ways and the coverage.
    """
    rows = []
    flat = {run: [dict(flatten(one)) for one in of_seeds] for run, of_seeds in metrics.items()}
    undecided = {
        take_apart(key).column
        for of_run in flat.values()
        for one in of_run
        for key, value in one.items()
        if key.endswith(".coverage") and value is not None and value < 1
    }
    first = next(iter(flat))
    for run, of_run in flat.items():
        names = dict.fromkeys(key for one in of_run for key in one)
        for name in sorted(names, key=lambda name: KINDS.index(take_apart(name).kind)):
            metric = take_apart(name)
            values = read_values(of_run, name)
            known = values[np.isfinite(values)]
            shown = metric.figure in SHOWN or (metric.figure in UNDECIDED and metric.column in undecided)
            if shown and len(known):
                about = (TAGS.get(metric.kind, "none"), of_run[0].get(f"{name.rpartition('.')[0]}.images"))
                spread = known.std(ddof=1) if len(known) > 1 else math.nan
                reference = read_values(flat[first], name) if run != first else np.full(len(values), math.nan)
                rows.append((run, name, *about, known.mean(), spread, len(known), *compare_pairs(values, reference)))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"images": "Int64"})


class Metric(NamedTuple):
    """A metric's name `<kind>.<split>[.<choice>].<figure>`, taken apart.

    Attributes:
        kind: What was scored.
        split: The images; the name of a split may hold dots.
        choice: Of the threshold; "" where there is none.
        figure: Which.
    """

    kind: str
    split: str
    choice: str
    figure: str

    @property
    def column(self) -> str:
        """What the metric is of, without its threshold and figure, e.g. `seed val`."""
        if self.kind == "classification":
            return f"mAP {self.split}"
        kind = self.kind.removesuffix("_predicted_tags")
        return f"{kind} {self.split}{', tags predicted' if kind != self.kind else ''}"


def take_apart(name: str) -> Metric:
    """Take a metric's dotted name apart."""
    kind, _, rest = name.partition(".")
    place, _, figure = rest.rpartition(".")
    split, _, choice = place.rpartition(".")
    return Metric(kind, split, choice, figure) if choice in CHOICES else Metric(kind, place, "", figure)


def drop_headlines(table: pd.DataFrame) -> pd.DataFrame:
    """Leave the plain mIoU out where the table has it both ways."""
    figures = table["metric"].str.rpartition(".")
    both = set(figures.loc[figures[2] == "miou_exclude", 0])
    return table[(figures[2] != "miou") | ~figures[0].isin(both)]


def read_values(of_seeds: list[dict[str, float | None]], name: str) -> Float64Array:
    """A metric of each seed, NaN where a seed lacks it."""
    return np.array([one.get(name) for one in of_seeds], dtype=float)


def compare_pairs(values: Float64Array, reference: Float64Array) -> tuple[float, float, float]:
    """The mean difference of pairs and its two-sided interval under Student's t distribution.

    Args:
        values: Of one run's seeds, NaN where a seed has none.
        reference: Of another's, seed by seed.

    Returns:
        The mean of `values - reference`, and the lower and upper end of its 95 % interval; NaN where fewer than two
        seeds have both, since one pair says nothing of the spread.
    """
    pairs = values - reference
    pairs = pairs[np.isfinite(pairs)]
    if len(pairs) < 2:
        return math.nan, math.nan, math.nan
    quantile = stdtrit(len(pairs) - 1, (1 + CONFIDENCE) / 2)
    margin = quantile * pairs.std(ddof=1) / math.sqrt(len(pairs))
    return pairs.mean(), pairs.mean() - margin, pairs.mean() + margin


def format_markdown(table: pd.DataFrame) -> str:
    """A Markdown table in percent: a line for each run and threshold, a column for each kind of mask and split."""
    return _draw(_arrange(table, lambda row: format_mean(row, " ± ")))


def format_differences(table: pd.DataFrame) -> str:
    """A sentence and a Markdown table like the first, of the differences in points; empty where there is none."""
    compared = table[table["difference"].notna()]
    if compared.empty:
        return ""
    sentence = (
        f"Difference to {table['run'].iloc[0]}, paired over seeds, with its {CONFIDENCE:.0%} interval, in points:"
    )
    return f"{sentence}\n\n{_draw(_arrange(compared, format_difference))}"


def format_protocols(protocols: Mapping[str, Iterable[EvaluationProtocol]]) -> str:
    """What the figures of each run's seeds are figures of, a paragraph for runs that share a protocol."""
    groups = group_protocols(protocols)
    paragraphs = [f"{', '.join(runs)}: " * (len(groups) > 1) + " ".join(sentences) for runs, sentences in groups]
    return "\n\n".join(paragraphs) + "\n"


def format_latex(table: pd.DataFrame) -> str:
    """The table of means in LaTeX (booktabs)."""
    header, *lines = _arrange(table, lambda row: format_mean(row, r" $\pm$ "))
    escaped = [[cell.replace("_", r"\_").replace("%", r"\%") for cell in cells] for cells in (header, *lines)]
    body = [" & ".join(cells) + r" \\" for cells in escaped]
    start = rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}"
    return "\n".join([start, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", ""])


def format_mean(row: Row, plus_minus: str) -> str:
    """A line's mean and standard deviation in percent, e.g. `37.4 ± 1.0`."""
    spread = "" if math.isnan(row.std) else f"{plus_minus}{100 * row.std:.1f}"
    return f"{100 * row.mean:.1f}{spread}"


def format_difference(row: Row) -> str:
    """A line's difference and its interval in points, e.g. `+2.0 [+0.9, +3.1]`."""
    return f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"


def _draw(lines: list[list[str]]) -> str:
    header, *rest = lines
    rule = ["---", "---"] + ["---:"] * (len(header) - 2)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, rule, *rest))


def _arrange(table: pd.DataFrame, describe: Callable[[Row], str]) -> list[list[str]]:
    """The cells of the printed table, header first.

    What has no threshold stands in a run's first line.
    """
    cells: dict[tuple[str, str, str], str] = {}
    for row in read_rows(drop_headlines(table)):
        metric = take_apart(row.metric)
        column = f"{metric.column}, {FIGURES[metric.figure]}" if metric.figure in FIGURES else metric.column
        cells[row.run, metric.choice, column] = describe(row)
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
