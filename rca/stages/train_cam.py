"""Train a run's classification network on image-level tags."""

import json
import shutil
from dataclasses import dataclass
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
from rca.core.settings import Plain, Settings, Supervision, Threads, Train
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.features import FeatureCache, TrainingFeatures
from rca.data.loading.images import TrainingImages, make_loader
from rca.data.manifest import Manifest
from rca.data.partition import read_training
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings, TorchvisionWeights
from rca.stages.base.context import Context
from rca.stages.base.layout import Layout, RunLayout
from rca.stages.base.stage import Stage
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer, derive_seed


class TrainCamSettings(Settings):
    """How the classification network is built and trained; the defaults are from IRN's released code.

    Attributes:
        split: The images to train on.
        sources: Extra sources of training images, weighted as the manifest says.
        backbone: The backbone and its initial weights.
        neck: Channels of a 1x1 convolution after the backbone; 0 for none.
        optimisation: The optimisation.
        augmentation: Augmentation of the images.
        second_view: Scale of the second view of a batch, for a host or a method with two views (SEAM: 0.3 of a crop of
            448).
        start: The network and the memory to start from; by default only the backbone's initial weights.
        snapshot_every: Epochs between snapshots of the memory; 0 keeps only the last.
        threads: CPU threads of each training process; results differ in the last digits between numbers of threads.
    """

    split: str = "train"
    sources: tuple[str, ...] = ()
    backbone: BackboneSettings = BackboneSettings(
        name="resnet50", weights=TorchvisionWeights(source="torchvision", name="IMAGENET1K_V1")
    )
    neck: int = Field(default=256, ge=0, le=1 << 16)
    optimisation: OptimisationSettings = OptimisationSettings(
        optimiser="sgd", epochs=10, batch_size=16, learning_rate=0.1, backbone_learning_rate=0.01
    )
    augmentation: AugmentationSettings = AugmentationSettings(scale=(0.65, 1.3), crop=512)
    second_view: float = Field(default=SECOND_VIEW, gt=0, le=1)
    start: StartSettings = StartSettings()
    snapshot_every: int = Field(default=0, ge=0)
    threads: Threads = 1

    @property
    def frozen(self) -> bool:
        """Whether the backbone is frozen, so that its features can be cached."""
        return self.backbone.trainable == "none"

    @model_validator(mode="after")
    def _frozen_backbone_sees_whole_images(self) -> "TrainCamSettings":
        if self.frozen:
            whole = AugmentationSettings(flip=self.augmentation.flip)
            for key in ("scale", "crop", "jitter"):
                if getattr(self.augmentation, key) != getattr(whole, key):
                    raise ValueError(
                        f"augmentation.{key} needs new features in each epoch, but backbone.trainable is none: set"
                        f" it to {json.dumps(getattr(whole, key))}, or set backbone.trainable to all"
                    )
        return self


class TrainCamTask(TrainCamSettings):
    """All settings of the stage.

    Attributes:
        host: The host's module.
        host_options: The host's options, as given.
        method: The method's module.
        options: The method's options, as given.
        supervision: What the run's networks learn from.
        train: Whether the run trains its network.
    """

    host: str
    host_options: Plain
    method: str
    options: Plain
    supervision: Supervision
    train: Train


def run(context: Context, task: TrainCamTask) -> None:
    """Train, then write the network and its history."""
    check_processes(task.host, task.optimisation.processes, f"run {context.run}")
    if not task.frozen:  # delete cached features of earlier settings: this stage and make_cam depend on their folders
        for features in (context.layout.training_features, context.layout.other_features):
            shutil.rmtree(features, ignore_errors=True)
    launch(_train, task.optimisation.processes, context, task)


def _train(context: Context, task: TrainCamTask) -> None:
    """Train in each process; the first process writes the outputs."""
    layout, paths, device = context.layout, context.paths, choose_device()
    set_determinism(task.threads)
    manifest = read_training(layout.manifest, task.split, task.sources)
    torch.manual_seed(paths.seed)
    network = build_network(task, layout.weights("classifier"), manifest, f"run {paths.run}").to(device)
    images = open_images(task, layout, manifest, network, paths.seed)
    loader, sampler = make_loader(
        images, task.optimisation.batch_size, task.optimisation.workers, network.method.pairs_images
    )
    about = network.description
    print(f"{len(images)} images, {about.initialisation}, host {about.host}, method {about.method}, on {device}")
    checkpoint = context.checkpoint([layout.weights("classifier")], find_pinned_images(context))
    epochs = Epochs(network, manifest, paths, task.snapshot_every, checkpoint)
    network.host.begin(manifest.images, epochs.host_files, task.optimisation.epochs)
    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=task.optimisation,
        seed=paths.seed,
        device=device,
        compute_losses=(
            compute_losses_of_features if task.frozen else partial(compute_losses, second_view=task.second_view)
        ),
        start_epoch=epochs.start,
        checkpoint=checkpoint,
        curves=context.curves,
    )
    history = trainer.fit(loader, sampler)
    # The prototypes must include the regions of the last epoch, or they would lag behind the features.
    epochs.start(task.optimisation.epochs)
    if rank() == 0:
        save_network(paths.network, network.cpu())
        write_text(paths.cam_history, pd.DataFrame(history).to_csv(index=False))
        epochs.finish()


