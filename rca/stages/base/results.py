"""A project's results as tidy frames of pandas: `rca.results("project")`."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rca.core.errors import UserError
from rca.core.files import read_json
from rca.evaluation.tables import flatten, take_apart
from rca.stages.base.layout import RESULTS, Layout

NAME = re.compile(r"(?P<run>.+)-(?P<seed>\d+)")


@dataclass(frozen=True)
class Results:
    """All figures of a project, one a line.

    Attributes:
        metrics: Columns dataset, run, seed, kind (what was scored, e.g. "seed"), split, threshold ("best", "fixed" or
            ""), figure (e.g. "miou") and value: fractions, but for numbers of images and thresholds.
        classes: Columns dataset, run, seed, kind, split, threshold, tags, images, predicted_ignore, class, iou,
            boundary_iou, precision, recall and the shares of errors: fractions, NaN where a class does not occur.
        images: Columns dataset, run, seed, kind, split, threshold, image, label (0 for the background), hit, truth,
            predicted and undecided: pixels, at the best threshold. Empty if the project holds no evaluation, e.g. in
            a clone without `dvc pull`.
    """

    metrics: pd.DataFrame
    classes: pd.DataFrame
    images: pd.DataFrame

    def __repr__(self) -> str:
        runs = ", ".join(dict.fromkeys(self.metrics["run"].astype(str)))
        return f"Results(runs {runs}: {len(self.metrics)} metrics, {len(self.classes)} lines of classes)"


def read_results(project: str | Path = ".") -> Results:
    """Read the metrics of all datasets, runs and seeds of a project.

    Args:
        project: The project's folder, which holds `results/`.

    Raises:
        UserError: there are no results, or one cannot be read.
    """
    folder = Path(project) / RESULTS
    metrics: list[dict[str, object]] = []
    classes: list[pd.DataFrame] = []
    images: list[pd.DataFrame] = []
    for path in sorted(folder.glob("*/*-*.json")):
        name = NAME.fullmatch(path.stem)
        if name is None:
            continue
        of = {"dataset": path.parent.name, "run": name["run"], "seed": int(name["seed"])}
        for metric, value in flatten(read_json(path)):
            part = take_apart(metric)
            where = {"kind": part.kind, "split": part.split, "threshold": part.choice, "figure": part.figure}
            metrics.append({**of, **where, "value": value})
        table = path.with_suffix(".csv")
        if table.is_file():
            lines = pd.read_csv(table, keep_default_na=False, na_values={"iou": "", "boundary_iou": ""})
            classes.append(pd.DataFrame({**of, **{column: lines[column] for column in lines}}))
        counted = Path(project) / Layout(path.parent.name).of(name["run"], int(name["seed"])).evaluation / "images.csv"
        if counted.is_file():
            lines = pd.read_csv(counted, keep_default_na=False, dtype={"image": str})
            images.append(pd.DataFrame({**of, **{column: lines[column] for column in lines}}))
    if not metrics:
        raise UserError(f"{folder} holds no results: run the pipeline, or name the project's folder.")
    return Results(pd.DataFrame(metrics), *(_join(frames) for frames in (classes, images)))


def _join(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
