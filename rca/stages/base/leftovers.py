"""Remove masks that earlier settings left in a run's folders.

Stages depend on whole folders, so such files would count as input.
"""

from collections.abc import Iterable

from rca.core.files import keep_only
from rca.stages.base.layout import MaskKind, RunLayout


def keep_masks(paths: RunLayout, made: Iterable[MaskKind], shards: Iterable[int]) -> None:
    """Delete masks of kinds that the run no longer makes, and masks of shards that no longer exist.

    Args:
        paths: The run.
        made: The kinds of masks that the run makes.
        shards: The existing shards.
    """
    names = [str(shard) for shard in shards]
    folders = [paths.masks_of(kind) for kind in made]
    keep_only(paths.masks, [folder.name for folder in folders])
    for folder in folders:
        keep_only(folder, names)
