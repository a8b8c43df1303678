"""The declaration of a stage: its settings, the axes of its instances, and when it is needed.

A stage is a module of `rca/stages` that defines `STAGE`, and an entry in dvc.yaml. Nothing else names it.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, Literal

from rca.core.errors import UserError
from rca.core.settings import Plain, Settings, SettingsType
from rca.stages.base.context import Context
from rca.stages.base.names import list_stages as list_stages

Axis = Literal["item", "run", "seed", "shard"]


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[SettingsType]):
    """A stage of the pipeline.

    Attributes:
        task: All settings of an instance as one typed object: those of its section in params.yaml, and those that it
            shares with other sections.
        run: Does the work of one instance.
        section: The keys of the stage's section in params.yaml; None for a stage without one.
        shared: The fields of `task` that come from elsewhere, each with its dotted key: `train_cam.split`, `run.host`
            (of the instance's run) or `seeds`. `{item}` and `{run}` stand for the instance's item and run.
        axes: The axes along which instances differ, in the order of dvc.yaml.
        items: The items of a stage with the axis `item`.
        item: Further keys of an instance in dvc.yaml, from its task and the values of its axes, for a stage of runs
            whose files lie elsewhere than with its run.
        parts: The items of a stage of runs with the axis `item`, from its task and the seed.
        needed: Whether the task leaves anything to do; if not, the instance does not exist.
        cores: The field of `task` with the number of CPU cores that an instance uses; None for one core.
        overridable: Whether runs may override the section.
        resources: The section of `resources` in params.yaml to use if the stage has none.
    """

    task: type[SettingsType]
    run: Callable[[Context, SettingsType], None]
    section: type[Settings] | None = None
    shared: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    axes: tuple[Axis, ...] = ()
    items: tuple[str, ...] = ()
    item: Callable[[SettingsType, Plain], Plain] | None = None
    parts: Callable[[SettingsType, int], tuple[str, ...]] | None = None
    needed: Callable[[SettingsType], bool] = lambda task: True
    cores: str | None = None
    overridable: bool = True
    resources: str = "other"


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
