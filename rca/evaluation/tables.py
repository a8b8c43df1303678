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

# What the tables show, in this order; everything else is in the metrics files.
KINDS = (*TAGS, "classification")
SHOWN = ("miou", "map", "weak_over_full")
# What they also show of masks that leave pixels undecided, with its names.
UNDECIDED = {
    "miou_count_as_error": "undecided as errors",
    "miou_exclude": "undecided left out",
    "coverage": "coverage",
}
# Figures whose columns need a name beside the mask's.
FIGURES = {**UNDECIDED, "weak_over_full": "weak over full"}
CONFIDENCE = 0.95  # of a difference's interval


class Row(NamedTuple):
    """A row of the table: one figure of a run.

    Attributes:
        run: The run.
        metric: The figure's dotted name.
        tags: See `rca.evaluation.protocol.TAGS`.
        images: The number of images scored; missing if unknown.
        mean: The mean over seeds.
        std: The sample standard deviation; NaN for one seed.
        seeds: The number of seeds that have the figure.
        difference: The paired difference to the first run, from `compare_pairs`; NaN for the first run.
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
    """The rows of `build_table`'s table."""
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
        full: For each run the run whose same network was trained on true masks; runs without one are left out.

    Returns:
        The metrics with `segmentation.<split>.weak_over_full`, None where an mIoU is missing or the divisor is 0.
    """
    added = {run: [dict(seed_metrics) for seed_metrics in run_metrics] for run, run_metrics in metrics.items()}
    for run, reference in full.items():
        for weak, bound in zip(added[run], metrics[reference], strict=True):
            segmentation: dict[str, dict[str, float | Figures | None]] = {}
            for split, figures in weak.get("segmentation", {}).items():
                miou, whole = figures["miou"], bound["segmentation"][split]["miou"]
                share = miou / whole if isinstance(miou, float) and isinstance(whole, float) and whole else None
                segmentation[split] = {**figures, "weak_over_full": share}
            weak["segmentation"] = segmentation
    return added


def build_table(metrics: Mapping[str, list[Metrics]]) -> pd.DataFrame:
    """Mean and standard deviation over seeds, and the paired difference to the first run.

    Args:
        metrics: For each run the metrics of its seeds, as fractions; all runs have the same seeds in the same order.

    Returns:
        A `Row` for each run and metric. Runs keep their order, and kinds that of the pipeline. If masks of any run
        leave pixels undecided, that kind and split also has the mIoU both ways and the coverage.
    """
    rows = []
    flat = {run: [dict(flatten(seed_metrics)) for seed_metrics in run_metrics] for run, run_metrics in metrics.items()}
    undecided = {
        take_apart(name).column
        for seeds in flat.values()
        for figures in seeds
        for name, value in figures.items()
        if name.endswith(".coverage") and value is not None and value < 1
    }
    first = next(iter(flat))
    for run, seeds in flat.items():
        names = dict.fromkeys(name for figures in seeds for name in figures)
        for name in sorted(names, key=lambda name: KINDS.index(take_apart(name).kind)):
            metric = take_apart(name)
            values = read_values(seeds, name)
            known = values[np.isfinite(values)]
            shown = metric.figure in SHOWN or (metric.figure in UNDECIDED and metric.column in undecided)
            if shown and len(known):
                tags, images = TAGS.get(metric.kind, "none"), seeds[0].get(f"{name.rpartition('.')[0]}.images")
                spread = known.std(ddof=1) if len(known) > 1 else math.nan
                reference = read_values(flat[first], name) if run != first else np.full(len(values), math.nan)
                figures_over_seeds = (known.mean(), spread, len(known), *compare_pairs(values, reference))
                rows.append((run, name, tags, images, *figures_over_seeds))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"images": "Int64"})


class Metric(NamedTuple):
    """A metric's name `<kind>.<split>[.<choice>].<figure>`, taken apart.

    Attributes:
        kind: What was scored.
        split: The split; its name may contain dots.
        choice: The threshold's choice; "" if there is none.
        figure: The figure's name.
    """

    kind: str
    split: str
    choice: str
    figure: str

    @property
    def column(self) -> str:
        """The metric's column without its threshold and figure, e.g. `seed val`."""
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


def choose_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The figures that tables show: each once."""
    return drop_repeats(drop_headlines(table))


def drop_headlines(table: pd.DataFrame) -> pd.DataFrame:
    """Drop the plain mIoU where the table has it both ways."""
    figures = table["metric"].str.rpartition(".")
    both = set(figures.loc[figures[2] == "miou_exclude", 0])
    return table[(figures[2] != "miou") | ~figures[0].isin(both)]


def find_repeats(table: pd.DataFrame) -> list[str]:
    """The splits on which the pseudo labels have the seeds' figures in every run: then they are the same masks."""
    names = table["metric"].map(take_apart)
    figures = table.assign(
        kind=[name.kind for name in names],
        split=[name.split for name in names],
        figure=[(name.choice, name.figure) for name in names],
    )
    seeds, pseudo = (figures[figures["kind"] == kind] for kind in ("seed", "pseudo"))
    key, values = ["run", "split", "figure"], ["mean", "std", "seeds"]
    both = pseudo.merge(seeds[[*key, *values]], on=key, how="left", suffixes=("", "_seed"))
    same = pd.Series(True, index=both.index)
    for value in values:
        same &= (both[value] == both[f"{value}_seed"]) | (both[value].isna() & both[f"{value}_seed"].isna())
    return [str(split) for split, alike in same.groupby(both["split"], sort=False) if alike.all()]


