"""Removing the outputs of stages that a run had under earlier settings and has no more.

Stages depend on whole folders, where such files would count as input.
"""

from collections.abc import Iterable

from rca.core.files import keep_only
from rca.stages.base.layout import RunLayout


def keep_masks(paths: RunLayout, refined: bool, shards: Iterable[int]) -> None:
    """Delete refined masks where there are none now, and the masks of shards that are no more.

    Args:
        paths: The run.
        refined: Whether pseudo labels are refined.
        shards: Those that there are.
    """
    names = [str(shard) for shard in shards]
    folders = [paths.masks_of("pseudo"), *([paths.masks_of("refined")] if refined else [])]
    keep_only(paths.masks, [folder.name for folder in folders])
    for folder in folders:
        keep_only(folder, names)
