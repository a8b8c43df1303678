"""Pin the score maps of one shard that a run's affinity network learns from.

DVC cannot depend on some of the images in a shard: without the pins, new maps of other images would retrain it.
"""

from rca.core.files import write_json
from rca.core.settings import Settings, Supervision
from rca.data.manifest import read_manifest
from rca.data.partition import select_from_shard
from rca.labels.score_maps import hash_maps, open_shard
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class PinScoresTask(Settings):
    """All settings of the stage.

    Attributes:
        split: The images that the affinity network learns from.
        walks: Whether score maps get a random walk, which needs that network.
        supervision: What the run's networks learn from.
    """

    split: str
    walks: bool
    supervision: Supervision


def run(context: Context, task: PinScoresTask) -> None:
    """Write the checksum of each image's maps by its id."""
    paths, shard = context.paths, context.chosen_shard
    records = select_from_shard(read_manifest(context.layout.manifest, f"shards/{shard}"), [task.split])
    with open_shard(paths.maps_of(shard, "scores")) as maps:
        checksums = {record.id: hash_maps(maps.read(record.id)) for record in records}
    write_json(paths.pinned_scores / f"{shard}.json", checksums)
    print(f"score maps of {len(checksums)} images")


STAGE = Stage(
    task=PinScoresTask,
    run=run,
    shared={"split": "train_cam.split", "walks": "walk_scores.enabled", "supervision": "run.supervision"},
    axes=("run", "seed", "shard"),
    needed=lambda task: task.walks and task.supervision == "tags",
)
