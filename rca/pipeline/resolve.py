"""What dvc.yaml declares, resolved: stages with their files, resources and order."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rca.core.errors import UserError

# Lower bounds of the whole numbers in meta; those without a default must be given.
SMALLEST = {"gpu": 0, "mem_mb": 1, "runtime": 1, "threads": 1}
DEFAULTS = {"gpu": 0, "threads": 1}


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, all paths relative to the project's root.

    Attributes:
        name: DVC's name of the stage, such as `train_cam@rca-0`.
        command: What DVC runs.
        inputs: Files and folders that it reads; a folder that other stages fill is listed as their outputs.
        outputs: Files and folders that it writes.
        directories: Those of the outputs that are folders.
        gpu: Devices to lease.
        mem_mb: Main memory in MB.
        runtime: Limit in minutes.
        threads: Processor cores.
        log: Where its command writes its log.
        upstream: Names of the stages whose outputs it reads.
        shown: The `type` of those outputs that have one: Snakemake's report shows them.
        labels: What tells its instance apart there, such as run and seed.
    """

    name: str
    command: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    directories: tuple[str, ...]
    gpu: int
    mem_mb: int
    runtime: int
    threads: int
    log: str
    upstream: tuple[str, ...]
    shown: Mapping[str, str]
    labels: Mapping[str, str]


def resolve_stages(root: Path) -> tuple[Stage, ...]:
    """Return the stages of dvc.yaml, each after those that it depends on.

    Args:
        root: The folder of dvc.yaml.

    Raises:
        UserError: If there is no pipeline, or if a part of it is not valid.
    """
    # DVC takes a second to import: only those who ask for it pay.
    from rca.pipeline.repository import list_declared, open_repo

    return build_stages(root, list_declared(open_repo(root)))


def build_stages(root: Path, declared: Iterable[Any]) -> tuple[Stage, ...]:
    """Turn DVC's stage objects into `Stage`s, in the order given."""
    declared = list(declared)
    owners = {relate_path(root, out): stage.name for stage in declared for out in stage.outs}
    inside = list_inside(owners)
    return tuple(build_stage(root, stage, owners, inside) for stage in declared)


def build_stage(root: Path, stage: Any, owners: Mapping[str, str], inside: Mapping[str, list[str]]) -> Stage:
    """Turn one of DVC's stage objects into a `Stage`.

    Args:
        root: The folder of dvc.yaml.
        stage: DVC's stage.
        owners: The name of the stage that writes each output of the pipeline.
        inside: The outputs that lie below each folder.
    """
    inputs: dict[str, None] = {}  # a set that keeps its order
    for dep in stage.deps:
        # Parameters are DVC's business: Snakemake would see the whole of params.yaml.
        if dep.protocol == "local" and not hasattr(dep, "params"):
            inputs.update(dict.fromkeys(expand_dep(relate_path(root, dep), owners, inside)))
    outputs = tuple(relate_path(root, out) for out in stage.outs)
    if not outputs:
        raise UserError(f"Stage {stage.name} in dvc.yaml has no outs: nothing tells when it is done.")
    return Stage(
        name=stage.name,
        command=stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd),
        inputs=tuple(inputs),
        outputs=outputs,
        log=name_log(stage.name),
        upstream=tuple(dict.fromkeys(owners[path] for path in inputs if path in owners)),
        shown={path: out.annot.type for path, out in zip(outputs, stage.outs, strict=True) if out.annot.type},
        **read_meta(stage.name, stage.meta, outputs),
    )


def relate_path(root: Path, item: Any) -> str:
    """Return the path of one of DVC's deps or outs, relative to the project's root."""
    return Path(os.path.relpath(item.fs_path, root.resolve())).as_posix()


def list_inside(outputs: Iterable[str]) -> dict[str, list[str]]:
    """The outputs that lie below each folder, in the order given."""
    inside: dict[str, list[str]] = {}
    for output in outputs:
        for folder in list_folders(output):
            inside.setdefault(folder, []).append(output)
    return inside


def list_folders(path: str) -> list[str]:
    """The folders that a path lies in, the innermost first."""
    return [folder.as_posix() for folder in Path(path).parents[:-1]]


