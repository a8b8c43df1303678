"""What a params file may hold beside the sections of the stages."""

import re

from pydantic import Field, field_validator, model_validator

from rca.core.settings import Plain, Settings, Supervision
from rca.data.formats.dataset import DatasetSettings
from rca.stages.base.layout import RESERVED
from rca.stages.base.stage import list_stages

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class ResourceSettings(Settings):
    """What a stage asks an engine for.

    Attributes:
        gpu: Devices.
        mem_mb: Main memory, in MB.
        runtime: Minutes, at most.
    """

    gpu: int = Field(default=0, ge=0)
    mem_mb: int = Field(default=4000, ge=1)
    runtime: int = Field(default=60, ge=1)


class RunSettings(Settings):
    """What a run is, beside what it overrides in the sections of the stages.

    Attributes:
        base: Another run, whose settings this one starts from; null starts from the defaults.
        host: How the base network is trained: a module in rca/hosts.
        host_options: The host's options, where they differ from its defaults.
        method: The cross-image method: a module in rca/methods.
        options: The method's options, where they differ from its defaults.
        supervision: What the run learns from: "tags", or "masks" for the segmentation network's fully supervised upper
            bound. A run of true masks needs no host, no method and none of their stages.
    """

    base: str | None = None
    host: str = "cam"
    host_options: Plain = {}
    method: str = "cam"
    options: Plain = {}
    supervision: Supervision = "tags"


class ProjectSettings(Settings):
    """The keys of a params file that are no stage's section.

    Attributes:
        dataset: The dataset's format and parts; it lies at `data/<name>`.
        links: The links that `rca preset` makes under `data/`: a name there, and where it points.
        runs: The runs to make, in the order of the tables.
        seeds: Each run is made with each of these random seeds.
        shards: The parts that per-image work is split into: [0, 1, ..., n-1].
        resources: What stages ask an engine for; `other` counts for those that are not named.
        run: What each run is.
    """

    dataset: DatasetSettings
    links: dict[str, str] = {}
    runs: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    shards: tuple[int, ...] = Field(min_length=1)
    resources: dict[str, ResourceSettings] = {}
    run: dict[str, Plain]

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

    @field_validator("resources")
    @classmethod
    def _resources_are_of_stages(cls, resources: dict[str, ResourceSettings]) -> dict[str, ResourceSettings]:
        for name in resources.keys() - {"other", *list_stages()}:
            raise ValueError(f"{name} is no stage: name one, or other")
        return resources

    @model_validator(mode="after")
    def _runs_are_described(self) -> "ProjectSettings":
        for name in self.runs:
            if name not in self.run:
                raise ValueError(f"runs lists {name}, but there is no section run.{name}: add it")
        return self
