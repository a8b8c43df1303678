"""Pin the code and the settings of every stage: `python -m rca.params.pin`, the first stage of dvc.yaml.

Each stage depends on its own key of `runs/pins.json`: a checksum of the modules that it imports, and one of its
settings, with defaults and the run's overrides filled in.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rca.core.errors import UserError
from rca.core.files import write_json
from rca.core.imports import PACKAGE, Closures
from rca.core.settings import Plain, Settings, list_pinned
from rca.params.instances import INSTANCES, write_instances
from rca.params.read import PARAMS, read_params
from rca.params.schema import Params, Run, load_stages
from rca.stages.base.pins import PINS

# It imports hosts and methods by their names in params.yaml: a stage that imports it depends on those of its run.
REGISTRY = PACKAGE / "classifier/registry.py"


def pin(path: Path = PARAMS) -> bool:
    """Write the pins, and bring the list of instances up to date.

    Returns:
        Whether that list was out of date: then dvc.yaml says something else now.

    Raises:
        UserError: the params are not valid.
    """
    params = read_params(path)
    write_json(PINS, collect_pins(params))
    return write_instances(params)


def collect_pins(params: Params) -> Plain:
    """The pins of all stages.

    Returns:
        For each stage the checksums `code` and `settings`, below the names of its runs or items where it has them; DVC
        compares these. `tasks` holds all settings themselves, in the same form. `project` holds names, for messages and
        paths.
    """
    closures = Closures()
    pins: Plain = {}
    tasks: Plain = {}
    for name, stage in load_stages().items():
        pins[name], tasks[name] = {}, {}
        for key, task in params.list_tasks(name, stage).items():
            run = params.described[str(key)] if "run" in stage.axes else None
            code = closures.hash(list_code(name, run, closures))
            pin = {"code": code, "settings": hash_settings(task)}
            if key is None:
                pins[name], tasks[name] = pin, task.model_dump(mode="json")
            else:
                pins[name][key], tasks[name][key] = pin, task.model_dump(mode="json")
    project = {
        "dataset": params.dataset.name,
        "runs": list(params.runs),
        "seeds": list(params.seeds),
        "shards": len(params.shards),
    }
    return {**pins, "tasks": tasks, "project": project}


def hash_settings(settings: Settings) -> str:
    """A checksum of all settings but those that change no result."""
    return hashlib.sha256(json.dumps(list_pinned(settings), sort_keys=True).encode()).hexdigest()[:32]


def list_code(stage: str, run: Run | None, closures: Closures) -> list[Path]:
    """The files of the package that a stage runs, for a run where it has one: its import closure."""
    modules = [PACKAGE / "stages/__main__.py", PACKAGE / f"stages/{stage}.py"]
    closure = closures.find(modules)
    if run is not None and REGISTRY in closure:
        modules += [PACKAGE / f"hosts/{run.host}.py", PACKAGE / f"methods/{run.method}.py"]
        closure = closures.find(modules)
    return closure


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pins; exit code 2 where params are not valid, or where DVC has to read dvc.yaml again."""
    parser = argparse.ArgumentParser(prog="python -m rca.params.pin", description=__doc__.split("\n")[0])
    parser.add_argument("--refresh", action="store_true", help="the caller reads dvc.yaml after this")
    refresh = parser.parse_args(arguments).refresh
    try:
        if pin() and not refresh:
            raise UserError(f"{PARAMS} asks for other stages than before: {INSTANCES} has them now, run this again.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
