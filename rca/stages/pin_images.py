"""Pin the images of each training: its split, its extra sources and, if its host uses them, saliency maps.

DVC cannot depend on single lines of a table. With the pins, an edit to an image, a tag or a saliency map reruns only
the stages and runs that use it.
"""

import hashlib
import json
from dataclasses import replace

from rca.core.files import write_json
from rca.core.settings import Plain, Settings
from rca.data.manifest import Manifest, read_manifest
from rca.data.partition import check_splits, list_saliency, read_training
from rca.stages.base.context import Context
from rca.stages.base.layout import Layout
from rca.stages.base.stage import Stage


class TrainingInputs(Settings):
    """The images that a run's classification network is trained on.

    Attributes:
        split: Their split.
        sources: Extra sources of training images.
        saliency: Whether the run's host uses their saliency maps.
    """

    split: str
    sources: tuple[str, ...]
    saliency: bool


class PinImagesTask(Settings):
    """All settings of the stage.

    Attributes:
        trainings: The images of each run that learns from tags.
        threshold_split: The images on whose true masks the best threshold is chosen.
        segmentation_split: The training images of segmentation networks.
        predicted_splits: The images that are segmented.
        segmented: Whether segmentation networks are trained.
    """

    trainings: dict[str, TrainingInputs]
    threshold_split: str
    segmentation_split: str
    predicted_splits: tuple[str, ...]
    segmented: bool


def run(context: Context, task: PinImagesTask) -> None:
    """Write a checksum for each stage and run that uses only some of the images."""
    layout = context.layout

    def pin(part: str, split: str) -> str:
        check_splits(layout.manifest, [split])
        return hash_images(read_manifest(layout.manifest, f"{part}/{split}"))

    pins: Plain = {"train_cam": {run: pin_training(layout, inputs) for run, inputs in task.trainings.items()}}
    if task.trainings:
        pins["choose_threshold"] = pin("truth", task.threshold_split)
    if task.segmented:
        pins["pin_truth"] = pin("truth", task.segmentation_split)
        pins["train_seg"] = pin("splits", task.segmentation_split)
        pins["predict_seg"] = {split: pin("splits", split) for split in task.predicted_splits}
    write_json(layout.pinned_images, pins)
    print(f"images of {len(task.trainings)} runs")


def pin_training(layout: Layout, inputs: TrainingInputs) -> str:
    """The checksum of all images of a training and, if it uses them, of their saliency maps."""
    check_splits(layout.manifest, [inputs.split])
    images = hash_images(read_training(layout.manifest, inputs.split, inputs.sources))
    if not inputs.saliency:
        return images
    maps = json.dumps(list_saliency(layout.manifest, inputs.split, inputs.sources), sort_keys=True)
    return hashlib.sha256(f"{images} {maps}".encode()).hexdigest()[:32]


def hash_images(manifest: Manifest) -> str:
    """A checksum of everything in a manifest except the saliency maps."""
    digest = hashlib.sha256(repr((manifest.root, manifest.classes)).encode())
    for record in manifest.images:
        digest.update(repr(replace(record, saliency_sha256="")).encode())
    return digest.hexdigest()[:32]


STAGE = Stage(
    task=PinImagesTask,
    run=run,
    shared={
        "trainings": "trainings",
        "threshold_split": "choose_threshold.split",
        "segmentation_split": "train_seg.split",
        "predicted_splits": "predict_seg.splits",
        "segmented": "train_seg.enabled",
    },
)
