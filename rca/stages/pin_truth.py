"""Pin the true masks that a fully supervised run's segmentation network is trained on."""

from rca.core.files import hash_file, write_json
from rca.core.settings import Settings, Supervision
from rca.data.manifest import read_manifest
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class PinTruthTask(Settings):
    """All settings of the stage.

    Attributes:
        split: The images to train on.
        enabled: Whether a segmentation network is trained.
        supervision: What the run's networks learn from.
    """

    split: str
    enabled: bool
    supervision: Supervision


def run(context: Context, task: PinTruthTask) -> None:
    """Write the path and the checksum of each mask by the image's id."""
    manifest = read_manifest(context.layout.manifest, f"truth/{task.split}")
    masks = {record.id: manifest.truth(record) for record in manifest.select(task.split)}
    checksums = {image_id: hash_file(path) for image_id, path in masks.items()}
    paths = {image_id: path.as_posix() for image_id, path in masks.items()}
    write_json(context.paths.pinned_masks, {"masks": "true", "sha256": checksums, "paths": paths})
    print(f"{len(masks)} masks: true")


STAGE = Stage(
    task=PinTruthTask,
    run=run,
    shared={"split": "train_seg.split", "enabled": "train_seg.enabled", "supervision": "run.supervision"},
    axes=("run", "seed"),
    needed=lambda task: task.enabled and task.supervision == "masks",
)
