"""The report: one page that needs only the pictures and scripts beside it."""

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from rca.data.manifest import SplitStatistics
from rca.evaluation.protocol import group_protocols
from rca.evaluation.tables import (
    FIGURES,
    choose_shown,
    describe_repeats,
    format_difference,
    read_rows,
    take_apart,
)
from rca.report.charts import assign_lines
from rca.report.classes import arrange_classes
from rca.report.differences import collect_images
from rca.report.errors import Errors, arrange_errors
from rca.report.gallery import write_comparison, write_gallery
from rca.report.measurements import summarise_measurements
from rca.report.memory import HEADINGS as MEMORY_HEADINGS
from rca.report.memory import write_memories
from rca.report.pipeline import ROW, draw_graph
from rca.report.source import SeedResult, Source
from rca.report.templates import render_page

PARTS = ("page", "tables", "charts", "gallery", "scatter", "making", "report", "errors", "links")
SCRIPTS = tuple(f"{part}.js" for part in PARTS)
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


def build_report(page: Path, source: Source) -> None:
    """Write the page into a directory that exists: `index.html`, `pictures/`, and scripts that hold data.

    What the stages took, when and where, has its own file, so that the others are the same bytes for the same results.
    `vega.js` draws the charts; it and `images.js` are loaded when the first chart comes into view.
    """
    # Here, since altair takes most of a second, and all commands import this module.
    from rca.report.plots import draw_charts
    from rca.report.specs import write_library

    (page / "pictures").mkdir()
    lines = assign_lines(list(source.results))
    examples = {run: seeds[0].examples for run, seeds in source.results.items()}
    compared = choose_compared(source.results)
    ignored = next(iter(source.results.values()))[0].protocol["predicted_ignore"] == "exclude"
    errors = collect_errors(source, ignored)
    memories = write_memories(page, source.memories, source.manifest)
    images = collect_images({run: [seed.images for seed in seeds] for run, seeds in source.results.items()}, ignored)
    charts = draw_charts(source.results, lines, memories, ignored)
    gallery = write_gallery(page, examples, source.manifest, source.picture_width)
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
        charts=charts,
        scattered=len(images["series"]) > 1,
        gallery=gallery,
        comparison=write_comparison(page, compared, examples[compared], source.manifest, source.picture_width),
        errors=errors,
        memories=memories,
        memory_headings=MEMORY_HEADINGS,
        graph=draw_graph(source.pipeline),
        row_height=ROW,
        versions=list_versions(),
    )
    (page / "index.html").write_text(text, encoding="utf-8")
    specs = {chart.name: chart.spec for chart in charts}
    measured = summarise_measurements(source.measurements, source.commit)
    data = {"gallery": gallery, "images": images, "charts": specs, "errors": errors, "measurements": measured}
    for name, content in data.items():
        (page / f"{name}.js").write_text(f"globalThis.{name} = {write_script(content)};\n", encoding="utf-8")
    write_library(page / "vega.js")


def collect_errors(source: Source, ignored: bool) -> Errors:
    """The errors of all runs' masks."""
    tables = {run: [seed.errors for seed in seeds] for run, seeds in source.results.items()}
    return arrange_errors(tables, source.manifest.classes, ignored)


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


def list_versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect results, read without importing them."""
    versions = {"python": platform.python_version()}
    for name in ("rca", "torch", "torchvision", "numpy", "pandas", "pillow", "scikit-learn", "pydensecrf2", "dvc"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
