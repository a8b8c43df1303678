"""Compute once, for all runs and seeds, what a frozen backbone makes of the images.

A backbone that is trained leaves nothing to keep: then this stage is off.
"""

import torch

from rca.artifacts import read_photograph, write_directory
from rca.data.features import FeatureWriter, View, list_training_views
from rca.data.loading import AugmentationSettings, normalise
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.labels.views import InferenceSettings, encode_views, group_by_size
from rca.models.backbones import build_backbone
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings
from rca.progress import track
from rca.stages.context import Context
from rca.training import choose_device, set_determinism


def run(context: Context) -> None:
    """Write the features of every view that train_cam and make_cam ask for."""
    settings = context.settings(BackboneSettings, "train_cam.backbone")
    augmentation = context.settings(AugmentationSettings, "train_cam.augmentation")
    inference = context.settings(InferenceSettings, "make_cam.inference")
    layout = context.layout
    set_determinism(context.read("make_cam.threads"))
    manifest = read_manifest(layout.manifest)
    wanted = [(context.read("train_cam.split"), list_training_views(augmentation))]
    wanted += [(split, inference.views) for split in context.read("make_cam.splits")]
    tensors, about = load_tensors(layout.weights("train_cam"), "fetch_weights")
    backbone = build_backbone(settings.name, settings.output_stride)
    backbone.load_state_dict(tensors)
    device = choose_device()
    backbone.eval().to(device)
    mean, std = tuple(about["mean"]), tuple(about["std"])
    with write_directory(layout.features) as directory:
        writer = FeatureWriter(directory)
        for views, records in group_by_views(manifest, wanted).items():
            batches = list(group_by_size(records, inference.batch_size))
            for batch in track(batches, f"features of {len(views)} views", len(batches)):
                photographs = [read_photograph(manifest.photograph(record)) for record in batch]
                images = torch.stack([normalise(one, mean, std) for one in photographs]).to(device)
                encoded = encode_views(lambda batch: backbone(batch)[1], images, views, inference.precision)
                for view, features in zip(views, encoded, strict=True):
                    for record, one in zip(batch, features, strict=True):
                        writer.add(record.id, view, one)
            print(f"{len(records)} images, {len(views)} views each")
        writer.flush()


def group_by_views(
    manifest: Manifest, wanted: list[tuple[str, tuple[View, ...]]]
) -> dict[tuple[View, ...], list[ImageRecord]]:
    """The images of some splits by the views that are asked of them, each image once.

    Args:
        manifest: The dataset.
        wanted: Splits, and the views that are asked of each of their images.
    """
    views: dict[str, set[View]] = {}
    for split, of_split in wanted:
        for record in manifest.select(split):
            views.setdefault(record.id, set()).update(of_split)
    groups: dict[tuple[View, ...], list[ImageRecord]] = {}
    for record in manifest.images:
        if record.id in views:
            groups.setdefault(tuple(sorted(views[record.id])), []).append(record)
    return groups
