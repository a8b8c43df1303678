"""The whole params file as one typed object: what each section may hold, and how sections fit together.

Stages read their own sections only (`rca.stages.context`), so that an edit here never invalidates what they made.
"""

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from rca.core.settings import Settings
from rca.data.formats.dataset import DatasetSettings
from rca.evaluation.protocol import TAGS
from rca.stages.choose_threshold import ChooseThresholdSettings
from rca.stages.context import Supervision
from rca.stages.evaluate import EvaluateSettings
from rca.stages.generate_data import GenerateDataSettings
from rca.stages.layout import RESERVED
from rca.stages.make_cam import MakeCamSettings
from rca.stages.predict_seg import PredictSegSettings
from rca.stages.prepare_data import PrepareDataSettings
from rca.stages.refine_crf import RefineCrfSettings
from rca.stages.render_report import RenderReportSettings
from rca.stages.train_affinity import TrainAffinitySettings
from rca.stages.train_cam import TrainCamSettings
from rca.stages.train_seg import TrainSegSettings
from rca.stages.walk_scores import WalkScoresSettings

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class ResourceSettings(Settings):
    """What a stage asks an engine for.

    Attributes:
        gpu: Devices.
        mem_mb: Main memory, in MB.
        runtime: Minutes, at most.
    """

    gpu: int = Field(default=0, ge=0)
    mem_mb: int = Field(ge=1)
    runtime: int = Field(ge=1)


class Resources(Settings):
    """Resources of the stages that take long, and of all others."""

    train_cam: ResourceSettings
    make_cam: ResourceSettings
    refine_crf: ResourceSettings
    train_seg: ResourceSettings
    predict_seg: ResourceSettings
    other: ResourceSettings


class RunSettings(Settings):
    """What a run is. Every section must be given, `{}` where nothing is overridden: DVC tracks them one by one.

    Attributes:
        host: How the base network is trained: a module in rca/hosts.
        host_options: The host's options, where they differ from its defaults.
        method: The cross-image method: a module in rca/methods.
        options: The method's options, where they differ from its defaults.
        supervision: What the run learns from: "tags", or "masks" for the segmentation network's fully supervised upper
            bound, trained on the true masks, which needs no host, no method and none of the stages before it.
        train_cam: What the run overrides in the section of that name; likewise the others.
    """

    host: str
    host_options: dict[str, Any]
    method: str
    options: dict[str, Any]
    supervision: Supervision
    train_cam: dict[str, Any]
    make_cam: dict[str, Any]
    train_affinity: dict[str, Any]
    walk_scores: dict[str, Any]
    choose_threshold: dict[str, Any]
    refine_crf: dict[str, Any]
    train_seg: dict[str, Any]
    predict_seg: dict[str, Any]


class Params(Settings):
    """A params file.

    Attributes:
        dataset: What the dataset is; it lies at `data/<name>`.
        links: What `rca preset` links under `data/`: the name there, and where it points.
        generate: Datasets to generate, by name.
        runs: The runs to make, in the order of the tables.
        memory_runs: Those of them whose method keeps a memory.
        seeds: Each run is made with each.
        shards: The parts that per-image work is split into: [0, 1, ..., n-1].
        resources: What stages ask an engine for.
        run: What each run is.
    """

    dataset: DatasetSettings
    links: dict[str, str] = {}
    generate: dict[str, GenerateDataSettings] = {}
    runs: tuple[str, ...] = Field(min_length=1)
    memory_runs: tuple[str, ...]
    seeds: tuple[int, ...] = Field(min_length=1)
    shards: tuple[int, ...] = Field(min_length=1)
    resources: Resources
    prepare_data: PrepareDataSettings
    train_cam: TrainCamSettings
    make_cam: MakeCamSettings
    train_affinity: TrainAffinitySettings
    walk_scores: WalkScoresSettings
    choose_threshold: ChooseThresholdSettings
    refine_crf: RefineCrfSettings
    train_seg: TrainSegSettings
    predict_seg: PredictSegSettings
    evaluate: EvaluateSettings
    render_report: RenderReportSettings
    run: dict[str, RunSettings]

    @field_validator("runs")
    @classmethod
    def _runs_have_usable_names(cls, runs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(runs)) < len(runs):
            raise ValueError("a run is listed twice: list each once")
        for name in runs:
            if not RUN_NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"{name!r} cannot name a run: use small letters, digits and _, and none of {', '.join(RESERVED)}"
                )
        return runs

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be distinct whole numbers from 0 up")
        return seeds

    @field_validator("shards")
    @classmethod
    def _shards_count_up(cls, shards: tuple[int, ...]) -> tuple[int, ...]:
        if shards != tuple(range(len(shards))):
            raise ValueError(f"shards must count up from 0: write {list(range(len(shards)))}")
        return shards

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Params":
        for name in self.runs:
            if name not in self.run:
                raise ValueError(f"runs lists {name}, but there is no section run.{name}: add it")
        if self.generate and list(self.generate) != [self.dataset.name]:
            raise ValueError(f"generate may only name the dataset {self.dataset.name}")
        for split in self.evaluate.segmentation:
            if split not in self.predict_seg.splits:
                raise ValueError(f"evaluate.segmentation names {split}: add it to predict_seg.splits as well")
        for kind in ("seed_predicted_tags", "refined_predicted_tags"):
            for split in getattr(self.evaluate, kind):
                if split not in self.make_cam.predicted_tags.splits:
                    raise ValueError(f"evaluate.{kind} names {split}: add it to make_cam.predicted_tags.splits as well")
        by_stage = {"refined": "refine_crf", "refined_predicted_tags": "refine_crf", "segmentation": "train_seg"}
        for kind, stage in by_stage.items():
            if getattr(self.evaluate, kind) and not getattr(self, stage).enabled:
                raise ValueError(f"evaluate.{kind} lists splits, but {stage}.enabled is false: empty the list")
        for name in self.fully_supervised_runs:
            if not (self.train_seg.enabled and self.evaluate.segmentation):
                raise ValueError(
                    f"run.{name}.supervision is masks, which trains and scores the segmentation alone: set "
                    "train_seg.enabled to true and list its splits in evaluate.segmentation"
                )
        return self

    @property
    def walking_runs(self) -> tuple[str, ...]:
        """The runs whose score maps walk."""
        own = self.walk_scores.enabled
        return tuple(name for name in self.weakly_supervised_runs if self.run[name].walk_scores.get("enabled", own))

    @property
    def weakly_supervised_runs(self) -> tuple[str, ...]:
        """The runs that are trained on tags."""
        return tuple(name for name in self.runs if self.run[name].supervision == "tags")

    @property
    def fully_supervised_runs(self) -> tuple[str, ...]:
        """The runs that are trained on true masks."""
        return tuple(name for name in self.runs if self.run[name].supervision == "masks")

    @property
    def used_splits(self) -> dict[str, tuple[str, ...]]:
        """The splits that each section names, by dotted key."""
        evaluate = self.evaluate
        return {
            "train_cam.split": (self.train_cam.split,),
            "make_cam.splits": self.make_cam.splits,
            "choose_threshold.split": (self.choose_threshold.split,),
            "train_seg.split": (self.train_seg.split,),
            "predict_seg.splits": self.predict_seg.splits,
            **{f"evaluate.{kind}": getattr(evaluate, kind) for kind in (*TAGS, "classification")},
            "evaluate.examples_split": (evaluate.examples_split,) if evaluate.examples_split else (),
        }
