"""The members of an ensemble: the runs and seeds whose score maps it averages."""

from collections.abc import Iterable

from rca.core.settings import Settings
from rca.stages.base.layout import MapKind


class Member(Settings):
    """A run whose score maps are averaged.

    Attributes:
        run: The run.
        seed: Its seed; None for that of the ensemble.
        maps: Its maps: "walked" after a random walk.
    """

    run: str
    seed: int | None
    maps: MapKind


class EnsembleTask(Settings):
    """All settings of a stage that works on an ensemble.

    Attributes:
        members: The members of the ensemble; none if the run is no ensemble.
    """

    members: tuple[Member, ...]


def name_members(members: Iterable[Member], seed: int) -> dict[str, Member]:
    """The members of an ensemble with a seed, each with its own seed filled in, by name."""
    filled = [one.model_copy(update={"seed": seed}) if one.seed is None else one for one in members]
    return {f"{one.run}-{one.seed}": one for one in filled}
