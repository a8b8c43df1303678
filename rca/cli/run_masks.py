"""A run and its masks, as commands find them in the project's folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import get_args

from rca.core.errors import UserError
from rca.core.files import read_json
from rca.evaluation.masks import Masks
from rca.labels.score_maps import open_shard
from rca.labels.thresholds import CHOICES
from rca.params.schema import Params, Run
from rca.stages.base.layout import Layout, MaskKind


def choose_run(params: Params, name: str | None) -> Run:
    """The named run, or the last one that learns from tags.

    Raises:
        UserError: there is none, or it learns from true masks.
    """
    weak = {run.name: run for run in params.weak_runs}
    chosen = weak.get(name or next(reversed(weak), ""))
    if chosen is None:
        raise UserError(f"{name or 'params.yaml'} is no run on tags: choose from {', '.join(weak) or 'none'}.")
    return chosen


def list_seeds(params: Params, run: str, seed: int | None) -> list[int]:
    """The seeds of which a run has masks here, the named one first.

    Raises:
        UserError: there is none, or not the named one.
    """
    layout = Layout(params.dataset.name)
    found = [each for each in params.seeds if layout.of(run, each).threshold.is_file()]
    if not found or seed not in (None, *found):
        known = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"{run} has no masks of seed {'any' if seed is None else seed} here (of {known}): run it first."
        )
    return sorted(found, key=lambda each: each != seed) if seed is not None else found


@contextmanager
def open_masks(params: Params, run: Run, seed: int) -> Iterator[Masks]:
    """Yield all masks of a run and seed."""
    paths = Layout(params.dataset.name).of(run.name, seed)
    chosen = read_json(paths.threshold)
    folders = {kind: paths.masks_of(kind) for kind in get_args(MaskKind)} | {"segmentation": paths.predictions}
    with ExitStack() as stack:
        maps = [stack.enter_context(open_shard(paths.maps_of(shard, run.maps))) for shard in params.shards]
        yield Masks(folders, {choice: float(chosen[choice]) for choice in CHOICES}, maps, len(params.shards))
