"""Reading a params file: what `rca check` validates before anything runs, every run with what it overrides."""

from pathlib import Path

from rca.classifier.network import check_pair, check_processes, load_host, load_method, read_options
from rca.core.errors import UserError
from rca.core.settings import Settings, build_settings, load_params, merge
from rca.params.schema import Params
from rca.stages.choose_threshold import ChooseThresholdSettings
from rca.stages.make_cam import MakeCamSettings
from rca.stages.predict_seg import PredictSegSettings
from rca.stages.refine_crf import RefineCrfSettings
from rca.stages.train_affinity import TrainAffinitySettings
from rca.stages.train_cam import TrainCamSettings
from rca.stages.train_seg import TrainSegSettings
from rca.stages.walk_scores import WalkScoresSettings

# What a run may override, and the settings that the result must satisfy.
OVERRIDABLE: dict[str, type[Settings]] = {
    "train_cam": TrainCamSettings,
    "make_cam": MakeCamSettings,
    "train_affinity": TrainAffinitySettings,
    "walk_scores": WalkScoresSettings,
    "choose_threshold": ChooseThresholdSettings,
    "refine_crf": RefineCrfSettings,
    "train_seg": TrainSegSettings,
    "predict_seg": PredictSegSettings,
}
# Weights and features are made once for all runs, an engine reserves the same cores for all, all are scored alike, and
# dvc.yaml names the split that a stage depends on.
SHARED_KEYS = ("backbone", "threads", "workers", "enabled", "split", "predicted_tags")
# Masks are scored alike whether the maps that they were made of have walked or not.
FREE_KEYS = {("walk_scores", "enabled")}
# What cache_features goes by: with a frozen backbone it is the same for all runs as well.
SHARED_VIEWS = {"train_cam": ("augmentation",), "make_cam": ("splits", "inference")}


def read_params(path: Path, source: Path | None = None) -> Params:
    """Read and validate a params file, every run with what it overrides.

    Args:
        path: The file.
        source: What messages call it; by default its path.

    Raises:
        UserError: the file is missing or broken, a key is unknown or out of range, or parts do not fit together.
    """
    source = source or path
    data = load_params(path)
    params = build_settings(Params, data, "", source)
    for name in params.runs:
        run = params.run[name]
        cached = params.train_cam.backbone.trainable == "none"
        check_pair(run.host, run.method, f"{source}: run.{name}", cached)
        read_options(load_host(run.host), run.host_options, f"run.{name}.host_options", source)
        read_options(load_method(run.method), run.options, f"run.{name}.options", source)
        for section, kind in OVERRIDABLE.items():
            override = getattr(run, section)
            for key in SHARED_KEYS:
                if key in override and (section, key) not in FREE_KEYS:
                    raise UserError(
                        f"{source}: run.{name}.{section}.{key} cannot differ between runs: set it in {section}."
                    )
            settings = build_settings(kind, merge(data[section], override), f"run.{name}.{section}", source)
            if isinstance(settings, TrainCamSettings | TrainAffinitySettings | TrainSegSettings):
                _check_gpus(params, section, settings.optimisation.processes, source)
            if isinstance(settings, TrainCamSettings):
                check_processes(run.host, settings.optimisation.processes, f"{source}: run.{name}")
                _check_sources(params, settings, f"{source}: run.{name}.{section}")
            if isinstance(settings, TrainSegSettings):
                _check_masks(params, settings, source)
            if cached:
                _check_views(params, name, section, settings, source)
    memory_runs = list_memory_runs(params)
    if params.memory_runs != memory_runs:
        wanted = f"[{', '.join(memory_runs)}]"
        raise UserError(f"{source}: memory_runs must list the runs whose method keeps a memory: write {wanted}.")
    return params


def list_memory_runs(params: Params) -> tuple[str, ...]:
    """The runs whose method keeps a memory: what `memory_runs` must list.

    Raises:
        UserError: a method is unknown.
    """
    return tuple(name for name in params.weakly_supervised_runs if load_method(params.run[name].method).keeps_memory)


def _check_gpus(params: Params, section: str, processes: int, source: Path) -> None:
    """A training with GPUs needs one for each of its processes."""
    resources = "train_cam" if section == "train_affinity" else section
    gpus = getattr(params.resources, resources).gpu
    if 0 < gpus < processes:
        raise UserError(
            f"{source}: {section} trains with {processes} processes, but resources.{resources}.gpu is {gpus}: set it to"
            f" {processes}, or to 0 to train on the CPU."
        )


def _check_sources(params: Params, settings: TrainCamSettings, place: str) -> None:
    """The extra sources that a run trains on are some of the dataset's."""
    for name in settings.sources:
        if name not in params.dataset.sources:
            known = ", ".join(params.dataset.sources) or "none"
            raise UserError(f"{place}.sources names {name}, but dataset.sources has {known}: add it there.")


def _check_masks(params: Params, settings: TrainSegSettings, source: Path) -> None:
    """The masks that the segmentation network is trained on are made."""
    if settings.enabled and settings.masks == "refined" and not params.refine_crf.enabled:
        raise UserError(f"{source}: train_seg.masks is refined, but refine_crf.enabled is false: set it to pseudo.")


def _check_views(params: Params, name: str, section: str, settings: Settings, source: Path) -> None:
    """All runs ask for the features that a frozen backbone gives once for all."""
    for key in SHARED_VIEWS.get(section, ()):
        if getattr(settings, key) != getattr(getattr(params, section), key):
            raise UserError(
                f"{source}: run.{name}.{section}.{key} cannot differ between runs while train_cam.backbone.trainable is"
                f" none, since features are computed once: set it in {section}."
            )
