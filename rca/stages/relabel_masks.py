"""Make the masks of a shard's training images by another run's segmentation network: a round of self-training.

The network's scores of the tags of an image and of the background, then a CRF if one is set. A class that is not tagged
cannot come about.
"""

import numpy as np

from rca.core.devices import choose_device, set_determinism
from rca.core.files import read_photograph, write_directory, write_mask
from rca.core.progress import track
from rca.core.settings import Settings, Threads
from rca.data.manifest import read_manifest
from rca.data.partition import select_from_shard
from rca.segmentation.network import load_segmenter
from rca.segmentation.predict import PredictionSettings, predict_mask
from rca.stages.base.context import Context
from rca.stages.base.layout import MaskKind
from rca.stages.base.stage import Stage


class RelabelMasksSettings(Settings):
    """How training images are masked anew by a segmentation network.

    Attributes:
        prediction: Scales, flip and CRF; null for those of `predict_seg.prediction`.
        threads: CPU threads; results differ in the last digits between numbers of threads.
    """

    prediction: PredictionSettings | None = None
    threads: Threads = 1


class RelabelMasksTask(RelabelMasksSettings):
    """All settings of the stage.

    Attributes:
        predicted: `predict_seg.prediction`.
        masks_from: The run whose segmentation network makes the masks.
        made: The kinds of masks that the run makes.
        split: The images.
        enabled: Whether segmentation networks are trained.
    """

    predicted: PredictionSettings
    masks_from: str | None
    made: tuple[MaskKind, ...]
    split: str
    enabled: bool


def run(context: Context, task: RelabelMasksTask) -> None:
    """Write a mask for each image of the shard that a segmentation network is trained on."""
    layout, paths, shard = context.layout, context.paths, context.chosen_shard
    set_determinism(task.threads)
    manifest = read_manifest(layout.manifest, f"shards/{shard}")
    records = select_from_shard(manifest, [task.split])
    prediction = task.prediction or task.predicted
    network = load_segmenter(layout.of(str(task.masks_from), paths.seed).segmenter).to(choose_device())
    with write_directory(paths.masks_of("relabelled") / str(shard)) as directory:
        for record in track(records, "relabelling", len(records)):
            allowed = np.array([0, *(tag + 1 for tag in sorted(record.tags))], np.uint8)
            photograph = read_photograph(manifest.photograph(record))
            write_mask(directory / f"{record.id}.png", predict_mask(network, photograph, prediction, allowed))
    print(f"{len(records)} images, by the network of {task.masks_from}")


STAGE = Stage(
    task=RelabelMasksTask,
    section=RelabelMasksSettings,
    run=run,
    shared={
        "predicted": "predict_seg.prediction",
        "masks_from": "run.masks_from",
        "made": "run.made_masks",
        "split": "train_seg.split",
        "enabled": "train_seg.enabled",
    },
    axes=("run", "seed", "shard"),
    item=lambda task, place: {"masks_from": task.masks_from},
    needed=lambda task: task.enabled and "relabelled" in task.made,
    cores="threads",
    resources="predict_seg",
)
