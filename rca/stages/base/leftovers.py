"""Remove masks that earlier settings left in a run's folders.

Stages depend on whole folders, so such files would count as input.
"""

from collections.abc import Iterable

from rca.core.files import keep_only
from rca.stages.base.layout import RunLayout


def keep_masks(paths: RunLayout, refined: bool, shards: Iterable[int]) -> None:
    """Delete refined masks if pseudo labels are no longer refined, and masks of shards that no longer exist.

    Args:
        paths: The run.
        refined: Whether pseudo labels are refined.
        shards: The existing shards.
    """
    names = [str(shard) for shard in shards]
    folders = [paths.masks_of("pseudo"), *([paths.masks_of("refined")] if refined else [])]
    keep_only(paths.masks, [folder.name for folder in folders])
    for folder in folders:
        keep_only(folder, names)
