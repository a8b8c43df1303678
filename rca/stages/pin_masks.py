"""Pin the masks, its own, those of another run or corrected ones, that a run's segmentation network is trained on.

DVC cannot depend on some of the files in a directory: without the pins, new masks of other images or another number of
shards would retrain the network.
"""

from rca.core.files import hash_file, write_json
from rca.core.settings import Supervision
from rca.data.manifest import read_manifest
from rca.labels.training_masks import TrainingMaskSettings
from rca.stages.base.context import Context
from rca.stages.base.layout import MaskKind
from rca.stages.base.leftovers import keep_masks
from rca.stages.base.stage import Stage


class PinMasksTask(TrainingMaskSettings):
    """All settings of the stage.

    Attributes:
        enabled: Whether a segmentation network is trained.
        made: The kinds of masks that the run makes.
        owner: The run that makes the masks to train on.
        masks_from: The run that owns the masks, or by whose network they are made; None if they are the run's own.
        supervision: What the run's networks learn from.
        shards: The parts that the images are split into, counted from 0.
    """

    enabled: bool
    made: tuple[MaskKind, ...]
    owner: str
    masks_from: str | None
    supervision: Supervision
    shards: tuple[int, ...]


def run(context: Context, task: PinMasksTask) -> None:
    """Write the kind of the masks, and the checksum of each mask by the image's id."""
    paths = context.paths
    folder = context.layout.of(task.owner, paths.seed).masks_of(task.masks)
    keep_masks(paths, task.made, task.shards)
    records = read_manifest(context.layout.manifest, f"splits/{task.split}").select(task.split)
    corrected = task.corrected.find() if task.corrected else {}
    taken = {record.id: corrected[record.id] for record in records if record.id in corrected}
    files = {record.id: taken.get(record.id) or task.find(folder, record.id, len(task.shards)) for record in records}
    checksums = {image_id: hash_file(file) for image_id, file in files.items()}
    masks = describe(task) + (f", {len(taken)} corrected by hand" if taken else "")
    owner = {} if task.owner == paths.run else {"owner": task.owner}
    pinned = {image_id: file.as_posix() for image_id, file in taken.items()}
    write_json(paths.pinned_masks, {"masks": masks, "sha256": checksums, "paths": pinned, **owner})
    print(f"{len(checksums)} masks: {masks}")


def describe(task: PinMasksTask) -> str:
    """The kind of the masks in words, for the network's provenance."""
    if task.masks == "relabelled":
        return f"relabelled by the segmentation network of {task.masks_from}"
    owner = f" of {task.masks_from}" if task.masks_from else ""
    return f"{task.masks}{owner}, {task.threshold} threshold"


STAGE = Stage(
    task=PinMasksTask,
    run=run,
    shared={
        **{name: f"train_seg.{name}" for name in ("split", "masks", "threshold", "corrected", "enabled")},
        "made": "run.made_masks",
        "owner": "run.mask_owner",
        "masks_from": "run.masks_from",
        "supervision": "run.supervision",
        "shards": "shards",
    },
    axes=("run", "seed"),
    item=lambda task, place: {"owner": task.owner},
    needed=lambda task: task.enabled and task.supervision != "masks",
)
