"""How a stage is declared, beside its `run`: the settings it takes, the axes of its instances, when it is needed.

A stage is one module of `rca/stages` that defines `STAGE`, and one entry in dvc.yaml. Nothing else names it.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Literal

from rca.core.errors import UserError
from rca.core.settings import Settings, SettingsType
from rca.stages.base.context import Context

Axis = Literal["item", "run", "seed", "shard"]
STAGES = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[SettingsType]):
    """A stage of the pipeline.

    Attributes:
        task: All that an instance needs to know, as one typed object: the settings of its section in params.yaml,
            and what it shares with other sections.
        run: Does the work of one instance.
        section: What a user may write in params.yaml under the stage's name; None for a stage without a section.
        shared: The fields of `task` that come from elsewhere, each with its dotted key: `train_cam.split`, `run.host`
            (of the instance's run) or `seeds`. `{item}` stands for the instance's item.
        axes: What tells the instances apart, in the order of dvc.yaml.
        items: The instances of a stage with the axis `item`.
        needed: Whether a task leaves anything to do. Where it does not, there is no such instance.
        cores: The field of `task` that says how many processor cores an instance uses; None for one core.
        overridable: Whether runs may override the section.
        resources: The section of `resources` in params.yaml that counts where the stage has none of its own.
    """

    task: type[SettingsType]
    run: Callable[[Context, SettingsType], None]
    section: type[Settings] | None = None
    shared: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    axes: tuple[Axis, ...] = ()
    items: tuple[str, ...] = ()
    needed: Callable[[SettingsType], bool] = lambda task: True
    cores: str | None = None
    overridable: bool = True
    resources: str = "other"


def list_stages() -> tuple[str, ...]:
    """The names of all stages, sorted: each module of `rca/stages` is one."""
    return tuple(sorted(path.stem for path in STAGES.glob("*.py") if not path.stem.startswith("__")))


def load_stage(name: str) -> Stage[Settings]:
    """Import a stage.

    Raises:
        UserError: there is no such stage.
    """
    if name not in list_stages():
        raise UserError(f"There is no stage {name}: choose one of {', '.join(list_stages())}.")
    stage = importlib.import_module(f"rca.stages.{name}").STAGE
    if not isinstance(stage, Stage):
        raise TypeError(f"rca/stages/{name}.py must define STAGE as a Stage.")
    return stage
