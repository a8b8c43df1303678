"""Check that the parts of a params file are consistent."""

from pathlib import Path

from rca.classifier.registry import check_processes
from rca.core.errors import UserError
from rca.evaluation.protocol import TAGS
from rca.params.schema import Params, Run
from rca.stages.choose_threshold import ChooseThresholdSettings
from rca.stages.evaluate import EvaluateSettings
from rca.stages.generate_data import GenerateDataSettings
from rca.stages.make_cam import MakeCamSettings
from rca.stages.predict_seg import PredictSegSettings
from rca.stages.refine_crf import RefineCrfSettings
from rca.stages.train_affinity import TrainAffinitySettings
from rca.stages.train_cam import TrainCamSettings
from rca.stages.train_seg import TrainSegSettings

# Keys that runs cannot override: weights and features are made once for all runs, an engine reserves the same cores for
# all, all are scored in the same way, and images are pinned once for all stages except the classification network's.
SHARED_KEYS = ("backbone", "threads", "workers", "enabled", "split", "predicted_tags")
# Exceptions: masks are scored in the same way with or without a random walk.
FREE_KEYS = {("walk_scores", "enabled")}
# Settings of cached features: with a frozen backbone, features are computed once for all runs.
CACHED_KEYS = {"train_cam": ("augmentation",), "make_cam": ("splits", "inference")}


def check_params(params: Params, source: Path) -> None:
    """Check that sections and runs are consistent.

    Raises:
        UserError: they are not; the message begins with `source`.
    """
    problem = find_problem(params)
    if problem:
        raise UserError(f"{source}: {problem}.")
    for run in params.described.values():
        problem = find_difference(params, run)
        if problem:
            raise UserError(f"{source}: {problem}.")
        check_processes(run.host, run.section(TrainCamSettings).optimisation.processes, f"{source}: run.{run.name}")


def find_problem(params: Params) -> str | None:
    """Find a conflict between sections; return the body of a sentence, or None if there is no conflict."""
    evaluate, scored = params.section(EvaluateSettings), params.section(MakeCamSettings)
    if params.section(GenerateDataSettings).train and params.dataset.name != "shapes":
        return f"generate_data draws the dataset shapes, but dataset.name is {params.dataset.name}: set train to 0"
    for split in evaluate.segmentation:
        if split not in params.section(PredictSegSettings).splits:
            return f"evaluate.segmentation names {split}: add it to predict_seg.splits as well"
    for kind in ("seed_predicted_tags", "refined_predicted_tags"):
        for split in getattr(evaluate, kind):
            if split not in scored.predicted_tags.splits:
                return f"evaluate.{kind} names {split}: add it to make_cam.predicted_tags.splits as well"
    enabled = {
        "refine_crf": params.section(RefineCrfSettings).enabled,
        "train_seg": params.section(TrainSegSettings).enabled,
    }
    by_stage = {"refined": "refine_crf", "refined_predicted_tags": "refine_crf", "segmentation": "train_seg"}
    for kind, stage in by_stage.items():
        if getattr(evaluate, kind) and not enabled[stage]:
            return f"evaluate.{kind} lists splits, but {stage}.enabled is false: empty the list"
    if evaluate.relabelled and not any("relabelled" in run.made_masks for run in params.described.values()):
        return "evaluate.relabelled lists splits, but no run's train_seg.masks is relabelled: empty the list"
    for run in params.described.values():
        if not run.weak and not (enabled["train_seg"] and evaluate.segmentation):
            key = "supervision is masks" if run.masks_from is None else f"masks_from is {run.masks_from}"
            return (
                f"run.{run.name}.{key}, which trains and scores the segmentation alone: set "
                "train_seg.enabled to true and list its splits in evaluate.segmentation"
            )
    return None


def find_difference(params: Params, run: Run) -> str | None:
    """Find a conflict between a run and the rest; return the body of a sentence, or None if there is no conflict."""
    frozen = params.section(TrainCamSettings).frozen
    if frozen and run.section(MakeCamSettings).inference.longest_side is not None:
        return (
            "make_cam.inference.longest_side needs features of its own, but train_cam.backbone.trainable is none: set"
            " longest_side to null, or trainable to last_stage"
        )
    for name, settings in run.sections.items():
        shared = params.sections[name]
        for key in SHARED_KEYS:
            differs = hasattr(settings, key) and getattr(settings, key) != getattr(shared, key)
            if differs and (name, key) not in FREE_KEYS:
                return f"run.{run.name}.{name}.{key} cannot differ between runs: set it in {name}"
        for key in CACHED_KEYS.get(name, ()) if frozen else ():
            if getattr(settings, key) != getattr(shared, key):
                return (
                    f"run.{run.name}.{name}.{key} cannot differ between runs while train_cam.backbone.trainable is"
                    f" none, since features are computed once: set it in {name}"
                )
    finders = (find_missing_network, find_missing_members, find_missing_masks, find_missing_gpus, find_missing_parts)
    return next((problem for find in finders if (problem := find(params, run))), None)


