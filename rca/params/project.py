"""The keys of a params file other than the sections of stages."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from rca.core.names import check_names
from rca.core.settings import MOST, Plain, Settings
from rca.data.formats.dataset import DatasetSettings
from rca.stages.base.layout import RESERVED
from rca.stages.base.stage import list_stages


class ResourceSettings(Settings):
    """The resources that an engine reserves for an instance of a stage.

    Attributes:
        gpu: GPUs.
        mem_mb: Main memory in MB.
        runtime: Time limit in minutes.
    """

    gpu: int = Field(default=0, ge=0, le=1024)
    mem_mb: int = Field(default=4000, ge=1, le=1 << 26)
    runtime: int = Field(default=60, ge=1, le=1 << 20)


class AverageSettings(Settings):
    """The runs whose score maps are averaged.

    Attributes:
        runs: The runs.
        seeds: "same" averages the maps of the run's own seed, "all" those of all seeds, which are then the same for
            each seed of the run.
    """

    runs: tuple[str, ...] = Field(min_length=1, max_length=100)
    seeds: Literal["same", "all"] = "same"

    @field_validator("runs")
    @classmethod
    def _runs_are_distinct(cls, runs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(runs)) < len(runs):
            raise ValueError("a run is listed twice: list each once")
        return runs


class RunSettings(Settings):
    """A run, besides its overrides of the sections of stages.

    Attributes:
        base: The run whose settings this run inherits; null inherits none.
        train: "own" trains a network for this run; "none" takes the trained network of `base`, for a method that needs
            no training of its own, such as rca_extended.
        host: How the base network is trained: a module in rca/hosts.
        host_options: The host's options, where they differ from its defaults.
        method: The cross-image method: a module in rca/methods.
        options: The method's options, where they differ from its defaults.
        averages: An ensemble: the run trains no classification network, and its score maps are the mean of those of
            other runs or seeds; null for maps of its own.
        supervision: What the run learns from: "tags", or "masks" for the fully supervised upper bound of the
            segmentation network. A run on true masks needs no host, no method and none of their stages.
        masks_from: The run whose masks the segmentation network learns from, or by whose segmentation network they are
            made, as `train_seg.masks` says; such a run needs no host, no method and none of their stages either. null
            for masks of the run's own.
    """

    base: str | None = None
    train: Literal["own", "none"] = "own"
    host: str = "cam"
    host_options: Plain = {}
    method: str = "cam"
    options: Plain = {}
    averages: AverageSettings | None = None
    supervision: Literal["tags", "masks"] = "tags"
    masks_from: str | None = None

    @model_validator(mode="after")
    def _a_network_is_taken_from_a_base(self) -> "RunSettings":
        if self.train == "none" and self.base is None:
            raise ValueError("train is none, which takes the network of base, but base is null: name a run there")
        return self

    @model_validator(mode="after")
    def _masks_have_one_origin(self) -> "RunSettings":
        if self.masks_from is not None and self.supervision == "masks":
            raise ValueError(f"masks_from is {self.masks_from}, but supervision is masks, the true ones: remove one")
        return self

    @model_validator(mode="after")
    def _maps_have_one_origin(self) -> "RunSettings":
        other = {"masks_from": self.masks_from is not None, "supervision": self.supervision == "masks"}
        for key in (key for key, given in other.items() if given and self.averages is not None):
            raise ValueError(f"averages makes score maps, of which {key} leaves none: remove one of the two")
        if self.averages is not None and self.train == "none":
            raise ValueError("averages takes score maps, and train: none a network: remove one of the two")
        return self


class ProjectSettings(Settings):
    """The keys of a params file that are not sections of stages.

    Attributes:
        dataset: The dataset's format and parts; it lies at `data/<name>`.
        links: The links that `rca preset` makes under `data/`: their names and targets.
        runs: The runs to make, in the order of the tables.
        seeds: The random seeds of each run.
        shards: The parts that per-image work is split into: [0, 1, ..., n-1].
        resources: The resources of each stage; `other` is for stages that are not named.
        run: The settings of each run.
    """

    dataset: DatasetSettings
    links: dict[str, str] = {}
    runs: tuple[str, ...] = Field(min_length=1, max_length=1000)
    seeds: tuple[int, ...] = Field(min_length=1, max_length=1000)
    shards: tuple[int, ...] = Field(min_length=1, max_length=1000)
    resources: dict[str, ResourceSettings] = {}
    run: dict[str, Plain]

    @field_validator("runs")
    @classmethod
    def _runs_have_usable_names(cls, runs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(runs)) < len(runs):
            raise ValueError("a run is listed twice: list each once")
        check_names("run", runs, RESERVED)
        return runs

    @field_validator("run")
    @classmethod
    def _described_runs_have_usable_names(cls, run: dict[str, Plain]) -> dict[str, Plain]:
        check_names("run", run, RESERVED)
        return run

    @field_validator("links")
    @classmethod
    def _links_lie_under_data(cls, links: dict[str, str]) -> dict[str, str]:
        check_names("dataset", links)
        return links

    @field_validator("dataset")
    @classmethod
    def _parts_of_the_dataset_have_usable_names(cls, dataset: DatasetSettings) -> DatasetSettings:
        check_names("dataset", [dataset.name])
        check_names("split", dataset.splits)
        check_names("source", dataset.sources)
        return dataset

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > MOST:
            raise ValueError(f"seeds must be distinct whole numbers from 0 to {MOST}")
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
            raise ValueError(f"{name} is not a stage: name a stage, or other")
        return resources

    @model_validator(mode="after")
    def _runs_are_described(self) -> "ProjectSettings":
        for name in self.runs:
            if name not in self.run:
                raise ValueError(f"runs lists {name}, but there is no section run.{name}: add it")
        return self
