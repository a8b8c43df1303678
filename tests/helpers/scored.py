"""A project whose classification network has random weights: what comes after a training, within seconds."""

from typing import Any

import torch
from stages import locate, run_stages, shrink_preset, write_params

from rca.classifier.network import CamNetwork, NetworkDescription, save_network
from rca.data.manifest import Manifest, read_manifest
from rca.stages.base.pins import Instance

SHARDS = (0, 1)
PLACE: dict[str, Any] = {"run": "cam", "seed": 0}
PATHS = locate(**PLACE)


def build_project(**sections: dict[str, Any]) -> Manifest:
    """Put down, in the current folder, all that make_cam reads; `sections` change those of the preset."""
    params = shrink_preset(train=9, val=5)
    params["make_cam"]["inference"] = {"scales": [1.0], "flip": True, "batch_size": 2}
    params["choose_threshold"]["candidates"] = 9
    params["train_seg"]["enabled"] = params["refine_crf"]["enabled"] = False
    params["evaluate"].update(refined=[], segmentation=[])
    for section, changes in sections.items():
        params[section].update(changes)
    write_params(params)
    run_stages(Instance("generate_data", item="shapes"), Instance("prepare_data"))
    manifest = read_manifest(PATHS.dataset.manifest)
    normalisation = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "initialisation": "random weights"}
    about = NetworkDescription("small", 8, 0, "cam", "cam", {}, manifest.classes, **normalisation)
    torch.manual_seed(0)
    save_network(PATHS.network, CamNetwork(about))
    return manifest


def make_masks(refine: bool = False) -> None:
    """Run the stages from make_cam to make_pseudo, and refine_crf where it is asked for."""
    by_shard = [[Instance(stage, **PLACE, shard=shard) for shard in SHARDS] for stage in ("make_cam", "make_pseudo")]
    run_stages(*by_shard[0], Instance("choose_threshold", **PLACE), *by_shard[1])
    if refine:
        run_stages(*(Instance("refine_crf", **PLACE, shard=shard) for shard in SHARDS))
