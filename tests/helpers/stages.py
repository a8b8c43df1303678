"""Running stages in the current folder by what its params.yaml says, as `rca STAGE` does."""

from pathlib import Path
from typing import Any

import yaml

from rca.core.settings import load_params
from rca.params.pin import pin
from rca.stages.__main__ import run_instance
from rca.stages.base.context import Context
from rca.stages.base.layout import Layout, RunLayout
from rca.stages.base.pins import Instance, read_pins

ROOT = Path(__file__).parents[2]
# The stages before a training of the embedded dataset, of which no image is a run's alone.
PREPARE = (
    Instance("generate_data", item="shapes"),
    Instance("prepare_data"),
    Instance("pin_images"),
    Instance("fetch_weights", item="classifier"),
)


def read_preset(name: str = "shapes") -> dict[str, Any]:
    """The plain data of a preset, of which no part shares another's mapping."""
    return yaml.safe_load(yaml.safe_dump(load_params(ROOT / f"workflow/presets/{name}.yaml")))


def shrink_preset(train: int, val: int, **optimisation: Any) -> dict[str, Any]:
    """The embedded preset with so few images, of 48x48 pixels, and trainings of one process that take a second.

    Args:
        train: Images for training.
        val: Images held out.
        optimisation: What changes in both trainings' section of this name.
    """
    params = read_preset()
    params["generate_data"] = {"train": train, "val": val, "size": 48, "seed": 0, "objects": [1, 2]}
    params["prepare_data"]["workers"] = 1
    for section in ("train_cam", "train_seg"):
        params[section]["optimisation"].update(optimisation)
        params[section]["augmentation"]["crop"] = 48
    return params


def write_params(params: dict[str, Any]) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params))


def run_stage(stage: str, **place: Any) -> int:
    """Pin what params.yaml says now, run one instance of a stage, and return its exit code."""
    pin()
    return run_instance(Instance(stage, **place), read_pins())


def run_stages(*instances: Instance) -> None:
    """Pin what params.yaml says now, and run some instances, none of which may fail."""
    pin()
    pins = read_pins()
    for instance in instances:
        assert run_instance(instance, pins) == 0, instance


def prepare(stage: str, **place: Any) -> tuple[Context, Any]:
    """The context and the task of an instance, by what params.yaml says now."""
    pin()
    _, context, task = read_pins().prepare(Instance(stage, **place))
    return context, task


def locate(run: str, seed: int = 0, dataset: str = "shapes") -> RunLayout:
    """The paths of a run and seed."""
    return Layout(dataset).of(run, seed)
