"""Pin the score maps of one shard of one member of an ensemble.

DVC cannot depend on a list of files whose length differs from run to run: an ensemble depends on its folder of pins.
"""

from rca.core.errors import UserError
from rca.core.files import hash_file, write_json
from rca.core.settings import Plain
from rca.stages.base.context import Context
from rca.stages.base.members import EnsembleTask, Member, name_members
from rca.stages.base.stage import Stage


def run(context: Context, task: EnsembleTask) -> None:
    """Write the checksum of the member's score maps."""
    paths, shard = context.paths, context.chosen_shard
    members = name_members(task.members, paths.seed)
    if context.item not in members:
        raise UserError(f"{paths.run} has no member {context.item}: name one of {', '.join(members)}.")
    member = members[context.item]
    maps = context.layout.of(member.run, int(member.seed or 0)).maps_of(shard, member.maps)
    write_json(paths.pinned_maps(shard) / f"{context.item}.json", {"maps": maps.as_posix(), "sha256": hash_file(maps)})
    print(f"{maps}")


def describe(member: Member) -> Plain:
    """The parts of the path of a member's maps."""
    return {"member": member.run, "member_seed": member.seed, "maps": member.maps}


STAGE = Stage(
    task=EnsembleTask,
    run=run,
    shared={"members": "members.{run}"},
    axes=("item", "run", "seed", "shard"),
    parts=lambda task, seed: tuple(name_members(task.members, seed)),
    item=lambda task, place: describe(name_members(task.members, place["seed"])[place["item"]]),
    needed=lambda task: bool(task.members),
)
