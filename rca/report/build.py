"""The report: one page that needs only the pictures beside it."""

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from rca.data.manifest import Manifest, SplitStatistics, Statistics
from rca.evaluation.protocol import EvaluationProtocol, group_protocols
from rca.evaluation.tables import (
    FIGURES,
    choose_shown,
    describe_repeats,
    format_difference,
    read_rows,
    take_apart,
)
from rca.report.charts import HEIGHT, WIDTH, Line, assign_lines, draw_curves, summarise_seeds
from rca.report.classes import arrange_classes
from rca.report.errors import Errors, ErrorTables, arrange_errors
from rca.report.gallery import Picture, RunExamples, write_comparison, write_gallery
from rca.report.memory import HEADINGS as MEMORY_HEADINGS
from rca.report.memory import HEIGHT as MAP_HEIGHT
from rca.report.memory import WIDTH as MAP_WIDTH
from rca.report.memory import MemoryTables, write_memories
from rca.report.pipeline import ROW, Measurement, StageFiles, draw_graph, summarise_measurements
from rca.report.templates import render_page

SCRIPTS = ("page.js", "gallery.js", "tables.js", "report.js", "errors.js")
HEADINGS = {
    "seed": "seed (tags given)",
    "seed_predicted_tags": "seed (tags predicted)",
    "pseudo": "pseudo label (tags given)",
    "refined": "refined (tags given)",
    "refined_predicted_tags": "refined (tags predicted)",
    "relabelled": "relabelled (tags given)",
    "segmentation": "segmentation (no tags)",
    "classification": "classifier",
}
MEASURES = {"miou": "mIoU", "map": "mAP", **FIGURES}
TRAININGS = {"train_cam": "classification network", "train_seg": "segmentation network"}


@dataclass(frozen=True)
class SeedResult:
    """The results of one run and seed, as `evaluate` wrote them.

    Attributes:
        examples: The example masks.
        per_class: The figures of each class.
        errors: The errors of its masks.
        protocol: The protocol of the figures.
        threshold: mIoU over thresholds.
        histories: The training curves, of "train_cam" and "train_seg".
    """

    examples: RunExamples
    per_class: pd.DataFrame
    errors: ErrorTables
    protocol: EvaluationProtocol
    threshold: pd.DataFrame
    histories: dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Source:
    """The data of a report.

    Attributes:
        title: The page's heading; None makes one from the dataset's name.
        dataset: The dataset's name.
        manifest: The dataset.
        statistics: The dataset's counts, from `rca.data.manifest.summarise`.
        table: From `rca.evaluation.tables.build_table`.
        results: For each run, the results of its seeds, in the order of the seeds.
        memories: The memory of the first seed, for each run that keeps one.
        pipeline: The stages' files, by stage.
        measurements: The time and memory of stages' instances, as far as known.
        params: The text of the params file.
        picture_width: The width of each example picture, in pixels.
    """

    title: str | None
    dataset: str
    manifest: Manifest
    statistics: Statistics
    table: pd.DataFrame
    results: dict[str, list[SeedResult]]
    memories: dict[str, MemoryTables]
    pipeline: dict[str, StageFiles]
    measurements: list[Measurement]
    params: str
    picture_width: int


@dataclass(frozen=True)
class Cell:
    """A figure of the headline table, in percent, and its difference to the first run's; "" if unknown."""

    mean: str
    spread: str
    difference: str
    seeds: int
    best: bool


@dataclass(frozen=True)
class Column:
    """A metric of the headline table: what was scored, on which split, at which threshold, by which measure."""

    kind: str
    split: str
    choice: str
    measure: str


@dataclass(frozen=True)
class Chart:
    """A chart and the lines of its runs."""

    picture: Picture
    lines: list[Line]


def build_report(page: Path, source: Source) -> None:
    """Write `index.html`, `measurements.js`, `errors.js` and `pictures/` into a directory that exists.

    Time and memory of the stages have their own file, so that the others are the same bytes for the same results.
    """
    (page / "pictures").mkdir()
    lines = assign_lines(list(source.results))
    examples = {run: seeds[0].examples for run, seeds in source.results.items()}
    compared = choose_compared(source.results)
    errors = collect_errors(source)
    text = render_page(
        "report.html.jinja",
        SCRIPTS,
        source=source,
        title=source.title or f"Weakly supervised segmentation of {source.dataset}",
        lines=lines,
        seeds=max(len(seeds) for seeds in source.results.values()),
        columns=(columns := list_columns(choose_shown(source.table))),
        repeats=describe_repeats(source.table),
        compared=source.table["difference"].notna().any(),
        groups=group_columns(columns),
        rows={run: arrange_row(source.table, run) for run in source.results},
        protocols=group_protocols({run: [seed.protocol for seed in seeds] for run, seeds in source.results.items()}),
        splits=source.statistics["splits"],
        average_tags=average_tags,
        class_tables=arrange_classes(
            {run: [seed.per_class for seed in seeds] for run, seeds in source.results.items()}
        ),
        charts=[
            *draw_threshold_charts(page, source.results, lines),
            *(chart for stage in TRAININGS for chart in draw_training_charts(page, stage, source.results, lines)),
        ],
        gallery=write_gallery(page, examples, source.manifest, source.picture_width),
        comparison=write_comparison(page, compared, examples[compared], source.manifest, source.picture_width),
        errors=errors,
        memories=write_memories(page, source.memories, source.manifest),
        map_size=(MAP_WIDTH, MAP_HEIGHT),
        memory_headings=MEMORY_HEADINGS,
        graph=draw_graph(source.pipeline),
        row_height=ROW,
        versions=list_versions(),
    )
    (page / "index.html").write_text(text, encoding="utf-8")
    (page / "errors.js").write_text(f"globalThis.errors = {write_script(errors)};\n", encoding="utf-8")
    measured = json.dumps(summarise_measurements(source.measurements))
    (page / "measurements.js").write_text(f"globalThis.measurements = {measured};\n", encoding="utf-8")