def expand_dep(dep: str, owners: Collection[str], inside: Mapping[str, list[str]]) -> list[str]:
    """Return the outputs that a dep stands for: itself, the folder it lies in, or those that fill it."""
    above = [path for path in (dep, *list_folders(dep)) if path in owners]
    return above or inside.get(dep) or [dep]


def name_log(stage: str) -> str:
    """Return the path of a stage's log; `@` is awkward in shells."""
    return f"logs/{stage.replace('@', '.')}.log"


def read_meta(stage: str, meta: Any, outputs: Iterable[str]) -> dict[str, Any]:
    """Check a stage's `meta` and return its values, with defaults filled in.

    Args:
        stage: The stage's name, for the message.
        meta: What dvc.yaml says.
        outputs: The stage's outputs, which `directories` must be among.

    Raises:
        UserError: If a key is missing or unknown, or if a value has the wrong type or is out of range.
    """
    meta = check_keys(stage, "meta", meta, {"resources", "threads", "directories", "labels"})
    resources = check_keys(stage, "meta.resources", meta.get("resources"), {"gpu", "mem_mb", "runtime"})
    values: dict[str, Any] = {
        "gpu": read_number(stage, "meta.resources.gpu", resources),
        "mem_mb": read_number(stage, "meta.resources.mem_mb", resources),
        "runtime": read_number(stage, "meta.resources.runtime", resources),
        "threads": read_number(stage, "meta.threads", meta),
    }
    directories = meta.get("directories") or []
    if not isinstance(directories, list) or not all(isinstance(path, str) for path in directories):
        raise UserError(f"Stage {stage} in dvc.yaml: meta.directories must be a list of paths.")
    for path in directories:
        if path not in outputs:
            raise UserError(f"Stage {stage} in dvc.yaml: meta.directories names {path}, which is none of its outs.")
    labels = meta.get("labels") or {}
    if not isinstance(labels, Mapping) or not all(isinstance(value, str | int) for value in labels.values()):
        raise UserError(f"Stage {stage} in dvc.yaml: meta.labels must map names to strings or numbers.")
    return {**values, "directories": tuple(directories), "labels": {key: str(one) for key, one in labels.items()}}


def check_keys(stage: str, where: str, value: Any, known: set[str]) -> Mapping[str, Any]:
    """Return a mapping after checking that it is one and has known keys only."""
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise UserError(f"Stage {stage} in dvc.yaml: {where} must be a mapping, not {value!r}.")
    for key in value:
        if key not in known:
            allowed = ", ".join(sorted(known))
            raise UserError(f"Stage {stage} in dvc.yaml: {where}.{key} is unknown; the keys are {allowed}.")
    return value


def read_number(stage: str, where: str, values: Mapping[str, Any]) -> int:
    """Return the whole number at the path `where` after checking its range."""
    key = where.rpartition(".")[2]
    value = values.get(key, DEFAULTS.get(key))
    if value is None:
        raise UserError(f"Stage {stage} in dvc.yaml: {where} is missing; give a whole number.")
    if not isinstance(value, int) or isinstance(value, bool) or value < SMALLEST[key]:
        least = f"a whole number of at least {SMALLEST[key]}"
        raise UserError(f"Stage {stage} in dvc.yaml: {where} must be {least}, not {value!r}.")
    return value


def find_undeclared(root: Path, folders: Iterable[str]) -> list[Path]:
    """List the files that no stage declares: leftovers of runs that params.yaml no longer names.

    Args:
        root: The folder of dvc.yaml.
        folders: Where to look, relative to the root, such as `runs`; all in a declared folder is declared.

    Returns:
        Paths relative to the root, sorted. Git's and DVC's own small files (`.gitignore`) are no leftovers.
    """
    stages = resolve_stages(root)
    # What a stage took stands beside its log.
    declared = {path for one in stages for path in (*one.outputs, one.log, str(Path(one.log).with_suffix(".json")))}
    found = (path.relative_to(root) for folder in folders for path in (root / folder).rglob("*"))
    return sorted(
        path
        for path in found
        if ((root / path).is_symlink() or not (root / path).is_dir())
        and path.name not in {".gitignore", ".gitkeep"}
        and not declared.intersection([path.as_posix(), *(parent.as_posix() for parent in path.parents)])
    )
