"""Pin the pseudo labels or refined masks that a run's segmentation network is trained on.

DVC cannot depend on some files of a directory: without the pins, masks of other images would retrain the network, and
so would another number of shards.
"""

from rca.core.files import hash_file, write_json
from rca.core.settings import Supervision
from rca.data.manifest import read_manifest
from rca.labels.training_masks import TrainingMaskSettings
from rca.stages.base.context import Context
from rca.stages.base.leftovers import keep_masks
from rca.stages.base.stage import Stage


class PinMasksTask(TrainingMaskSettings):
    """All that the stage needs to know.

    Attributes:
        enabled: Whether a segmentation network is trained at all.
        refined_masks: Whether pseudo labels are refined.
        supervision: What the run's networks learn from.
        shards: The parts that the images are split into, counted from 0.
    """

    enabled: bool
    refined_masks: bool
    supervision: Supervision
    shards: tuple[int, ...]


def run(context: Context, task: PinMasksTask) -> None:
    """Write which masks these are, and the checksum of each by the image's id."""
    paths = context.paths
    folder = paths.masks_of(task.masks)
    keep_masks(paths, task.refined_masks, task.shards)
    records = read_manifest(context.layout.manifest, f"splits/{task.split}").select(task.split)
    checksums = {record.id: hash_file(task.find(folder, record.id, len(task.shards))) for record in records}
    masks = f"{task.masks}, {task.threshold} threshold"
    write_json(paths.pinned_masks, {"masks": masks, "sha256": checksums, "paths": {}})
    print(f"{len(checksums)} masks: {masks}")


STAGE = Stage(
    task=PinMasksTask,
    run=run,
    shared={
        **{name: f"train_seg.{name}" for name in ("split", "masks", "threshold", "enabled")},
        "refined_masks": "refine_crf.enabled",
        "supervision": "run.supervision",
        "shards": "shards",
    },
    axes=("run", "seed"),
    needed=lambda task: task.enabled and task.supervision == "tags",
)
