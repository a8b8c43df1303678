"""Train a run's segmentation network on the pinned masks: made from tags, by another network, or true ones."""

import hashlib
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median_low

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from rca.core.devices import choose_device, set_determinism
from rca.core.distributed import rank
from rca.core.errors import UserError
from rca.core.files import hash_file, read_json, write_text
from rca.core.launch import launch
from rca.core.precision import keep_digits
from rca.core.settings import Threads
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.manifest import read_manifest
from rca.data.partition import count_shards
from rca.labels.training_masks import TrainingMaskSettings
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings, TorchvisionWeights
from rca.segmentation.correction import EarlyLearning
from rca.segmentation.heads import HeadName
from rca.segmentation.loss import LossSettings, compute_segmentation_loss
from rca.segmentation.network import Provenance, Segmenter, SegmenterDescription, save_segmenter
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer


class TrainSegSettings(TrainingMaskSettings):
    """How the segmentation network is built and trained, and on which images and masks.

    The defaults are the usual ones for DeepLab-V2 on VOC.

    Attributes:
        enabled: Whether it is trained; if not, no images are segmented either.
        backbone: The backbone and its initial weights.
        head: The head on the backbone.
        loss: The loss.
        optimisation: The optimisation.
        weight_average: The network ends with the exponential moving average of its weights over all steps, of this
            decay (Tarvainen & Valpola, Mean teachers, NIPS 2017), e.g. 0.99; null for its last weights.
        augmentation: Augmentation of the images.
        threads: CPU threads of each training process; results differ in the last digits between numbers of threads.
    """

    enabled: bool = True
    backbone: BackboneSettings = BackboneSettings(
        name="resnet101", output_stride=8, weights=TorchvisionWeights(source="torchvision", name="IMAGENET1K_V2")
    )
    head: HeadName = "deeplab_v2"
    loss: LossSettings = LossSettings()
    optimisation: OptimisationSettings = OptimisationSettings(
        optimiser="sgd",
        epochs=19,
        batch_size=10,
        learning_rate=2.5e-3,
        backbone_learning_rate=2.5e-4,
        weight_decay=5e-4,
    )
    weight_average: float | None = Field(default=None, gt=0, lt=1)
    augmentation: AugmentationSettings = AugmentationSettings(scale=(0.5, 1.5), crop=321)
    threads: Threads = 1


def compute_losses(
    network: nn.Module, batch: Sample, epoch: int, loss: LossSettings, learning: EarlyLearning | None = None
) -> dict[str, Tensor]:
    """The terms of a batch's loss, by name."""
    scores = network(batch.image).float()
    with keep_digits(scores.device):
        mask = batch.mask if learning is None else learning.correct(scores, batch.mask, batch.tags)
        return {"segmentation": compute_segmentation_loss(scores, mask, loss, epoch)}


def run(context: Context, task: TrainSegSettings) -> None:
    """Train, then write the network and its history."""
    launch(_train, task.optimisation.processes, context, task)


def _train(context: Context, settings: TrainSegSettings) -> None:
    """Train in each process; the first process writes the outputs."""
    layout, paths = context.layout, context.paths
    set_determinism(settings.threads)
    manifest = read_manifest(layout.manifest, f"splits/{settings.split}")
    records = manifest.select(settings.split)
    pinned = read_json(paths.pinned_masks)
    folder = layout.of(pinned.get("owner", paths.run), paths.seed).masks_of(settings.masks)
    shards, elsewhere = count_shards(folder), pinned["paths"]
    masks = {
        record.id: Path(elsewhere[record.id]) if record.id in elsewhere else settings.find(folder, record.id, shards)
        for record in records
    }
    check_masks({path: pinned["sha256"][image_id] for image_id, path in masks.items()})
    torch.manual_seed(paths.seed)
    provenance = Provenance(
        dataset=layout.dataset,
        split=settings.split,
        images=len(records),
        longest_side=median_low(max(record.width, record.height) for record in records),
        masks=pinned["masks"],
        masks_sha256=hash_masks(pinned["sha256"]),
        run=paths.run,
        seed=paths.seed,
        version=version("rca"),
        code_sha256=context.code,
    )
    network = _build(settings, layout.weights("segmenter"), manifest.classes, provenance)
    device = choose_device()
    network.to(device)
    about = network.description
    images = TrainingImages(manifest, records, settings.augmentation, about.mean, about.std, paths.seed, masks)
    optimisation = settings.optimisation
    loader, sampler = make_loader(images, optimisation.batch_size, optimisation.workers)
    print(f"{len(records)} images, {about.initialisation}, {about.head}, masks: {pinned['masks']}, on {device}")
    correction, labels = settings.loss.correction, len(manifest.classes) + 1
    learning = None if correction is None else EarlyLearning(correction, labels, optimisation.epochs).to(device)
    checkpoint = context.checkpoint((layout.weights("segmenter"), paths.pinned_masks))
    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=optimisation,
        seed=paths.seed,
        device=device,
        compute_losses=partial(compute_losses, loss=settings.loss, learning=learning),
        start_epoch=(lambda epoch: None) if learning is None else learning.start_epoch,
        remembered=learning,
        checkpoint=checkpoint,
        curves=context.curves,
        decay=settings.weight_average,
    )
    history = trainer.fit(loader, sampler)
    if rank() > 0:
        return
    save_segmenter(paths.segmenter, network.cpu())
    write_text(paths.seg_history, pd.DataFrame(history).to_csv(index=False))
    checkpoint.unlink(missing_ok=True)


def check_masks(pinned: Mapping[Path, str]) -> None:
    """Check that masks have not changed since they were pinned.

    Args:
        pinned: Their checksums by path.

    Raises:
        UserError: a mask is missing or changed.
    """
    for path, checksum in pinned.items():
        if hash_file(path) != checksum:
            raise UserError(f"The mask {path} is not the one that was pinned: run the stage that pins it again.")


def hash_masks(checksums: Mapping[str, str]) -> str:
    """The checksum of a set of masks, from sorted lines of image id and mask checksum."""
    lines = sorted(f"{image_id} {checksum}\n" for image_id, checksum in checksums.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _build(settings: TrainSegSettings, weights: Path, classes: tuple[str, ...], provenance: Provenance) -> Segmenter:
    """Build the network with its initial weights, whose file also holds the images' mean and standard deviation."""
    tensors, about = load_tensors(weights, "fetch_weights")
    description = SegmenterDescription(
        backbone=settings.backbone.name,
        output_stride=settings.backbone.output_stride,
        head=settings.head,
        classes=classes,
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        initialisation=about["initialisation"],
        provenance=provenance,
    )
    network = Segmenter(description)
    network.backbone.train_parts(settings.backbone.trainable)
    if tensors:
        network.backbone.load_state_dict(tensors)
    return network


STAGE = Stage(
    task=TrainSegSettings,
    section=TrainSegSettings,
    run=run,
    axes=("run", "seed"),
    needed=lambda task: task.enabled,
    cores="threads",
)
