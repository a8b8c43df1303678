"""The instances that each stage has, for dvc.yaml to read: DVC cannot compute them from params.yaml.

`workflow/instances.yaml` follows from params.yaml alone. `rca check`, `rca preset` and the Snakefile bring it up to
date, and the first stage of `dvc repro` stops where it is not.
"""

from functools import partial
from pathlib import Path

import yaml

from rca.core.files import write_text
from rca.core.settings import Plain, Settings
from rca.params.project import ResourceSettings
from rca.params.schema import Params, load_stages
from rca.stages.base.stage import Stage

INSTANCES = Path("workflow/instances.yaml")
HEADER = """\
# The instances of each stage and what one asks an engine for. Made from params.yaml by `rca check`: do not edit.
"""


def list_instances(params: Params) -> dict[str, Plain]:
    """What dvc.yaml and the engines need to know of each stage.

    Returns:
        For each stage `runs`, `items` or `shards`, where it has the axis: those that leave anything to do. And `gpu`,
        `mem_mb`, `runtime` and `threads` of one instance.
    """
    return {name: describe(params, name, stage) for name, stage in load_stages().items()}


def describe(params: Params, name: str, stage: Stage[Settings]) -> Plain:
    """What dvc.yaml and the engines need to know of a stage."""
    tasks = params.list_tasks(name, stage)
    lists: dict[str, list[object]] = {}
    if "run" in stage.axes or "item" in stage.axes:
        lists["runs" if "run" in stage.axes else "items"] = list(tasks)
    elif "shard" in stage.axes:
        lists["shards"] = list(params.shards) if tasks else []
    asked = params.project.resources
    resources = asked.get(name) or asked.get(stage.resources) or asked.get("other") or ResourceSettings()
    threads = getattr(next(iter(tasks.values())), stage.cores) if stage.cores and tasks else 1
    return {**lists, **resources.model_dump(), "threads": threads}


def write_instances(params: Params, path: Path = INSTANCES) -> bool:
    """Bring the file up to date.

    Returns:
        Whether it was not.
    """
    stages = list_instances(params)
    flow = partial(yaml.safe_dump, default_flow_style=True, width=10_000, sort_keys=False)
    lines = [f"  {name}: {flow(found)}" for name, found in stages.items()]
    text = f"{HEADER}stages:\n{''.join(lines)}"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True
