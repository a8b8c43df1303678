"""Stages that are switched off: their outputs are there, as the engines ask, and hold nothing.

Apart from the stages themselves, which take seconds to import: an ablation starts hundreds that are off.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rca.core.files import keep_only, write_directory, write_file, write_json, write_text
from rca.stages.context import Context

NOTHING = {"about": json.dumps({"enabled": False})}


def write_nothing(context: Context) -> bool:
    """Write the empty outputs of a stage that is off.

    Returns:
        Whether it is off; if not, nothing was written.
    """
    if context.stage not in SWITCHES:
        return False
    is_off, write = SWITCHES[context.stage]
    off = is_off(context)
    if off:
        write(context)
    return off


def _is_disabled(context: Context, section: str | None = None) -> bool:
    """Whether the plain data says so; what else it may say is left to the stage, which knows its settings."""
    data = context.merge_section(section or context.stage)
    return isinstance(data, dict) and data.get("enabled") is False


def _sees_masks(context: Context) -> bool:
    """Whether the run is trained on true masks, and so needs none of its own."""
    return context.supervision == "masks"


def _does_not_walk(context: Context) -> bool:
    """Whether score maps do not walk, as by default."""
    data = context.merge_section("walk_scores")
    return (isinstance(data, dict) and data.get("enabled", False) is False) or _sees_masks(context)


def _refines_nothing(context: Context) -> bool:
    return _is_disabled(context) or _sees_masks(context)


def _has_no_segmenter(context: Context) -> bool:
    """Whether train_seg was off; a file that is missing or broken is left to the stage that reads it."""
    try:
        with safe_open(context.paths.segmenter, "numpy") as file:
            return file.metadata() == NOTHING
    except (FileNotFoundError, SafetensorError):
        return False


def _has_trained_backbone(context: Context) -> bool:
    backbone = context.read("train_cam.backbone")
    return isinstance(backbone, dict) and backbone.get("trainable", "all") != "none"


def _write_no_features(context: Context) -> None:
    for directory in context.layout.feature_shard(context.chosen_shard):
        _empty(directory)


def _pin_no_scores(context: Context) -> None:
    write_json(context.paths.pinned_scores, {})


def _write_no_affinity(context: Context) -> None:
    _write_no_tensors(context.paths.affinity)
    write_text(context.paths.affinity_history, "epoch,learning_rate,loss_boundary\n")


def _write_no_walk(context: Context) -> None:
    _write_no_tensors(context.paths.walked_shard(context.chosen_shard))


def _write_no_network(context: Context) -> None:
    paths = context.paths
    keep_only(paths.model, [])  # the memory of a run that had other settings
    _write_no_tensors(paths.network)
    _empty(paths.memory_history)
    write_text(paths.cam_history, "epoch,learning_rate,loss_classification\n")


def _write_no_scores(context: Context) -> None:
    _write_no_tensors(context.paths.score_shard(context.chosen_shard))


def _choose_no_threshold(context: Context) -> None:
    write_json(context.paths.threshold, {"split": None})
    write_text(context.paths.threshold_curve, "threshold,miou\n")


def _write_no_masks(kind: str, context: Context) -> None:
    _empty(context.paths.masks(kind) / str(context.chosen_shard))


def _pin_no_masks(context: Context) -> None:
    write_json(context.paths.pinned_masks, {})


def _write_no_segmenter(context: Context) -> None:
    _write_no_tensors(context.paths.segmenter)
    write_text(context.paths.seg_history, "epoch,learning_rate,loss_segmentation\n")


def _write_no_predictions(context: Context) -> None:
    _empty(context.paths.predictions)


def _write_no_tensors(path: Path) -> None:
    with write_file(path) as temporary:
        save_file({}, temporary, NOTHING)


def _empty(directory: Path) -> None:
    with write_directory(directory):
        pass


# How each stage that can be off tells so, and what it then leaves.
SWITCHES: dict[str, tuple[Callable[[Context], bool], Callable[[Context], None]]] = {
    "cache_features": (_has_trained_backbone, _write_no_features),
    "train_cam": (_sees_masks, _write_no_network),
    "make_cam": (_sees_masks, _write_no_scores),
    "pin_scores": (_does_not_walk, _pin_no_scores),
    "train_affinity": (_does_not_walk, _write_no_affinity),
    "walk_scores": (_does_not_walk, _write_no_walk),
    "choose_threshold": (_sees_masks, _choose_no_threshold),
    "make_pseudo": (_sees_masks, partial(_write_no_masks, "pseudo")),
    "refine_crf": (_refines_nothing, partial(_write_no_masks, "refined")),
    "pin_masks": (partial(_is_disabled, section="train_seg"), _pin_no_masks),
    "train_seg": (_is_disabled, _write_no_segmenter),
    "predict_seg": (_has_no_segmenter, _write_no_predictions),
}
