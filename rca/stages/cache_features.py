"""Compute the features of all images with a frozen backbone once, for all runs and seeds.

If the backbone is trained, the stage has no instances.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from rca.classifier.views import InferenceSettings, encode_views, group_by_size
from rca.core.devices import choose_device, set_determinism
from rca.core.files import read_photograph, write_directory
from rca.core.progress import track
from rca.core.settings import Settings
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.features import FeatureWriter, View, list_training_views
from rca.data.loading.images import normalise
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.data.partition import assign_shard, check_splits
from rca.models.backbone import Backbone
from rca.models.backbones import build_backbone
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class CacheFeaturesTask(Settings):
    """All settings of the stage.

    Attributes:
        backbone: The classification network's backbone.
        augmentation: The augmentation of its training; only the flip adds a view.
        split: The images to train on.
        inference: The views that score maps are computed from.
        splits: The images that get score maps.
        threads: CPU threads; results differ in the last digits between numbers of threads.
        shards: The parts that the images are split into, counted from 0.
        network_needed: Whether any run has a classification network.
    """

    backbone: BackboneSettings
    augmentation: AugmentationSettings
    split: str
    inference: InferenceSettings
    splits: tuple[str, ...]
    threads: int
    shards: tuple[int, ...]
    network_needed: bool


def run(context: Context, task: CacheFeaturesTask) -> None:
    """Write the features of every view that train_cam and make_cam use, for one shard."""
    layout, shard, augmentation, inference = context.layout, context.chosen_shard, task.augmentation, task.inference
    set_determinism(task.threads)
    check_splits(layout.manifest, (task.split, *task.splits))
    manifest, sources = (read_manifest(layout.manifest, part) for part in (f"shards/{shard}", "sources"))
    # A memory is filled from the training images in the views of inference.
    wanted = [
        (task.split, (*list_training_views(augmentation), *inference.views)),
        *((split, inference.views) for split in task.splits),
    ]
    tensors, about = load_tensors(layout.weights("classifier"), "fetch_weights")
    backbone = build_backbone(task.backbone.name, task.backbone.output_stride)
    backbone.load_state_dict(tensors)
    backbone.eval().to(choose_device())
    statistics = tuple(about["mean"]), tuple(about["std"])
    # Training images share neither a file nor a batch with others, so that new images change no features of theirs.
    trained_on = group_by_views((record for record in manifest.images if task.split in record.splits), wanted)
    others = group_by_views((record for record in manifest.images if task.split not in record.splits), wanted)
    # Any run may train on any extra source.
    extra = [record for record in sources.images if assign_shard(record.id, len(task.shards)) == shard]
    extra_groups = [(list_training_views(augmentation), extra)] if extra else []
    groups = ([*trained_on.items(), *extra_groups], others.items())
    for directory, view_groups in zip(layout.feature_shard(shard), groups, strict=True):
        drop_leftovers(directory, task.shards)
        with write_directory(directory) as draft:
            writer = FeatureWriter(draft)
            for views, group in view_groups:
                write_features(writer, backbone, manifest, group, views, statistics, inference)
                print(f"{len(group)} images, {len(views)} views each")
            writer.flush()


def drop_leftovers(directory: Path, shards: tuple[int, ...]) -> None:
    """Delete the shards beside a shard's directory that no longer exist, and drafts of this shard from a stopped run.

    Drafts of other shards stay, since those may be running.
    """
    names = set(map(str, shards))
    old = [path for path in directory.parent.glob("[0-9]*") if path.name not in names]
    for path in (*old, *directory.parent.glob(f".{directory.name}.*")):
        shutil.rmtree(path, ignore_errors=True)


def write_features(
    writer: FeatureWriter,
    backbone: Backbone,
    manifest: Manifest,
    records: list[ImageRecord],
    views: tuple[View, ...],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    inference: InferenceSettings,
) -> None:
    """Write the features of some images.

    Args:
        writer: The writer of the features.
        backbone: The backbone, in evaluation mode.
        manifest: The dataset.
        records: The images.
        views: The views of each image.
        statistics: Mean and standard deviation, per channel, of pixels in 0..1.
        inference: Batch size and precision.
    """
    device = next(backbone.parameters()).device
    batches = list(group_by_size(records, inference.batch_size))
    for batch in track(batches, f"features of {len(views)} views", len(batches)):
        photographs = [read_photograph(manifest.photograph(record)) for record in batch]
        images = torch.stack([normalise(photograph, *statistics) for photograph in photographs]).to(device)
        encoded = encode_views(lambda batch: backbone(batch)[1], images, views, inference.precision)
        for view, batch_features in zip(views, encoded, strict=True):
            for record, features in zip(batch, batch_features, strict=True):
                writer.add(record.id, view, features)


def group_by_views(
    records: Iterable[ImageRecord], wanted: list[tuple[str, tuple[View, ...]]]
) -> dict[tuple[View, ...], list[ImageRecord]]:
    """Group images by the views that they need, each image once; images that need none are left out.

    Args:
        records: The images.
        wanted: Splits, each with the views that its images need.
    """
    groups: dict[tuple[View, ...], list[ImageRecord]] = {}
    for record in records:
        views = {view for split, split_views in wanted if split in record.splits for view in split_views}
        if views:
            groups.setdefault(tuple(sorted(views)), []).append(record)
    return groups


STAGE = Stage(
    task=CacheFeaturesTask,
    run=run,
    shared={
        **{name: f"train_cam.{name}" for name in ("backbone", "augmentation", "split")},
        **{name: f"make_cam.{name}" for name in ("inference", "splits", "threads")},
        "shards": "shards",
        "network_needed": "classifier_needed",
    },
    axes=("shard",),
    needed=lambda task: task.network_needed and task.backbone.trainable == "none",
    cores="threads",
    resources="make_cam",
)
