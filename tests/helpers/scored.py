"""A project whose classification network has random weights: what comes after a training, within seconds."""

from pathlib import Path
from typing import Any

import torch
import yaml

from rca.classifier.network import CamNetwork, NetworkDescription, save_network
from rca.core.settings import load_params
from rca.data.manifest import Manifest, read_manifest
from rca.stages.context import Context
from rca.stages.run import run_stage

ROOT = Path(__file__).parents[2]
SHARDS = (0, 1)
PLACE: dict[str, Any] = {"run": "cam", "seed": 0}


def build_project(**sections: dict[str, Any]) -> Manifest:
    """Put down, in the current folder, all that make_cam reads; `sections` change those of the preset."""
    params = load_params(ROOT / "workflow/presets/shapes.yaml")
    params["generate"] = {"shapes": {"train": 9, "val": 5, "size": 48, "seed": 0, "objects": [1, 2]}}
    params["prepare_data"]["workers"] = 1
    params["make_cam"]["inference"] = {"scales": [1.0], "flip": True, "batch_size": 2}
    params["choose_threshold"]["candidates"] = 9
    params["train_seg"]["enabled"] = params["refine_crf"]["enabled"] = False
    params["evaluate"].update(refined=[], segmentation=[])
    for section, changes in sections.items():
        params[section].update(changes)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages(Context("generate_data", item="shapes"), Context("prepare_data"), Context("pin_method", run="cam"))
    paths = Context("make_cam", **PLACE).paths
    manifest = read_manifest(paths.dataset.manifest)
    normalisation = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "initialisation": "random weights"}
    about = NetworkDescription("small", 8, 0, "cam", "cam", {}, manifest.classes, **normalisation)
    torch.manual_seed(0)
    save_network(paths.network, CamNetwork(about))
    run_stages(*(Context("cache_features", shard=shard) for shard in SHARDS))  # off
    run_stages(Context("train_seg", **PLACE))  # off
    paths.cam_history.write_text("epoch\n")
    return manifest


def make_masks() -> None:
    """Run the stages from make_cam to make_pseudo."""
    run_stages(
        *(Context(stage, **PLACE, shard=shard) for stage in ("make_cam", "walk_scores") for shard in SHARDS),  # no walk
        Context("choose_threshold", **PLACE),
        *(Context(stage, **PLACE, shard=shard) for stage in ("make_pseudo", "refine_crf") for shard in SHARDS),
    )


def run_stages(*contexts: Context) -> None:
    for context in contexts:
        assert run_stage(context) == 0, context.name
