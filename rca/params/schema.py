"""A params file as one typed object with defaults filled in, which makes the settings of each stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rca.core.settings import Plain, Settings, SettingsType, Supervision, Train
from rca.data.formats.dataset import DatasetSettings
from rca.params.project import AverageSettings, ProjectSettings
from rca.stages.base.layout import MapKind, MaskKind
from rca.stages.base.stage import Stage, list_stages, load_stage
from rca.stages.predict_seg import PredictSegSettings
from rca.stages.refine_crf import RefineCrfSettings
from rca.stages.train_cam import TrainCamSettings
from rca.stages.train_seg import TrainSegSettings
from rca.stages.walk_scores import WalkScoresSettings

# Settings of train_seg that depend on a run's masks, not on its network.
OF_MASKS = {"masks", "threshold", "corrected", "loss"}


@dataclass(frozen=True)
class Run:
    """A run, with properties that follow from its settings.

    Attributes:
        name: The run's name.
        host: The host's module.
        host_options: The host's options, as given.
        method: The method's module.
        options: The method's options, as given.
        supervision: What the run's networks learn from.
        masks_from: The run whose masks the segmentation learns from, or whose network makes them; None for its own.
        taken_from: The run whose trained network this run takes; None if it trains its own.
        averages: The runs and seeds whose score maps are averaged; None if the run makes its own.
        keeps_memory: Whether the method keeps a memory.
        needs_saliency: Whether the host uses saliency maps.
        sections: The settings of each stage with a section, with the run's overrides.
    """

    name: str
    host: str
    host_options: Plain
    method: str
    options: Plain
    supervision: Supervision
    masks_from: str | None
    taken_from: str | None
    averages: AverageSettings | None
    keeps_memory: bool
    needs_saliency: bool
    sections: Mapping[str, Settings]

    def section(self, kind: type[SettingsType]) -> SettingsType:
        """The settings of the stage whose section has this class."""
        return next(settings for settings in self.sections.values() if isinstance(settings, kind))

    @property
    def weak(self) -> bool:
        """Whether the run learns from tags itself."""
        return self.supervision == "tags"

    @property
    def made_masks(self) -> tuple[MaskKind, ...]:
        """The kinds of masks that the run makes."""
        if self.weak:
            return ("pseudo", "refined") if self.section(RefineCrfSettings).enabled else ("pseudo",)
        relabels = self.supervision == "run" and self.section(TrainSegSettings).masks == "relabelled"
        return ("relabelled",) if relabels else ()

    @property
    def mask_owner(self) -> str:
        """The run that makes the masks that the segmentation network learns from."""
        return self.name if self.masks_from is None or self.made_masks else self.masks_from

    @property
    def train(self) -> Train:
        """Whether the run trains a network of its own, takes one, or has none."""
        if self.averages is not None:
            return "average"
        return "own" if self.taken_from is None else "none"

    @property
    def maps(self) -> MapKind:
        """The score maps that the run's masks are made from."""
        return "walked" if self.section(WalkScoresSettings).enabled else "scores"

    @property
    def training(self) -> Plain:
        """The training images of the classification network, as data for `rca.stages.pin_images.TrainingInputs`."""
        settings = self.section(TrainCamSettings)
        return {"split": settings.split, "sources": settings.sources, "saliency": self.needs_saliency}


