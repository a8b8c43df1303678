"""The list of each stage's instances and the place of the code, for dvc.yaml, since DVC cannot compute them.

`workflow/instances.yaml` depends only on params.yaml. `rca check`, `rca preset` and the Snakefile update it; the first
stage of `dvc repro` updates it too, and stops if it was out of date.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import yaml

from rca.core.files import write_text
from rca.core.imports import PACKAGE
from rca.core.settings import Plain, Settings
from rca.params.project import ResourceSettings
from rca.params.schema import Params, load_stages
from rca.pipeline.resolve import INSTANCES
from rca.stages.base.layout import CODE
from rca.stages.base.stage import Stage

HEADER = """\
# The instances of each stage and their resources. Made from params.yaml by `rca check`: do not edit.
"""


def list_instances(params: Params) -> dict[str, Plain]:
    """List the instances and the resources of each stage.

    Returns:
        For each stage, its `runs`, `items` or `shards` that leave anything to do, if it has such an axis, or each of
        its instances by name, if they have further keys, and `gpu`,
        `mem_mb`, `runtime` and `threads` of one instance.
    """
    return {name: describe(params, name, stage) for name, stage in load_stages().items()}


def describe(params: Params, name: str, stage: Stage[Settings]) -> Plain:
    """List the instances and the resources of a stage."""
    tasks = params.list_tasks(name, stage)
    lists: Plain = {}
    if stage.item is not None:
        lists["each"] = {
            "-".join(map(str, place.values())): {**place, "place": place, **stage.item(tasks[place["run"]], place)}
            for place in list_places(params, stage, tasks)
        }
    elif "run" in stage.axes or "item" in stage.axes:
        lists["runs" if "run" in stage.axes else "items"] = list(tasks)
    elif "shard" in stage.axes:
        lists["shards"] = list(params.shards) if tasks else []
    by_stage = params.project.resources
    resources = by_stage.get(name) or by_stage.get(stage.resources) or by_stage.get("other") or ResourceSettings()
    threads = getattr(next(iter(tasks.values())), stage.cores) if stage.cores and tasks else 1
    return {**lists, **resources.model_dump(), "threads": threads}


def list_places(params: Params, stage: Stage[Settings], tasks: Mapping[str | None, Settings]) -> Iterator[Plain]:
    """The values of the axes of each instance of a stage of runs."""
    for run, task in tasks.items():
        for seed in params.seeds:
            parts = [{}] if stage.parts is None else [{"item": part} for part in stage.parts(task, seed)]
            shards = [{"shard": shard} for shard in params.shards] if "shard" in stage.axes else [{}]
            yield from ({**part, "run": run, "seed": seed, **shard} for part in parts for shard in shards)


def link_code() -> str:
    """Name the package's code for dvc.yaml, relative to the project.

    The repository holds the code. Another project gets a link to where it is installed: the first stage, which depends
    on it, then sees an upgrade, and dvc.lock names no place of this machine.
    """
    if Path(PACKAGE.name).resolve() == PACKAGE.resolve():
        return PACKAGE.name
    if CODE.resolve() != PACKAGE.resolve():
        CODE.parent.mkdir(parents=True, exist_ok=True)
        new = CODE.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.symlink_to(PACKAGE.resolve(), target_is_directory=True)
        new.replace(CODE)
    return CODE.as_posix()


def write_instances(params: Params, path: Path = INSTANCES) -> bool:
    """Update the file.

    Returns:
        Whether it was out of date.
    """
    stages, code = list_instances(params), link_code()
    flow = partial(yaml.safe_dump, default_flow_style=True, width=10_000, sort_keys=False)
    lines = [f"  {name}: {flow(instances)}" for name, instances in stages.items()]
    text = f"{HEADER}code: {code}\nstages:\n{''.join(lines)}"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True
