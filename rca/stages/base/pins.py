"""The pins of all stages: checksums of code and settings for each stage and run, written by the first stage.

Instead of params.yaml and the code, a stage depends on its key in `runs/pins.json`. DVC compares the checksums there,
so an edit reruns only the stages that it affects.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rca.core.errors import UserError
from rca.core.files import read_json
from rca.core.settings import Plain, Settings, build_settings
from rca.stages.base.context import Context
from rca.stages.base.layout import CODE
from rca.stages.base.names import STAGES
from rca.stages.base.stage import Stage, load_stage

PINS = Path("runs/pins.json")


@dataclass(frozen=True)
class Instance:
    """The values that name an instance of a stage.

    Attributes:
        stage: The stage's name.
        item: The dataset or network; None for a stage without the axis `item`.
        run: One of the runs of params.yaml; None for a stage without this axis.
        seed: The run's random seed; None for a stage without this axis.
        shard: The part of the images, counted from 0; None for a stage without this axis.
    """

    stage: str
    item: str | None = None
    run: str | None = None
    seed: int | None = None
    shard: int | None = None


class Pins:
    """The pins of all stages.

    Args:
        data: The content of the file that `rca.params.pin` wrote.
    """

    def __init__(self, data: Plain) -> None:
        self.data = data

    @cached_property
    def dataset(self) -> str:
        """The dataset's name."""
        return str(self.data["project"]["dataset"])

    def prepare(self, instance: Instance) -> tuple[Stage[Settings], Context, Settings]:
        """Collect everything that an instance needs to run.

        Returns:
            The stage, the instance's context, and its task: an object of `Stage.task`.

        Raises:
            UserError: there is no such instance, or the pins do not fit the present code.
        """
        stage = load_stage(instance.stage)
        self._check(stage, instance)
        key = instance.run or instance.item
        pin, data = self.data[instance.stage], self.data["tasks"][instance.stage]
        if key is not None:
            pin, data = pin[key], data[key]
        task = build_settings(stage.task, data, instance.stage, PINS)
        axes = {axis: getattr(instance, axis) for axis in stage.axes}
        context = Context(stage=instance.stage, dataset=self.dataset, **pin, **axes)
        return stage, context, task

    def _check(self, stage: Stage[Settings], instance: Instance) -> None:
        """Raise a UserError if the stage has no such instance."""
        project, name, pinned = self.data["project"], instance.stage, self.data.get(instance.stage)
        if not pinned:
            raise UserError(f"{name} has nothing to do with these params: change them, or run another stage.")
        keys = list(pinned)
        known = {"item": keys, "run": keys, "seed": project["seeds"], "shard": list(range(project["shards"]))}
        for axis, choices in known.items():
            value = getattr(instance, axis)
            if axis not in stage.axes:
                if value is not None:
                    raise UserError(f"{name} has no {axis}: leave it out.")
            elif axis == "item" and stage.parts is not None:
                continue  # the parts of a run's instance differ from run to run: the stage knows them
            elif value not in choices:
                problem = f"works on one {axis}" if value is None else f"has no {axis} {value}"
                raise UserError(f"{name} {problem}: name one of {', '.join(map(str, choices))}.")


def read_pins(path: Path = PINS) -> Pins:
    """Read the pins.

    Raises:
        UserError: they are missing or corrupt, or of the code of another installation.
    """
    if CODE.is_symlink() and CODE.resolve() != STAGES.parent.resolve():
        raise UserError(f"{CODE} leads to another rca than this one, {STAGES.parent}: run `rca check`, which mends it.")
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the first stage, `dvc repro pin_stages`.")
    data = read_json(path)
    if not isinstance(data, dict) or not {"project", "tasks"} <= data.keys():
        raise UserError(f"{path} is not what pin_stages writes: delete it and run `dvc repro pin_stages`.")
    return Pins(data)