def drop_repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Drop the pseudo labels' figures on the splits of `find_repeats`."""
    repeated = {("pseudo", split) for split in find_repeats(table)}
    names = [take_apart(metric) for metric in table["metric"]]
    return table[[(name.kind, name.split) not in repeated for name in names]]


def describe_repeats(table: pd.DataFrame) -> str:
    """What `drop_repeats` drops, in a sentence; empty if nothing."""
    splits = find_repeats(table)
    return f"On {', '.join(splits)} the pseudo labels are the seeds, with the same figures.\n" if splits else ""


def read_values(seeds: list[dict[str, float | None]], name: str) -> Float64Array:
    """A metric of each seed; NaN for a seed that lacks it."""
    return np.array([figures.get(name) for figures in seeds], dtype=float)


def compare_pairs(values: Float64Array, reference: Float64Array) -> tuple[float, float, float]:
    """The mean difference of pairs and its two-sided interval under Student's t distribution.

    Args:
        values: A run's values, seed by seed, NaN where a seed has none.
        reference: Those of the run to compare with.

    Returns:
        The mean of `values - reference`, and the lower and upper end of its 95 % interval; NaN if fewer than two seeds
        have both, since one pair says nothing about the spread.
    """
    pairs = values - reference
    pairs = pairs[np.isfinite(pairs)]
    if len(pairs) < 2:
        return math.nan, math.nan, math.nan
    quantile = stdtrit(len(pairs) - 1, (1 + CONFIDENCE) / 2)
    margin = quantile * pairs.std(ddof=1) / math.sqrt(len(pairs))
    return pairs.mean(), pairs.mean() - margin, pairs.mean() + margin


def format_markdown(table: pd.DataFrame) -> str:
    """A Markdown table in percent, with a line for each run and threshold and a column for each kind and split."""
    return _draw(arrange(choose_shown(table), lambda row: format_mean(row, " ± ")))


def format_differences(table: pd.DataFrame) -> str:
    """A sentence and a Markdown table of the differences, in points; empty if there are none."""
    shown = choose_shown(table)
    compared = shown[shown["difference"].notna()]
    if compared.empty:
        return ""
    sentence = (
        f"Difference to {table['run'].iloc[0]}, paired over seeds, with its {CONFIDENCE:.0%} interval, in points:"
    )
    return f"{sentence}\n\n{_draw(arrange(compared, format_difference))}"


def format_protocols(protocols: Mapping[str, Iterable[EvaluationProtocol]]) -> str:
    """The protocols in sentences, a paragraph for runs that share one."""
    groups = group_protocols(protocols)
    paragraphs = [f"{', '.join(runs)}: " * (len(groups) > 1) + " ".join(sentences) for runs, sentences in groups]
    return "\n\n".join(paragraphs) + "\n"


def format_mean(row: Row, plus_minus: str) -> str:
    """A row's mean and standard deviation in percent, e.g. `37.4 ± 1.0`."""
    spread = "" if math.isnan(row.std) else f"{plus_minus}{100 * row.std:.1f}"
    return f"{100 * row.mean:.1f}{spread}"


def format_difference(row: Row) -> str:
    """A row's difference and its interval in points, e.g. `+2.0 [+0.9, +3.1]`."""
    return f"{100 * row.difference:+z.1f} [{100 * row.low:+z.1f}, {100 * row.high:+z.1f}]"


def _draw(lines: list[list[str]]) -> str:
    header, *rest = lines
    rule = ["---", "---"] + ["---:"] * (len(header) - 2)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, rule, *rest))


def arrange(table: pd.DataFrame, describe: Callable[[Row], str]) -> list[list[str]]:
    """The cells of the printed table, header first: run, threshold, and a column for each kind and split.

    Figures without a threshold stand in a run's first line.
    """
    cells: dict[tuple[str, str, str], str] = {}
    for row in read_rows(table):
        metric = take_apart(row.metric)
        column = f"{metric.column}, {FIGURES[metric.figure]}" if metric.figure in FIGURES else metric.column
        cells[row.run, metric.choice, column] = describe(row)
    columns = list(dict.fromkeys(column for _, _, column in cells))
    lines = [["run", "threshold", *columns]]
    for run in dict.fromkeys(table["run"].astype(str)):
        choices = list(dict.fromkeys(choice for name, choice, _ in cells if name == run and choice)) or [""]
        for number, choice in enumerate(choices):
            shared = "" if number == 0 else "-"  # no column is keyed by "-"
            lines.append(
                [run, choice, *(cells.get((run, choice, c)) or cells.get((run, shared, c), "") for c in columns)]
            )
    return lines
