"""Train a run's classification network on image-level tags."""

import shutil
from functools import partial

import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rca.classifier.network import CamNetwork, NetworkDescription, check_pair, check_processes, save_network
from rca.classifier.snapshots import StartSettings, save_snapshot, start_from
from rca.core.distributed import rank
from rca.core.files import read_json, write_directory, write_text
from rca.core.launch import launch
from rca.core.settings import Settings
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.features import FeatureCache, TrainingFeatures
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.partition import read_training
from rca.models.resizing import rescale
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings
from rca.stages.context import Context
from rca.training.trainer import OptimisationSettings, Trainer, choose_device, set_determinism

SECOND_VIEW = 0.3


class TrainCamSettings(Settings):
    """How the classification network is built and trained.

    Attributes:
        split: The images to train on.
        sources: Extra sources whose images are trained on as well, with the weights that the manifest gives them.
        backbone: The backbone and its initial weights.
        neck: Channels of a 1x1 convolution after the backbone; 0 for none.
        optimisation: The training.
        augmentation: What is done to an image.
        second_view: The scale of the second view of a batch, for a host or a method that looks twice (SEAM: 0.3 of a
            crop of 448).
        start: The network and the memory to start from; both empty for the backbone's initial weights alone.
        snapshot_every: Keep the memory after every so many epochs; 0 keeps the last alone.
        threads: Of the CPU, for each process of the training; another number gives other last digits.
    """

    split: str
    sources: tuple[str, ...] = ()
    backbone: BackboneSettings
    neck: int = Field(default=256, ge=0)
    optimisation: OptimisationSettings
    augmentation: AugmentationSettings
    second_view: float = Field(default=SECOND_VIEW, gt=0, le=1)
    start: StartSettings = StartSettings()
    snapshot_every: int = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _frozen_backbone_sees_whole_images(self) -> "TrainCamSettings":
        if self.backbone.trainable == "none":
            whole = AugmentationSettings(flip=self.augmentation.flip)
            for key in ("scale", "crop", "jitter"):
                if getattr(self.augmentation, key) != getattr(whole, key):
                    raise ValueError(
                        f"augmentation.{key} asks for new features in each epoch, but backbone.trainable is none: "
                        "leave it out, or set backbone.trainable to all"
                    )
        return self


def compute_losses(
    network: CamNetwork, batch: Sample, epoch: int, second_view: float = SECOND_VIEW
) -> dict[str, Tensor]:
    """The terms of the loss of a batch; where host or method look twice, also of its second view, at another scale."""
    output = network(batch.image, batch.valid, batch.tags)
    if network.needs_second_view:
        output = output._replace(second=network(rescale(batch.image, second_view), batch.valid, batch.tags))
    return network.compute_losses(output, batch, epoch)


def compute_losses_of_features(network: CamNetwork, batch: Sample, epoch: int) -> dict[str, Tensor]:
    """The same of a batch that holds the backbone's features in place of images."""
    output = network.score(batch.image, batch.valid, tags=batch.tags)
    return network.compute_losses(output, batch, epoch)


def run(context: Context) -> None:
    """Train, then write the network and its history."""
    processes = context.settings(TrainCamSettings).optimisation.processes
    check_processes(context.read(f"run.{context.run}.host"), processes, f"run {context.run}")
    launch(_train, processes, context)


def _train(context: Context) -> None:
    """What each process of the training does; the first one writes."""
    settings = context.settings(TrainCamSettings)
    layout, paths = context.layout, context.paths
    set_determinism(settings.threads)
    manifest = read_training(layout.manifest, settings.split, settings.sources)
    pinned = read_json(layout.method(paths.run))
    torch.manual_seed(paths.seed)
    weights = layout.weights("train_cam")
    frozen = settings.backbone.trainable == "none"
    check_pair(pinned["host"], pinned["method"], f"run {paths.run}", cached=frozen)
    network = _build(settings, context, manifest.classes, pinned)
    start_from(network, manifest, settings.start)
    device = choose_device()
    network.to(device)
    about = network.description
    records, salient = manifest.images, network.host.needs_saliency
    if salient:
        manifest.check_saliency(records, f"run {paths.run}: the host {about.host}")
    if frozen:
        cache = FeatureCache(layout.training_features)
        images: TrainingImages = TrainingFeatures(manifest, records, settings.augmentation, paths.seed, cache)
    else:
        augmentation, statistics = settings.augmentation, (about.mean, about.std)
        images = TrainingImages(manifest, records, augmentation, *statistics, paths.seed, saliency=salient)
    optimisation = settings.optimisation
    loader, sampler = make_loader(images, optimisation.batch_size, optimisation.workers, network.method.pairs_images)
    print(f"{len(records)} images, {about.initialisation}, host {about.host}, method {about.method}, on {device}")
    tables = [layout.manifest / f"{part}.csv" for part in (f"splits/{settings.split}", "sources")]
    checkpoint = context.checkpoint(settings, (*tables, weights, layout.method(paths.run)))
    # Beside the checkpoint, since engines delete outputs before a stage that was stopped runs again.
    history_so_far, of_host = checkpoint.with_suffix(".memory"), checkpoint.with_suffix(".host")
    network.host.begin(records, of_host, optimisation.epochs)

    def start_epoch(epoch: int) -> None:
        network.method.start_epoch(epoch, paths.seed * 1_000_003 + epoch)
        due = settings.snapshot_every and epoch and epoch % settings.snapshot_every == 0
        if due and network.method.keeps_memory and rank() == 0:
            path = history_so_far / f"epoch-{epoch:04}.safetensors"
            save_snapshot(path, network, manifest, paths.run, paths.seed, epoch, None)

    trainer = Trainer(
        network,
        network.backbone,
        optimisation,
        paths.seed,
        device,
        compute_losses_of_features if frozen else partial(compute_losses, second_view=settings.second_view),
        start_epoch,
        checkpoint,
        context.curves,
    )
    history = trainer.fit(loader, sampler)
    # What the last epoch left in the memory: prototypes of its start would lag behind the features.
    start_epoch(optimisation.epochs)
    if rank() > 0:
        return
    save_network(paths.network, network.cpu())
    write_text(paths.cam_history, pd.DataFrame(history).to_csv(index=False))
    with write_directory(paths.memory_history) as directory:
        for snapshot in sorted(history_so_far.glob("*.safetensors")):
            shutil.copyfile(snapshot, directory / snapshot.name)
    for folder in (history_so_far, of_host):
        shutil.rmtree(folder, ignore_errors=True)
    checkpoint.unlink(missing_ok=True)


def _build(settings: TrainCamSettings, context: Context, classes: tuple[str, ...], pinned: dict) -> CamNetwork:
    """The network with its initial weights; their file also says how images are normalised."""
    tensors, about = load_tensors(context.layout.weights("train_cam"), "fetch_weights")
    description = NetworkDescription(
        backbone=settings.backbone.name,
        output_stride=settings.backbone.output_stride,
        neck=settings.neck,
        host=pinned["host"],
        method=pinned["method"],
        options=context.read(f"run.{context.run}.options"),
        classes=classes,
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        initialisation=about["initialisation"],
        epochs=settings.optimisation.epochs,
        host_options=context.read(f"run.{context.run}.host_options"),
        sources=settings.sources,
    )
    network = CamNetwork(description)
    network.backbone.train_parts(settings.backbone.trainable)
    if tensors:
        network.backbone.load_state_dict(tensors)
    return network
