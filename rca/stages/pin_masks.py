"""Pin the pseudo labels or refined masks that a run's segmentation network is trained on, corrected ones before others.

DVC cannot depend on some of the files in a directory: without the pins, new masks of other images or another number of
shards would retrain the network.
"""

from rca.core.files import hash_file, write_json
from rca.core.settings import Supervision
from rca.data.manifest import read_manifest
from rca.labels.training_masks import TrainingMaskSettings
from rca.stages.base.context import Context
from rca.stages.base.leftovers import keep_masks
from rca.stages.base.stage import Stage


class PinMasksTask(TrainingMaskSettings):
    """All settings of the stage.

    Attributes:
        enabled: Whether a segmentation network is trained.
        refined_masks: Whether pseudo labels are refined.
        supervision: What the run's networks learn from.
        shards: The parts that the images are split into, counted from 0.
    """

    enabled: bool
    refined_masks: bool
    supervision: Supervision
    shards: tuple[int, ...]


def run(context: Context, task: PinMasksTask) -> None:
    """Write the kind of the masks, and the checksum of each mask by the image's id."""
    paths = context.paths
    folder = paths.masks_of(task.masks)
    keep_masks(paths, task.refined_masks, task.shards)
    records = read_manifest(context.layout.manifest, f"splits/{task.split}").select(task.split)
    corrected = task.corrected.find() if task.corrected else {}
    taken = {record.id: corrected[record.id] for record in records if record.id in corrected}
    files = {record.id: taken.get(record.id) or task.find(folder, record.id, len(task.shards)) for record in records}
    checksums = {image_id: hash_file(file) for image_id, file in files.items()}
    masks = f"{task.masks}, {task.threshold} threshold" + (f", {len(taken)} corrected by hand" if taken else "")
    pinned = {image_id: file.as_posix() for image_id, file in taken.items()}
    write_json(paths.pinned_masks, {"masks": masks, "sha256": checksums, "paths": pinned})
    print(f"{len(checksums)} masks: {masks}")


STAGE = Stage(
    task=PinMasksTask,
    run=run,
    shared={
        **{name: f"train_seg.{name}" for name in ("split", "masks", "threshold", "corrected", "enabled")},
        "refined_masks": "refine_crf.enabled",
        "supervision": "run.supervision",
        "shards": "shards",
    },
    axes=("run", "seed"),
    needed=lambda task: task.enabled and task.supervision == "tags",
)