def collect_errors(source: Source) -> Errors:
    """The errors of all runs' masks, whose undecided pixels count as the first run's protocol says."""
    tables = {run: [seed.errors for seed in seeds] for run, seeds in source.results.items()}
    protocol = next(iter(source.results.values()))[0].protocol
    return arrange_errors(tables, source.manifest.classes, protocol["predicted_ignore"] == "exclude")


def write_script(data: object) -> str:
    """Data as an expression of JavaScript, small."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def choose_compared(results: Mapping[str, list[SeedResult]]) -> str:
    """The last run trained on tags, since it has masks of every kind; without one, the last run."""
    on_tags = [run for run, seeds in results.items() if seeds[0].protocol["supervision"] == "tags"]
    return (on_tags or list(results))[-1]


def list_columns(table: pd.DataFrame) -> dict[str, Column]:
    """The column of each metric in the table, such as `seed.train.best.miou`, in order."""
    columns = {}
    for metric in dict.fromkeys(table["metric"]):
        kind, split, choice, figure = take_apart(metric)
        columns[metric] = Column(HEADINGS.get(kind, kind), split, choice, MEASURES.get(figure, figure))
    return columns


def group_columns(columns: Mapping[str, Column]) -> list[tuple[str, int]]:
    """Each kind with its number of adjacent columns, for the headings above them."""
    groups: list[tuple[str, int]] = []
    for column in columns.values():
        if groups and groups[-1][0] == column.kind:
            groups[-1] = (column.kind, groups[-1][1] + 1)
        else:
            groups.append((column.kind, 1))
    return groups


def arrange_row(table: pd.DataFrame, run: str) -> dict[str, Cell]:
    """A run's cells, by metric; a metric that the run lacks has no cell."""
    highest = table.groupby("metric")["mean"].max().to_dict()
    several = table["run"].nunique() > 1
    cells = {}
    for row in read_rows(table[table["run"] == run]):
        mean, best = f"{100 * row.mean:.1f}", f"{100 * highest[row.metric]:.1f}"
        spread = "" if math.isnan(row.std) else f"{100 * row.std:.1f}"
        difference = "" if math.isnan(row.difference) else format_difference(row)
        cells[row.metric] = Cell(mean, spread, difference, row.seeds, several and mean == best)
    return cells


def average_tags(split: SplitStatistics) -> float:
    """The mean number of tags of a split's images."""
    tags = sum(int(count) * images for count, images in split["images_per_number_of_tags"].items())
    return tags / max(split["images"], 1)


def draw_threshold_charts(
    page: Path, results: Mapping[str, list[SeedResult]], lines: Mapping[str, Line]
) -> list[Chart]:
    """Draw mIoU in percent over thresholds; no chart if no threshold was tried."""
    curves = {
        run: 100 * summarise_seeds([result.threshold for result in seeds], "threshold", "miou")
        for run, seeds in results.items()
    }
    curves = {run: curve for run, curve in curves.items() if len(curve)}
    if not curves:
        return []
    file = "pictures/threshold.svg"
    draw_curves(page / file, curves, lines, "threshold", "mIoU, %", mark_highest=True)
    best = (
        f"{run}: highest {curve['mean'].max():.1f} at {curve['mean'].idxmax():.2f}" for run, curve in curves.items()
    )
    alt = f"mIoU in percent over thresholds. {'; '.join(best)}."
    picture = Picture(file, "mIoU of the seeds over the threshold", alt, WIDTH, HEIGHT)
    return [Chart(picture, [lines[run] for run in curves])]


def draw_training_charts(
    page: Path, stage: str, results: Mapping[str, list[SeedResult]], lines: Mapping[str, Line]
) -> list[Chart]:
    """Draw a chart of each term of a training's loss over epochs."""
    tables = {run: [result.histories[stage] for result in seeds] for run, seeds in results.items()}
    terms = dict.fromkeys(
        str(name) for seeds in tables.values() for table in seeds for name in table if str(name).startswith("loss_")
    )
    charts = []
    for number, term in enumerate(terms, 1):
        curves = {run: summarise_seeds(seeds, "epoch", term) for run, seeds in tables.items()}
        curves = {run: curve for run, curve in curves.items() if len(curve)}
        if not curves:
            continue  # the training was switched off
        file = f"pictures/{stage}-{number}.svg"
        draw_curves(page / file, curves, lines, "epoch", "loss", mark_highest=False)
        name = term.removeprefix("loss_").replace("_", " ")
        means = {run: curve["mean"] for run, curve in curves.items()}
        ends = (f"{run}: from {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}" for run, mean in means.items())
        alt = f"Loss term {name} of the {TRAININGS[stage]} over epochs. {'; '.join(ends)}."
        caption = f"{TRAININGS[stage]}: {name} loss"
        charts.append(Chart(Picture(file, caption, alt, WIDTH, HEIGHT), [lines[run] for run in curves]))
    return charts


def list_versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect results, read without importing them."""
    versions = {"python": platform.python_version()}
    for name in ("rca", "torch", "torchvision", "numpy", "pandas", "pillow", "scikit-learn", "pydensecrf2", "dvc"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
