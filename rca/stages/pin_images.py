"""Pin the images that each training uses: its split, its extra sources and, where its host uses them, saliency maps.

DVC cannot depend on some lines of a table. With the pins, an edit to an image, a tag or a saliency map reruns the
stages and runs that use it, and no others.
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
        sources: Extra sources that are trained on as well.
        saliency: Whether the run's host uses their saliency maps.
    """

    split: str
    sources: tuple[str, ...]
    saliency: bool


class PinImagesTask(Settings):
    """All that the stage needs to know.

    Attributes:
        trainings: The images of each run that learns from tags.
        threshold_split: The images whose true masks the best threshold is chosen on.
        segmentation_split: The images that segmentation networks are trained on.
        predicted_splits: The images that are segmented.
        segmented: Whether there are segmentation networks at all.
    """

    trainings: dict[str, TrainingInputs]
    threshold_split: str
    segmentation_split: str
    predicted_splits: tuple[str, ...]
    segmented: bool


def run(context: Context, task: PinImagesTask) -> None:
    """Write a checksum for each stage and run that depends on some images alone."""
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
    """The checksum of all images that a training sees, and of their saliency maps where it uses them."""
    check_splits(layout.manifest, [inputs.split])
    images = hash_images(read_training(layout.manifest, inputs.split, inputs.sources))
    if not inputs.saliency:
        return images
    maps = json.dumps(list_saliency(layout.manifest, inputs.split, inputs.sources), sort_keys=True)
    return hashlib.sha256(f"{images} {maps}".encode()).hexdigest()[:32]


def hash_images(manifest: Manifest) -> str:
    """A checksum of all that a manifest says of its images, but for their saliency maps."""
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