@dataclass(frozen=True)
class Params:
    """A whole params file, with defaults filled in.

    Attributes:
        project: The keys that are not sections of stages.
        sections: The settings of each stage with a section, for all runs.
        described: Each of the `runs`, by name.
        params_sha256: The checksum of the file.
    """

    project: ProjectSettings
    sections: Mapping[str, Settings]
    described: Mapping[str, Run]
    params_sha256: str

    @property
    def dataset(self) -> DatasetSettings:
        """The dataset's format and parts."""
        return self.project.dataset

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs to make, in the order of the tables."""
        return self.project.runs

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of each run."""
        return self.project.seeds

    @property
    def shards(self) -> tuple[int, ...]:
        """The parts that per-image work is split into."""
        return self.project.shards

    def section(self, kind: type[SettingsType]) -> SettingsType:
        """The settings, without any run's overrides, of the stage whose section has this class."""
        return next(settings for settings in self.sections.values() if isinstance(settings, kind))

    @property
    def classifier(self) -> TrainCamSettings:
        """How classification networks are built and trained."""
        return self.section(TrainCamSettings)

    @property
    def segmenter(self) -> TrainSegSettings:
        """How segmentation networks are built and trained."""
        return self.section(TrainSegSettings)

    @property
    def classifier_needed(self) -> bool:
        """Whether any run has a classification network."""
        return bool(self.weak_runs)

    @property
    def segmenter_needed(self) -> bool:
        """Whether runs have segmentation networks."""
        return self.segmenter.enabled

    @property
    def weak_runs(self) -> tuple[Run, ...]:
        """The runs that learn from tags themselves."""
        return tuple(run for run in self.described.values() if run.weak)

    @property
    def full_runs(self) -> tuple[Run, ...]:
        """The runs that learn from true masks."""
        return tuple(run for run in self.described.values() if run.supervision == "masks")

    @property
    def memory_runs(self) -> tuple[str, ...]:
        """The runs whose method keeps a memory."""
        return tuple(run.name for run in self.weak_runs if run.keeps_memory)

    @property
    def trained_runs(self) -> tuple[str, ...]:
        """The runs that train a classification network."""
        return tuple(run.name for run in self.weak_runs if run.train == "own")

    @property
    def trainings(self) -> dict[str, Plain]:
        """The training images of each run's classification network."""
        return {run.name: run.training for run in self.weak_runs if run.train != "average"}

    def list_members(self, run: Run) -> tuple[Plain, ...]:
        """The members of an ensemble, as data for `rca.stages.base.members.Member`."""
        if run.averages is None:
            return ()
        seeds = (None,) if run.averages.seeds == "same" else self.seeds
        return tuple(
            {"run": name, "seed": seed, "maps": self.described[name].maps}
            for name in run.averages.runs
            for seed in seeds
        )

    @cached_property
    def members(self) -> dict[str, tuple[Plain, ...]]:
        """The members of each run, which has none if it is no ensemble."""
        return {name: self.list_members(run) for name, run in self.described.items()}

    @cached_property
    def upper_bounds(self) -> dict[str, str]:
        """For each run without true masks, the first run that trains the same segmentation network on true masks.

        Networks are the same if train_seg and predict_seg have the same settings, except for the choice of masks and
        the loss. Runs without such an upper bound are left out.
        """

        def describe(run: Run) -> tuple[Plain, Plain]:
            network = run.section(TrainSegSettings).model_dump(exclude=OF_MASKS)
            return network, run.section(PredictSegSettings).model_dump()

        return {
            run.name: same[0].name
            for run in self.described.values()
            if run.supervision != "masks"
            and (same := [bound for bound in self.full_runs if describe(bound) == describe(run)])
        }

    def find(self, key: str, run: str | None = None) -> object:
        """Find the value of a dotted key: of a run (`run.host`), of a section (`train_cam.split`) or of the project.

        Args:
            key: The key.
            run: The run whose overrides apply; None for none.
        """
        first, *rest = key.split(".")
        if first == "run":
            value: object = self.described[str(run)]
        elif first in self.sections:
            value = (self.sections if run is None else self.described[run].sections)[first]
        else:
            value = getattr(self, first)
        for part in rest:
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        return value

    def make_task(
        self, name: str, stage: Stage[SettingsType], run: str | None = None, item: str | None = None
    ) -> SettingsType:
        """Make the task of the instances of a stage.

        Args:
            name: The stage's name.
            stage: The stage.
            run: The instances' run, for a stage with this axis.
            item: The instances' item, for a stage with this axis.
        """
        sections = self.sections if run is None else self.described[run].sections
        section = {} if stage.section is None else dict(sections[name])
        shared = {field: self.find(key.format(item=item, run=run), run) for field, key in stage.shared.items()}
        return stage.task.model_validate(section | shared)

    def list_tasks(self, name: str, stage: Stage[SettingsType]) -> dict[str | None, SettingsType]:
        """The tasks of a stage that leave anything to do, by run or item; by None for a stage with neither axis."""
        tasks: dict[str | None, SettingsType]
        if "run" in stage.axes:
            tasks = {run: self.make_task(name, stage, run=run) for run in self.runs}
        elif "item" in stage.axes:
            tasks = {item: self.make_task(name, stage, item=item) for item in stage.items}
        else:
            tasks = {None: self.make_task(name, stage)}
        return {key: task for key, task in tasks.items() if stage.needed(task)}


def load_stages() -> dict[str, Stage[Settings]]:
    """All stages by name."""
    return {name: load_stage(name) for name in list_stages()}
