"""What a report is made of."""

from dataclasses import dataclass

import pandas as pd

from rca.core.commit import Commit
from rca.data.manifest import Manifest, Statistics
from rca.evaluation.protocol import EvaluationProtocol
from rca.report.errors import ErrorTables
from rca.report.gallery import RunExamples
from rca.report.measurements import Measurement
from rca.report.memory import MemoryTables
from rca.report.pipeline import StageFiles

TRAININGS = {"train_cam": "classification network", "train_seg": "segmentation network"}


@dataclass(frozen=True)
class SeedResult:
    """The results of one run and seed, as `evaluate` wrote them.

    Attributes:
        examples: The example masks.
        per_class: The figures of each class.
        images: The pixels of each image and label, from `rca.evaluation.image_counts.list_images`.
        errors: The errors of its masks.
        protocol: The protocol of the figures.
        threshold: mIoU over thresholds, and how reliable the scores are.
        chosen: The chosen thresholds, "best" and "fixed"; empty for a run without thresholds.
        histories: The training curves, of "train_cam" and "train_seg".
    """

    examples: RunExamples
    per_class: pd.DataFrame
    images: pd.DataFrame
    errors: ErrorTables
    protocol: EvaluationProtocol
    threshold: pd.DataFrame
    chosen: dict[str, float]
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
        measurements: What stages' instances took, when and where, as far as known.
        commit: The commit of the project; None outside of git.
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
    commit: Commit | None
    params: str
    picture_width: int