def build_network(task: TrainCamTask, weights: Path, manifest: Manifest, what: str) -> CamNetwork:
    """Build the network with its initial weights.

    Args:
        task: The training.
        weights: The output of fetch_weights: the backbone's weights, and the mean and standard deviation of images.
        manifest: The images to train on.
        what: The start of error messages.

    Raises:
        UserError: host and method do not work together, or the host needs saliency maps that are missing.
    """
    check_pair(task.host, task.method, what, cached=task.frozen)
    tensors, about = load_tensors(weights, "fetch_weights")
    description = NetworkDescription(
        backbone=task.backbone.name,
        output_stride=task.backbone.output_stride,
        neck=task.neck,
        host=task.host,
        method=task.method,
        options=task.options,
        classes=manifest.classes,
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        initialisation=about["initialisation"],
        epochs=task.optimisation.epochs,
        host_options=task.host_options,
        sources=task.sources,
    )
    network = CamNetwork(description)
    network.backbone.train_parts(task.backbone.trainable)
    if tensors:
        network.backbone.load_state_dict(tensors)
    start_from(network, manifest, task.start)
    if network.host.needs_saliency:
        manifest.check_saliency(manifest.images, f"{what}: the host {task.host}")
    return network


def open_images(
    task: TrainCamTask, layout: Layout, manifest: Manifest, network: CamNetwork, seed: int
) -> TrainingImages:
    """The images to train on, or their features where the backbone is frozen."""
    records, augmentation, about = manifest.images, task.augmentation, network.description
    if task.frozen:
        return TrainingFeatures(manifest, records, augmentation, seed, FeatureCache(layout.training_features))
    salient = network.host.needs_saliency
    return TrainingImages(manifest, records, augmentation, about.mean, about.std, seed, saliency=salient)


@dataclass
class Epochs:
    """Work between epochs: preparing the method, and saving snapshots of the memory.

    Attributes:
        network: The network in training.
        manifest: The training images.
        paths: The run's paths.
        snapshot_every: Epochs between snapshots; 0 keeps none.
        checkpoint: The training's checkpoint. Snapshots lie beside it, since engines delete the outputs of a stopped
            stage before they run it again.
    """

    network: CamNetwork
    manifest: Manifest
    paths: RunLayout
    snapshot_every: int
    checkpoint: Path

    @property
    def host_files(self) -> Path:
        """The folder of the files that a host keeps for each image."""
        return self.checkpoint.with_suffix(".host")

    @property
    def snapshots(self) -> Path:
        """The folder of the snapshots so far."""
        return self.checkpoint.with_suffix(".memory")

    def start(self, epoch: int) -> None:
        """Prepare the method for an epoch, and save a snapshot of the memory if one is due."""
        run, seed, method = self.paths.run, self.paths.seed, self.network.method
        method.start_epoch(epoch, derive_seed(seed, epoch))
        due = self.snapshot_every and epoch and epoch % self.snapshot_every == 0
        if due and method.keeps_memory and rank() == 0:
            path = self.snapshots / f"epoch-{epoch:04}.safetensors"
            save_snapshot(path, self.network, self.manifest, run, seed, epoch, None)

    def finish(self) -> None:
        """Write the snapshots to the outputs, and delete the checkpoint and the files beside it."""
        with write_directory(self.paths.memory_history) as directory:
            for snapshot in sorted(self.snapshots.glob("*.safetensors")):
                shutil.copyfile(snapshot, directory / snapshot.name)
        for folder in (self.snapshots, self.host_files):
            shutil.rmtree(folder, ignore_errors=True)
        self.checkpoint.unlink(missing_ok=True)


def find_pinned_images(context: Context) -> str:
    """The pinned checksum of the run's training images.

    Raises:
        UserError: they were not pinned.
    """
    path, run = context.layout.pinned_images, context.paths.run
    trainings = read_json(path)["train_cam"]
    if run not in trainings:
        raise UserError(f"{path} has no images of the run {run}: run pin_images again.")
    return str(trainings[run])


STAGE = Stage(
    task=TrainCamTask,
    section=TrainCamSettings,
    run=run,
    shared={name: f"run.{name}" for name in ("host", "host_options", "method", "options", "supervision", "train")},
    axes=("run", "seed"),
    needed=lambda task: task.supervision == "tags" and task.train == "own",
    cores="threads",
)
