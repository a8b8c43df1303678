"""Render the report: one page with the results, the dataset, and the curves, examples and memory of every run."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from rca.core.commit import read_commit
from rca.core.errors import UserError
from rca.core.files import read_json, read_mask, write_directory
from rca.core.settings import Settings, load_params
from rca.data.manifest import read_manifest
from rca.evaluation.errors import KINDS, PARTS
from rca.evaluation.image_counts import COLUMNS as IMAGE_COLUMNS
from rca.evaluation.tables import COLUMNS
from rca.report.build import build_report
from rca.report.errors import ErrorTables
from rca.report.gallery import RunExamples
from rca.report.measurements import Measurement
from rca.report.memory import MemoryTables
from rca.report.pipeline import StageFiles
from rca.report.source import TRAININGS, SeedResult, Source
from rca.stages.base.context import Context
from rca.stages.base.layout import LOGS, RESULTS, RunLayout
from rca.stages.base.pins import PINS
from rca.stages.base.stage import Stage

PIPELINE, LOCK, INSTANCES = Path("dvc.yaml"), Path("dvc.lock"), Path("workflow/instances.yaml")
PARAMS = Path("params.yaml")
# A variable in dvc.yaml, other than the dataset's name.
VARIABLE = re.compile(r"\$\{(?!dataset\.name\})[^}]*\}")
# The lists in workflow/instances.yaml; their axes have the singular's name.
LISTS = ("runs", "items", "shards")
CURVE = ("threshold", "miou", "pixels", "right")
# Columns that hold words, even if they look like numbers.
NAMES = ("run", "metric", "kind", "split", "class", "size", "classes_shown", "nearest", "image", "centre")


class RenderReportSettings(Settings):
    """The look of the report.

    Attributes:
        title: Its heading; null makes one from the dataset's name.
        picture_width: Width of each example picture, in pixels.
    """

    title: str | None = None
    picture_width: int = Field(default=240, ge=64, le=4096)


class RenderReportTask(RenderReportSettings):
    """All settings of the stage.

    Attributes:
        runs: The runs, in the order of the tables.
        memory_runs: The runs whose method keeps a memory.
        trained_runs: The runs that train a classification network.
        seeds: The seeds of each run.
        shards: The parts that the images are split into, counted from 0.
        params_sha256: The checksum of params.yaml, which the page shows.
    """

    runs: tuple[str, ...]
    memory_runs: tuple[str, ...]
    trained_runs: tuple[str, ...]
    seeds: tuple[int, ...]
    shards: tuple[int, ...]
    params_sha256: str


def run(context: Context, task: RenderReportTask) -> None:
    """Write the report: `index.html`, the time and memory of the stages, and the pictures."""
    layout, seeds = context.layout, task.seeds
    pipeline = read_pipeline(PIPELINE, INSTANCES, len(seeds), len(task.shards))
    source = Source(
        title=task.title,
        dataset=layout.dataset,
        manifest=read_manifest(layout.manifest),
        statistics=read_json(layout.manifest / "statistics.json"),
        table=read_table(layout.results / "table.csv", tuple(COLUMNS)),
        results={
            run: [read_result(layout.of(run, seed), run in task.trained_runs) for seed in seeds] for run in task.runs
        },
        memories={run: read_memory(layout.of(run, seeds[0])) for run in task.memory_runs},
        pipeline={name: stage for name, stage in pipeline.items() if stage.instances},
        measurements=read_measurements(layout.dataset, task),
        commit=read_commit([RESULTS, LOCK]),
        params=PARAMS.read_text(encoding="utf-8"),
        picture_width=task.picture_width,
    )
    with write_directory(layout.report) as directory:
        build_report(directory, source)
    print(f"the report is {layout.report / 'index.html'}")


def read_result(paths: RunLayout, trained: bool) -> SeedResult:
    """Read the results of `evaluate` for one run and seed.

    Args:
        paths: The run and the seed.
        trained: Whether the run trains a classification network.

    Raises:
        UserError: a file is missing or corrupt.
    """
    directory = paths.evaluation
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist: run evaluate for run {paths.run} and seed {paths.seed} first.")
    protocol = read_json(directory / "evaluation.json")["protocol"]
    weak = protocol["supervision"] == "tags"  # other runs have neither thresholds nor a classification network
    return SeedResult(
        examples=RunExamples(
            directory / "examples", read_table(directory / "examples.csv", ("image", "kind", "label", "iou"))
        ),
        per_class=read_table(directory / "per_class.csv", ("kind", "split", "threshold", "class", "iou")),
        images=read_table(directory / "images.csv", IMAGE_COLUMNS),
        errors=ErrorTables(
            read_table(directory / "errors.csv", ("kind", "split", "threshold", *PARTS, *KINDS)),
            read_table(directory / "confusion.csv", ("kind", "split", "threshold", "truth", "predicted", "pixels")),
        ),
        protocol=protocol,
        threshold=read_made(directory / paths.threshold_curve.name, CURVE, needed=weak),
        chosen=read_json(directory / paths.threshold.name) if weak else {},
        histories={
            stage: read_made(directory / f"{stage}.csv", ("epoch",), needed=trained and stage == "train_cam")
            for stage in TRAININGS
        },
    )


def read_pipeline(path: Path, instances: Path, seeds: int, shards: int) -> dict[str, StageFiles]:
    """Read the inputs and outputs of each stage from dvc.yaml, with * for run, seed and shard.

    Args:
        path: dvc.yaml.
        instances: The file with the runs, items or shards of each stage, `workflow/instances.yaml`.
        seeds: The number of seeds.
        shards: The number of shards.

    Raises:
        UserError: a file is missing or corrupt.
    """
    stages, lists = {}, load_params(instances)["stages"]
    for name, declared in load_params(path)["stages"].items():
        stage = declared.get("do", declared)
        # pins.json is left out, since every stage depends on its own key of it.
        pinned = [next(iter(file)) for file in stage.get("params", ()) if PINS.as_posix() not in file]
        written = [out for key in ("outs", "plots", "metrics") for out in stage.get(key, ())]
        paths = (
            [*stage.get("deps", ()), *pinned],
            [next(iter(out)) if isinstance(out, dict) else out for out in written],
        )
        listed = lists.get(name, {})
        names = listed.get("items", ["*"])
        inputs, outputs = (
            [VARIABLE.sub("*", file.replace("${item.item}", item)) for file in files for item in names]
            for files in paths
        )
        stages[name] = StageFiles(inputs, outputs, count_instances(declared, listed, seeds, shards))
    return stages


def count_instances(declared: Mapping[str, Any], listed: Mapping[str, Any], seeds: int, shards: int) -> int:
    """The number of a stage's instances.

    Args:
        declared: Its entry in dvc.yaml.
        listed: Its entry in `workflow/instances.yaml`.
        seeds: The number of seeds.
        shards: The number of shards.
    """
    if "foreach" in declared:
        return len(listed["each"])
    lists = {key.removesuffix("s"): len(listed[key]) for key in LISTS if key in listed}
    sizes = {"seed": seeds, "shard": shards, **lists}
    return math.prod(sizes[axis] for axis in declared.get("matrix", ()))


def read_measurements(dataset: str, task: RenderReportTask) -> list[Measurement]:
    """Read what the stages took when they last ran here, for the dataset, runs, seeds and shards of params.yaml.

    They are no input of the stage: they differ from run to run, and a clone that pulled its results has none.
    """
    listed = {"run": (None, *task.runs), "seed": (None, *task.seeds), "shard": (None, *task.shards)}
    measurements = [read_json(path) for path in sorted(LOGS.glob("*.json"))]
    return [
        measurement
        for measurement in measurements
        if measurement["dataset"] == dataset and all(measurement[key] in values for key, values in listed.items())
    ]


def read_memory(paths: RunLayout) -> MemoryTables:
    """Read the memory tables that `evaluate` wrote for one run and seed.

    Raises:
        UserError: a file is missing or corrupt.
    """
    directory = paths.evaluation / "memory"
    regions = read_table(directory / "regions.csv", ("class", "centre", "entries", "image", "epoch", "cosine", "left"))
    coverage = read_mask(directory / "regions.png") if len(regions) else np.empty((0, 16), np.uint8)
    if coverage.shape != (16 * len(regions), 16):
        raise UserError(f"{directory}/regions.png does not fit regions.csv: run evaluate again.")
    return MemoryTables(
        statistics=read_table(directory / "statistics.csv", ("class", "fill", "nearest", "cosine", "purity")),
        map=read_table(directory / "map.csv", ("x", "y", "class", "image", "epoch")),
        regions=regions,
        coverage=coverage.reshape(-1, 16, 16),
    )


def read_made(path: Path, columns: tuple[str, ...], needed: bool) -> pd.DataFrame:
    """Read a table of a stage that not every run has; without the stage the table is empty.

    Raises:
        UserError: the table is corrupt, or it is needed and missing.
    """
    return read_table(path, columns) if needed or path.is_file() else pd.DataFrame(columns=list(columns))


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV file that an earlier stage wrote.

    Args:
        path: The file.
        columns: The columns that it must have.

    Raises:
        UserError: it is missing or corrupt.
    """
    try:
        # Only an empty cell is a missing value: a run may be named "NA", a class "1".
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(NAMES, str))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it first.") from None
    except ValueError:  # includes pandas's parser errors and invalid UTF-8
        raise UserError(f"{path} is not valid CSV: delete it and run the stage that writes it again.") from None
    if lacking := [name for name in columns if name not in table]:
        raise UserError(f"{path} lacks the column {lacking[0]}: run the stage that writes it again.")
    return table


STAGE = Stage(
    task=RenderReportTask,
    section=RenderReportSettings,
    run=run,
    shared={name: name for name in ("runs", "memory_runs", "trained_runs", "seeds", "shards", "params_sha256")},
)
