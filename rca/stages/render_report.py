"""Make the report: one page with the results, the dataset, the curves and examples of every run."""

from pathlib import Path

import pandas as pd
from pydantic import Field

from rca.artifacts import read_json, write_directory
from rca.data.manifest import read_manifest
from rca.errors import UserError
from rca.report.build import TRAININGS, SeedResult, Source, build_report
from rca.settings import Settings
from rca.stages.context import Context
from rca.stages.layout import RunLayout
from rca.tables import COLUMNS


class RenderReportSettings(Settings):
    """What the report looks like.

    Attributes:
        title: Its heading; null makes one from the dataset's name.
        picture_width: Of each example picture, in pixels.
    """

    title: str | None = None
    picture_width: int = Field(default=240, ge=64)


def run(context: Context) -> None:
    """Write the report: `index.html` and the pictures beside it."""
    settings = context.settings(RenderReportSettings)
    layout, runs, seeds = context.layout, context.read("runs"), context.read("seeds")
    source = Source(
        title=settings.title,
        dataset=layout.dataset,
        manifest=read_manifest(layout.manifest),
        statistics=read_json(layout.manifest / "statistics.json"),
        table=read_table(layout.results / "table.csv", tuple(COLUMNS)),
        results={run: [read_result(layout.of(run, seed)) for seed in seeds] for run in runs},
        params=context.params_file.read_text(encoding="utf-8"),
        picture_width=settings.picture_width,
    )
    with write_directory(layout.report) as directory:
        build_report(directory, source)
    print(f"the report is {layout.report / 'index.html'}")


def read_result(paths: RunLayout) -> SeedResult:
    """Read what `evaluate` left of one run with one seed.

    Raises:
        UserError: something is missing or corrupt.
    """
    directory = paths.evaluation
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist: run evaluate for run {paths.run} and seed {paths.seed} first.")
    return SeedResult(
        directory=directory,
        protocol=read_json(directory / "evaluation.json")["protocol"],
        threshold=read_table(directory / paths.threshold_curve.name, ("threshold", "miou")),
        histories={stage: read_table(directory / f"{stage}.csv", ("epoch",)) for stage in TRAININGS},
    )


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV file that an earlier stage wrote.

    Args:
        path: The file.
        columns: Those that it must have.

    Raises:
        UserError: it is missing or corrupt.
    """
    try:
        # Only an empty cell is a missing figure: a run may be called "NA".
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"run": str, "metric": str})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it first.") from None
    except ValueError:  # pandas's own errors and broken UTF-8 are kinds of it
        raise UserError(f"{path} is not valid CSV: delete it and run the stage that writes it again.") from None
    if lacking := [name for name in columns if name not in table]:
        raise UserError(f"{path} lacks the column {lacking[0]}: run the stage that writes it again.")
    return table
