"""Pin the code and the settings of every stage: `python -m rca.params.pin`, the first stage of dvc.yaml.

Each stage depends on its own key of `runs/pins.json`, which holds a checksum of the modules that it imports and a
checksum of its settings, with defaults and the run's overrides filled in.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rca.core.errors import UserError, tell
from rca.core.files import write_json
from rca.core.imports import PACKAGE, Closures
from rca.core.settings import Plain, Settings, list_pinned
from rca.params.experiment import find_home, link_data
from rca.params.instances import write_instances
from rca.params.read import PARAMS, read_params
from rca.params.schema import Params, Run, load_stages
from rca.pipeline.resolve import INSTANCES
from rca.stages.base.pins import PINS

# It imports hosts and methods by name, so a stage that imports it depends on the host and the method of its run.
REGISTRY = PACKAGE / "classifier/registry.py"


def pin(path: Path = PARAMS) -> bool:
    """Write the pins, update the list of instances, and link the data of an experiment in a folder of its own.

    Returns:
        Whether that list was out of date, so that dvc.yaml has to be read again.

    Raises:
        UserError: the params are not valid.
    """
    params = read_params(path)
    home = find_home()
    if home is not None:
        link_data(params, home)
    write_json(PINS, collect_pins(params))
    return write_instances(params)


def collect_pins(params: Params) -> Plain:
    """The pins of all stages.

    Returns:
        For each stage the checksums `code` and `settings`, which DVC compares, below the names of its runs or items if
        it has such an axis. `tasks` holds the settings themselves, in the same form. `project` holds names, for
        messages and paths.
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
    """A checksum of all settings except those that do not change results."""
    return hashlib.sha256(json.dumps(list_pinned(settings), sort_keys=True).encode()).hexdigest()[:32]


def list_code(stage: str, run: Run | None, closures: Closures) -> list[Path]:
    """The files of the package that a stage imports, directly or not, with the host and method of its run."""
    modules = [PACKAGE / "stages/__main__.py", PACKAGE / f"stages/{stage}.py"]
    closure = closures.find(modules)
    if run is not None and REGISTRY in closure:
        modules += [PACKAGE / f"hosts/{run.host}.py", PACKAGE / f"methods/{run.method}.py"]
        closure = closures.find(modules)
    return closure


def name_remedy() -> str:
    """What to do after the list of instances changed while DVC ran: its copy of dvc.yaml is out of date."""
    if find_home() is None:
        return f"{INSTANCES} is updated, run this again"
    return f"edit it in the project itself, run `rca check`, then this without -S, which takes {INSTANCES} along"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pins; return exit code 2 if the params are invalid or if DVC has to read dvc.yaml again."""
    parser = argparse.ArgumentParser(prog="python -m rca.params.pin", description=__doc__.split("\n")[0])
    parser.add_argument("--refresh", action="store_true", help="the caller reads dvc.yaml after this")
    refresh = parser.parse_args(arguments).refresh
    try:
        if pin() and not refresh:
            raise UserError(f"{PARAMS} changes the instances of stages: {name_remedy()}.")
    except Exception as error:
        sentence = tell(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
