"""Train a network that finds boundaries between objects, on the cells of score maps with a sure label."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rca.core.devices import choose_device, set_determinism
from rca.core.distributed import rank
from rca.core.errors import UserError
from rca.core.files import keep_only, read_json, read_photograph, work_in_folder, write_mask, write_text
from rca.core.launch import launch
from rca.core.precision import keep_digits
from rca.core.progress import track
from rca.core.settings import Settings, Supervision
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.manifest import Manifest, read_manifest
from rca.data.partition import group_by_shard
from rca.labels.affinity import AffinityLabelSettings, label_sure_cells
from rca.labels.score_maps import hash_maps, open_shard
from rca.models.boundary_network import (
    BoundaryNetwork,
    compute_boundary_losses,
    load_frozen_backbone,
    save_branches,
)
from rca.stages.base.context import Context
from rca.stages.base.layout import RunLayout
from rca.stages.base.stage import Stage
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer


class AffinityOptimisationSettings(OptimisationSettings):
    """IRN's settings; the backbone is frozen, so its learning rate has no effect."""

    optimiser: Literal["sgd", "adamw"] = "sgd"
    epochs: int = Field(default=3, ge=1, le=10_000)
    batch_size: int = Field(default=16, ge=1, le=1 << 16)
    learning_rate: float = Field(default=0.1, gt=0, le=100)
    backbone_learning_rate: float = Field(default=0.1, le=100)


class TrainAffinitySettings(Settings):
    """How the network is trained; the defaults are IRN's with half its batch size.

    Attributes:
        labels: Which cells have a sure label.
        radius: Pairs of cells closer than this are compared, in cells of stride 4.
        optimisation: The optimisation; the backbone is the classification network's and is frozen.
        augmentation: Augmentation of the images.
    """

    labels: AffinityLabelSettings = AffinityLabelSettings()
    radius: int = Field(default=5, ge=2, le=64)
    optimisation: AffinityOptimisationSettings = AffinityOptimisationSettings()
    augmentation: AugmentationSettings = AugmentationSettings(scale=(0.5, 1.5), crop=512)


class TrainAffinityTask(TrainAffinitySettings):
    """All settings of the stage.

    Attributes:
        split: The images to train on.
        threads: CPU threads; results differ in the last digits between numbers of threads.
        walks: Whether score maps get a random walk, which needs this network.
        supervision: What the run's networks learn from.
        shards: The parts that the images are split into, counted from 0.
    """

    split: str
    threads: int
    walks: bool
    supervision: Supervision
    shards: tuple[int, ...]


def run(context: Context, settings: TrainAffinityTask) -> None:
    """Label the cells, train on them, then write the trained branches and their history."""
    manifest = read_manifest(context.layout.manifest, f"splits/{settings.split}")
    with work_in_folder() as folder:
        write_labels(folder, manifest, context.paths, settings)
        launch(_train, settings.optimisation.processes, context, settings, manifest, folder)


def write_labels(folder: Path, manifest: Manifest, paths: RunLayout, settings: TrainAffinityTask) -> None:
    """Write a mask of the sure cells of each image, as large as its photograph.

    Raises:
        UserError: an image's score maps differ from the pinned ones.
    """
    keep_only(paths.pinned_scores, [f"{shard}.json" for shard in settings.shards])
    for shard, records in group_by_shard(manifest.images, len(settings.shards)).items():
        pinned = read_json(paths.pinned_scores / f"{shard}.json")
        with open_shard(paths.maps_of(shard, "scores")) as maps:
            for record in track(records, f"labels of shard {shard}", len(records)):
                image_maps = maps.read(record.id)
                if hash_maps(image_maps) != pinned.get(record.id):
                    raise UserError(
                        f"The score maps of {record.id} in {maps.path} are not those that were pinned: run pin_scores"
                        " again."
                    )
                photograph = read_photograph(manifest.photograph(record))
                cells = Image.fromarray(label_sure_cells(photograph, image_maps, settings.labels))
                mask = cells.resize((record.width, record.height), Image.Resampling.NEAREST)
                write_mask(folder / f"{record.id}.png", np.asarray(mask))


def _train(context: Context, settings: TrainAffinityTask, manifest: Manifest, folder: Path) -> None:
    """Train in each process; the first process writes the outputs."""
    paths = context.paths
    set_determinism(settings.threads)
    torch.manual_seed(paths.seed)
    device = choose_device()
    network = BoundaryNetwork(*load_frozen_backbone(paths.network)).to(device)

    def compute_losses(network: BoundaryNetwork, batch: Sample, epoch: int) -> dict[str, Tensor]:
        logits = network(batch.image).float()
        cells = functional.interpolate(batch.mask[:, None].float(), logits.shape[1:], mode="nearest-exact")
        with keep_digits(device):
            return compute_boundary_losses(logits, cells[:, 0].long(), settings.radius)

    records, augmentation, optimisation = manifest.images, settings.augmentation, settings.optimisation
    masks = {record.id: folder / f"{record.id}.png" for record in records}
    images = TrainingImages(manifest, records, augmentation, network.mean, network.std, paths.seed, masks)
    loader, sampler = make_loader(images, optimisation.batch_size, optimisation.workers)
    print(f"{len(records)} images, on {device}")
    pinned = [paths.pinned_scores / f"{shard}.json" for shard in settings.shards]
    checkpoint = context.checkpoint((context.layout.manifest / "dataset.json", paths.network, *pinned))
    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=optimisation,
        seed=paths.seed,
        device=device,
        compute_losses=compute_losses,
        checkpoint=checkpoint,
        curves=context.curves,
    )
    history = trainer.fit(loader, sampler)
    if rank() > 0:
        return
    save_branches(paths.affinity, network.cpu())
    write_text(paths.affinity_history, pd.DataFrame(history).to_csv(index=False))
    checkpoint.unlink(missing_ok=True)


STAGE = Stage(
    task=TrainAffinityTask,
    section=TrainAffinitySettings,
    run=run,
    shared={
        "split": "train_cam.split",
        "threads": "train_cam.threads",
        "walks": "walk_scores.enabled",
        "supervision": "run.supervision",
        "shards": "shards",
    },
    axes=("run", "seed"),
    needed=lambda task: task.walks and task.supervision == "tags",
    cores="threads",
    resources="train_cam",
)