def find_missing_network(params: Params, run: Run) -> str | None:
    """Find a run that takes a network which nobody trains, or which its method or its host cannot use."""
    if run.taken_from is None:
        return None
    taken = params.described.get(run.taken_from)
    if taken is None:
        return f"run.{run.name}.train is none, which takes the network of {run.taken_from}: add that run to runs"
    if taken.taken_from is not None or not taken.weak:
        return f"run.{run.name}.train is none, but its base {taken.name} trains no network: name another in base"
    for key in ("host", "host_options"):
        if getattr(run, key) != getattr(taken, key):
            return (
                f"run.{run.name}.train is none, so its {key} must be that of {taken.name}: remove run.{run.name}.{key}"
            )
    if run.section(TrainCamSettings) != taken.section(TrainCamSettings):
        return f"run.{run.name}.train is none, so nothing is trained by run.{run.name}.train_cam: remove it"
    return None


def find_missing_members(params: Params, run: Run) -> str | None:
    """Find an ensemble of runs that make no score maps, or maps that cannot be averaged."""
    if run.averages is None:
        return None
    key = f"run.{run.name}.averages.runs"
    for name in run.averages.runs:
        member = params.described.get(name)
        if member is None:
            return f"{key} names {name}: add that run to runs"
        if not member.weak or member.train == "average":
            return f"{key} names {name}, which makes no score maps of its own: name a run that does"
        first, own = (params.described[one].section(MakeCamSettings) for one in (run.averages.runs[0], name))
        if (own.stride, own.splits) != (first.stride, first.splits):
            return (
                f"{key} names {name}, whose make_cam.stride or make_cam.splits differ from the first's: make them equal"
            )
    if run.maps == "walked":
        return f"run.{run.name}.walk_scores.enabled needs a network, and an ensemble has none: set it to false there"
    return None


def find_missing_masks(params: Params, run: Run) -> str | None:
    """Find a run whose segmentation learns from masks that nobody makes."""
    key, masks = f"run.{run.name}.masks_from", run.section(TrainSegSettings).masks
    if run.masks_from is None:
        if run.weak and masks == "relabelled":
            return f"train_seg.masks is relabelled, which the network of another run does: name that run in {key}"
        return None
    taken = params.described.get(run.masks_from)
    if taken is None:
        return f"{key} is {run.masks_from}: add that run to runs"
    if taken.supervision == "masks":
        return f"{key} is {taken.name}, which learns from true masks: name a run that learns from tags"
    if masks != "relabelled" and masks not in taken.made_masks:
        return (
            f"{key} is {taken.name}, which makes no {masks} masks: name the run that does, or set"
            f" run.{run.name}.train_seg.masks to relabelled, for masks by the network of {taken.name}"
        )
    chain = [run.name]
    while (link := params.described.get(chain[-1])) is not None and link.masks_from is not None:
        if link.masks_from in chain:
            return f"run.{link.name}.masks_from leads back to {link.masks_from}: name a run that learns from tags"
        chain.append(link.masks_from)
    return None


def find_missing_gpus(params: Params, run: Run) -> str | None:
    """Find a training on GPUs that has fewer GPUs than processes."""
    trainings = {
        "train_cam": run.section(TrainCamSettings).optimisation,
        "train_affinity": run.section(TrainAffinitySettings).optimisation,
        "train_seg": run.section(TrainSegSettings).optimisation,
    }
    for name, optimisation in trainings.items():
        processes, resources = optimisation.processes, "train_cam" if name == "train_affinity" else name
        reserved = params.project.resources.get(resources)
        if reserved and 0 < reserved.gpu < processes:
            return (
                f"{name} trains with {processes} processes, but resources.{resources}.gpu is {reserved.gpu}: set it to"
                f" {processes}, or to 0 to train on the CPU"
            )
    return None


def find_missing_parts(params: Params, run: Run) -> str | None:
    """Find sources or masks that a run is trained on but that nothing provides."""
    for name in run.section(TrainCamSettings).sources:
        if name not in params.dataset.sources:
            known = ", ".join(params.dataset.sources) or "none"
            return f"run.{run.name}.train_cam.sources names {name}, but dataset.sources has {known}: add it there"
    seg = run.section(TrainSegSettings)
    if seg.enabled and run.weak and seg.masks == "refined" and not params.section(RefineCrfSettings).enabled:
        return "train_seg.masks is refined, but refine_crf.enabled is false: set it to pseudo"
    return None


def list_used_splits(params: Params) -> dict[str, tuple[str, ...]]:
    """The splits that each section names, by dotted key."""
    evaluate = params.section(EvaluateSettings)
    return {
        "train_cam.split": (params.section(TrainCamSettings).split,),
        "make_cam.splits": params.section(MakeCamSettings).splits,
        "choose_threshold.split": (params.section(ChooseThresholdSettings).split,),
        "train_seg.split": (params.section(TrainSegSettings).split,),
        "predict_seg.splits": params.section(PredictSegSettings).splits,
        **{f"evaluate.{kind}": getattr(evaluate, kind) for kind in (*TAGS, "classification")},
        "evaluate.examples_split": (evaluate.examples_split,) if evaluate.examples_split else (),
    }
