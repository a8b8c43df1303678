"""Train a run's classification network on image-level tags."""

import json
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from pydantic import Field, model_validator

from rca.classifier.losses import SECOND_VIEW, compute_losses, compute_losses_of_features
from rca.classifier.network import CamNetwork, NetworkDescription, save_network
from rca.classifier.registry import check_pair, check_processes
from rca.classifier.snapshots import StartSettings, save_snapshot, start_from
from rca.core.devices import choose_device, set_determinism
from rca.core.distributed import rank
from rca.core.errors import UserError
from rca.core.files import read_json, write_directory, write_text
from rca.core.launch import launch
from rca.core.settings import Plain, Settings, Supervision
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.features import FeatureCache, TrainingFeatures
from rca.data.loading.images import TrainingImages, make_loader
from rca.data.partition import read_training
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings, TorchvisionWeights
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer, derive_seed


class TrainCamSettings(Settings):
    """How the classification network is built and trained; the defaults are those of IRN's released code.

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

    split: str = "train"
    sources: tuple[str, ...] = ()
    backbone: BackboneSettings = BackboneSettings(
        name="resnet50", weights=TorchvisionWeights(source="torchvision", name="IMAGENET1K_V1")
    )
    neck: int = Field(default=256, ge=0)
    optimisation: OptimisationSettings = OptimisationSettings(
        optimiser="sgd", epochs=10, batch_size=16, learning_rate=0.1, backbone_learning_rate=0.01
    )
    augmentation: AugmentationSettings = AugmentationSettings(scale=(0.65, 1.3), crop=512)
    second_view: float = Field(default=SECOND_VIEW, gt=0, le=1)
    start: StartSettings = StartSettings()
    snapshot_every: int = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1)

    @property
    def frozen(self) -> bool:
        """Whether the backbone is not trained at all, so that its features can be kept."""
        return self.backbone.trainable == "none"

    @model_validator(mode="after")
    def _frozen_backbone_sees_whole_images(self) -> "TrainCamSettings":
        if self.frozen:
            whole = AugmentationSettings(flip=self.augmentation.flip)
            for key in ("scale", "crop", "jitter"):
                if getattr(self.augmentation, key) != getattr(whole, key):
                    raise ValueError(
                        f"augmentation.{key} asks for new features in each epoch, but backbone.trainable is none: set"
                        f" it to {json.dumps(getattr(whole, key))}, or set backbone.trainable to all"
                    )
        return self


class TrainCamTask(TrainCamSettings):
    """All that the stage needs to know.

    Attributes:
        host: The host's module.
        host_options: The host's options, as given.
        method: The method's module.
        options: The method's options, as given.
        supervision: What the run's networks learn from.
    """

    host: str
    host_options: Plain
    method: str
    options: Plain
    supervision: Supervision


def run(context: Context, task: TrainCamTask) -> None:
    """Train, then write the network and its history."""
    check_processes(task.host, task.optimisation.processes, f"run {context.run}")
    if not task.frozen:  # this stage and make_cam depend on the folder that holds such features, so old ones must go
        for features in (context.layout.training_features, context.layout.other_features):
            shutil.rmtree(features, ignore_errors=True)
    launch(_train, task.optimisation.processes, context, task)


def _train(context: Context, settings: TrainCamTask) -> None:
    """The work of each process of the training; the first one writes."""
    layout, paths = context.layout, context.paths
    set_determinism(settings.threads)
    manifest = read_training(layout.manifest, settings.split, settings.sources)
    torch.manual_seed(paths.seed)
    weights = layout.weights("classifier")
    frozen = settings.frozen
    check_pair(settings.host, settings.method, f"run {paths.run}", cached=frozen)
    network = _build(settings, weights, manifest.classes)
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
    checkpoint = context.checkpoint([weights], find_pinned_images(context))
    # Beside the checkpoint, since engines delete outputs before a stage that was stopped runs again.
    history_so_far, of_host = checkpoint.with_suffix(".memory"), checkpoint.with_suffix(".host")
    network.host.begin(records, of_host, optimisation.epochs)

    def start_epoch(epoch: int) -> None:
        network.method.start_epoch(epoch, derive_seed(paths.seed, epoch))
        due = settings.snapshot_every and epoch and epoch % settings.snapshot_every == 0
        if due and network.method.keeps_memory and rank() == 0:
            path = history_so_far / f"epoch-{epoch:04}.safetensors"
            save_snapshot(path, network, manifest, paths.run, paths.seed, epoch, None)

    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=optimisation,
        seed=paths.seed,
        device=device,
        compute_losses=(
            compute_losses_of_features if frozen else partial(compute_losses, second_view=settings.second_view)
        ),
        start_epoch=start_epoch,
        checkpoint=checkpoint,
        curves=context.curves,
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


def find_pinned_images(context: Context) -> str:
    """The checksum of the images that the run is trained on.

    Raises:
        UserError: they were not pinned.
    """
    path, run = context.layout.pinned_images, context.paths.run
    trainings = read_json(path)["train_cam"]
    if run not in trainings:
        raise UserError(f"{path} has no images of the run {run}: run pin_images again.")
    return str(trainings[run])


def _build(settings: TrainCamTask, weights: Path, classes: tuple[str, ...]) -> CamNetwork:
    """The network with its initial weights; their file also says how images are normalised."""
    tensors, about = load_tensors(weights, "fetch_weights")
    description = NetworkDescription(
        backbone=settings.backbone.name,
        output_stride=settings.backbone.output_stride,
        neck=settings.neck,
        host=settings.host,
        method=settings.method,
        options=settings.options,
        classes=classes,
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        initialisation=about["initialisation"],
        epochs=settings.optimisation.epochs,
        host_options=settings.host_options,
        sources=settings.sources,
    )
    network = CamNetwork(description)
    network.backbone.train_parts(settings.backbone.trainable)
    if tensors:
        network.backbone.load_state_dict(tensors)
    return network


STAGE = Stage(
    task=TrainCamTask,
    section=TrainCamSettings,
    run=run,
    shared={name: f"run.{name}" for name in ("host", "host_options", "method", "options", "supervision")},
    axes=("run", "seed"),
    needed=lambda task: task.supervision == "tags",
    cores="threads",
)
