"""A whole params file as one typed object, with defaults filled in: the road from params.yaml to the stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rca.core.settings import Plain, Settings, SettingsType, Supervision
from rca.data.formats.dataset import DatasetSettings
from rca.params.project import ProjectSettings
from rca.stages.base.layout import MapKind
from rca.stages.base.stage import Stage, list_stages, load_stage
from rca.stages.predict_seg import PredictSegSettings
from rca.stages.train_cam import TrainCamSettings
from rca.stages.train_seg import TrainSegSettings
from rca.stages.walk_scores import WalkScoresSettings

# Settings of train_seg that belong to a run's masks, not to its network.
OF_MASKS = {"masks", "threshold", "loss"}


@dataclass(frozen=True)
class Run:
    """A run with all that follows from its settings.

    Attributes:
        name: Its name.
        host: The host's module.
        host_options: The host's options, as given.
        method: The method's module.
        options: The method's options, as given.
        supervision: What its networks learn from.
        keeps_memory: Whether its method keeps a memory.
        needs_saliency: Whether its host uses saliency maps.
        sections: The settings of each stage with a section, with what the run overrides.
    """

    name: str
    host: str
    host_options: Plain
    method: str
    options: Plain
    supervision: Supervision
    keeps_memory: bool
    needs_saliency: bool
    sections: Mapping[str, Settings]

    def section(self, kind: type[SettingsType]) -> SettingsType:
        """The settings of the stage whose section has this class."""
        return next(settings for settings in self.sections.values() if isinstance(settings, kind))

    @property
    def weak(self) -> bool:
        """Whether the run learns from tags."""
        return self.supervision == "tags"

    @property
    def maps(self) -> MapKind:
        """The score maps that its masks are made of."""
        return "walked" if self.section(WalkScoresSettings).enabled else "scores"

    @property
    def training(self) -> Plain:
        """The images that its classification network is trained on, as `rca.stages.pin_images.TrainingInputs`."""
        settings = self.section(TrainCamSettings)
        return {"split": settings.split, "sources": settings.sources, "saliency": self.needs_saliency}


@dataclass(frozen=True)
class Params:
    """A whole params file, with defaults filled in.

    Attributes:
        project: The keys that are no stage's section.
        sections: The settings of each stage with a section, for all runs.
        described: What each of `runs` is.
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
        """The settings for all runs of the stage whose section has this class."""
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
        """The runs that learn from tags."""
        return tuple(run for run in self.described.values() if run.weak)

    @property
    def full_runs(self) -> tuple[Run, ...]:
        """The runs that learn from true masks."""
        return tuple(run for run in self.described.values() if not run.weak)

    @property
    def memory_runs(self) -> tuple[str, ...]:
        """The runs whose method keeps a memory."""
        return tuple(run.name for run in self.weak_runs if run.keeps_memory)

    @property
    def trainings(self) -> dict[str, Plain]:
        """The images that each classification network is trained on."""
        return {run.name: run.training for run in self.weak_runs}

    @cached_property
    def upper_bounds(self) -> dict[str, str]:
        """For each run of tags the first run whose same segmentation network is trained on true masks.

        The same network has the same settings in train_seg and predict_seg, but for which of a run's masks it is
        trained on and how it makes up for their faults. Runs without such an upper bound are left out.
        """

        def describe(run: Run) -> tuple[Plain, Plain]:
            network = run.section(TrainSegSettings).model_dump(exclude=OF_MASKS)
            return network, run.section(PredictSegSettings).model_dump()

        return {
            run.name: same[0].name
            for run in self.weak_runs
            if (same := [bound for bound in self.full_runs if describe(bound) == describe(run)])
        }

    def find(self, key: str, run: str | None = None) -> object:
        """The value at a dotted key: of a run (`run.host`), of a section (`train_cam.split`) or of the project.

        Args:
            key: The key.
            run: The run whose overrides count; None for what all runs share.
        """
        first, *rest = key.split(".")
        if first == "run":
            value: object = self.described[str(run)]
        elif first in self.sections:
            value = (self.sections if run is None else self.described[run].sections)[first]
        else:
            value = getattr(self, first)
        for part in rest:
            value = getattr(value, part)
        return value

    def make_task(
        self, name: str, stage: Stage[SettingsType], run: str | None = None, item: str | None = None
    ) -> SettingsType:
        """Make the task of the instances of a stage.

        Args:
            name: The stage's name.
            stage: The stage.
            run: The instances' run, for a stage that has the axis.
            item: Likewise their item.
        """
        sections = self.sections if run is None else self.described[run].sections
        own = {} if stage.section is None else dict(sections[name])
        shared = {field: self.find(key.format(item=item), run) for field, key in stage.shared.items()}
        return stage.task.model_validate(own | shared)

    def list_tasks(self, name: str, stage: Stage[SettingsType]) -> dict[str | None, SettingsType]:
        """The tasks of a stage that leave anything to do, by run or item; by None for a stage without either."""
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
