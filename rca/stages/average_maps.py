"""Score maps of a shard as the mean of those of several runs or seeds: an ensemble, before any threshold.

Maps for predicted tags are left out: the members may predict other tags.
"""

from contextlib import ExitStack
from pathlib import Path

from rca.core.errors import UserError
from rca.core.files import hash_file, keep_only, read_json
from rca.core.progress import track
from rca.labels.averaging import average_maps
from rca.labels.score_maps import ShardWriter, open_shard
from rca.stages.base.context import Context
from rca.stages.base.members import EnsembleTask, name_members
from rca.stages.base.stage import Stage


def run(context: Context, task: EnsembleTask) -> None:
    """Write the shard's mean score maps."""
    paths, shard = context.paths, context.chosen_shard
    names = list(name_members(task.members, paths.seed))
    keep_only(paths.pinned_maps(shard), [f"{name}.json" for name in names])
    pins = [read_json(paths.pinned_maps(shard) / f"{name}.json") for name in names]
    files = [Path(pin["maps"]) for pin in pins]
    for file, pin in zip(files, pins, strict=True):
        if hash_file(file) != pin["sha256"]:
            raise UserError(
                f"The score maps {file} are not those that were pinned: run the stage that pins them again."
            )
    with ExitStack() as stack:
        members = [stack.enter_context(open_shard(file)) for file in files]
        ids = members[0].ids
        for file, member in zip(files, members, strict=True):
            if member.ids != ids:
                raise UserError(f"{file} holds other images than {files[0]}: give both runs the same make_cam.splits.")
        writer = ShardWriter(context.checkpoint(files).with_suffix(".parts"), len(ids))
        for name in track([one for one in ids if one not in writer.done], "averaging", len(ids) - len(writer.done)):
            writer.add({name: average_maps([member.read(name) for member in members])}, {})
        about = {"stride": members[0].about["stride"], "tags": "given", "members": names}
    writer.finish(paths.maps_of(shard, "scores"), about)
    print(f"{len(ids)} images, the mean of {', '.join(names)}")


STAGE = Stage(
    task=EnsembleTask,
    run=run,
    shared={"members": "members.{run}"},
    axes=("run", "seed", "shard"),
    needed=lambda task: bool(task.members),
)
