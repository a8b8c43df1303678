"""Resolve dvc.yaml to jobs with their files, resources and order."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rca.core.errors import UserError
from rca.pipeline.tasks import name_log

if TYPE_CHECKING:
    from rca.pipeline.dvc_project import Declared

# The instances and resources of each stage; `meta` in dvc.yaml takes precedence.
INSTANCES = Path("workflow/instances.yaml")
# Lower bounds of the integers in meta; those without a default are required.
SMALLEST = {"gpu": 0, "mem_mb": 1, "runtime": 1, "threads": 1}
DEFAULTS = {"gpu": 0, "threads": 1}


@dataclass(frozen=True)
class Job:
    """One instance of a stage of dvc.yaml; all paths are relative to the project's root.

    Attributes:
        name: DVC's name of the instance, such as `train_cam@rca-0`.
        command: The command that DVC runs.
        inputs: The files and folders that it reads; a folder that other stages fill is replaced by their outputs.
        outputs: The files and folders that it writes.
        directories: The outputs that are folders.
        gpu: Number of GPUs.
        mem_mb: Main memory in MB.
        runtime: Time limit in minutes.
        threads: CPU cores.
        log: The path of the command's log.
        upstream: The names of the jobs whose outputs it reads.
        shown: The outputs in Snakemake's report, each with its `type`.
        labels: The job's labels in the report, such as run and seed.
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


def resolve_jobs(root: Path) -> tuple[Job, ...]:
    """The jobs of dvc.yaml in topological order.

    Args:
        root: The folder of dvc.yaml.

    Raises:
        UserError: There is no pipeline, or a part of it is invalid.
    """
    # Imported late, since DVC takes a second.
    from rca.pipeline.dvc_project import DvcProject

    return build_jobs(root, DvcProject(root).list_declared())


def build_jobs(root: Path, declared: Iterable["Declared"]) -> tuple[Job, ...]:
    """Turn declared stages into jobs, in the same order."""
    declared = list(declared)
    owners = {out.path: stage.name for stage in declared for out in stage.outs}
    inside, reserved = list_inside(owners), read_resources(root / INSTANCES)
    return tuple(build_job(stage, owners, inside, reserved) for stage in declared)


def read_resources(path: Path) -> Mapping[str, Mapping[str, object]]:
    """Read the resources of each stage, by the stage's name; empty if there is no such file."""
    if not path.is_file():
        return {}
    stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return {name: {key: stage[key] for key in SMALLEST} for name, stage in stages.items()}


def build_job(
    stage: "Declared",
    owners: Mapping[str, str],
    inside: Mapping[str, list[str]],
    reserved: Mapping[str, Mapping[str, object]],
) -> Job:
    """Turn a declared stage into a job.

    Args:
        stage: The stage.
        owners: The name of the stage that writes each output of the pipeline.
        inside: The outputs that lie below each folder.
        reserved: The resources of each stage, by its name.
    """
    inputs: dict[str, None] = {}  # a set that keeps its order
    # Leave out parameter files that no stage writes: Snakemake would rerun on any change of params.yaml.
    for dep in (*stage.deps, *(path for path in stage.params if path in owners)):
        inputs.update(dict.fromkeys(expand_dep(dep, owners, inside)))
    outputs = tuple(out.path for out in stage.outs)
    if not outputs:
        raise UserError(f"Stage {stage.name} in dvc.yaml has no outs: declare what it writes.")
    return Job(
        name=stage.name,
        command=stage.command,
        inputs=tuple(inputs),
        outputs=outputs,
        directories=tuple(out.path for out in stage.outs if out.directory),
        log=name_log(stage.name),
        upstream=tuple(dict.fromkeys(owners[path] for path in inputs if path in owners)),
        shown={out.path: out.kind for out in stage.outs if out.kind},
        **read_meta(stage.name, stage.meta, reserved.get(stage.name.partition("@")[0], {})),
    )


def list_inside(outputs: Iterable[str]) -> dict[str, list[str]]:
    """The outputs below each folder, in the same order."""
    inside: dict[str, list[str]] = {}
    for output in outputs:
        for folder in list_folders(output):
            inside.setdefault(folder, []).append(output)
    return inside


def list_folders(path: str) -> list[str]:
    """The folders above a path, the innermost first."""
    return [folder.as_posix() for folder in Path(path).parents[:-1]]


def expand_dep(dep: str, owners: Collection[str], inside: Mapping[str, list[str]]) -> list[str]:
    """Return the outputs that a dep refers to: the dep or a folder above it, or else the outputs below it."""
    above = [path for path in (dep, *list_folders(dep)) if path in owners]
    return above or inside.get(dep) or [dep]


def read_meta(stage: str, meta: object, reserved: Mapping[str, object]) -> dict[str, Any]:
    """Check a stage's `meta` and return its values, with defaults filled in.

    Args:
        stage: The stage's name, for messages.
        meta: The value of `meta` in dvc.yaml.
        reserved: The stage's resources where `meta` gives none.

    Raises:
        UserError: A key is missing or unknown, or a value has the wrong type or is out of range.
    """
    checked = check_keys(stage, "meta", meta, {"resources", "threads", "labels"})
    resources = check_keys(stage, "meta.resources", checked.get("resources"), {"gpu", "mem_mb", "runtime"})
    given = {**reserved, **checked, **resources}
    paths = ("meta.resources.gpu", "meta.resources.mem_mb", "meta.resources.runtime", "meta.threads")
    values: dict[str, Any] = {path.rpartition(".")[2]: read_number(stage, path, given) for path in paths}
    labels = checked.get("labels") or {}
    if not isinstance(labels, Mapping) or not all(isinstance(value, str | int) for value in labels.values()):
        raise UserError(f"Stage {stage} in dvc.yaml: meta.labels must map names to strings or numbers.")
    return {**values, "labels": {key: str(value) for key, value in labels.items()}}


def check_keys(stage: str, where: str, value: object, known: set[str]) -> Mapping[str, object]:
    """Check that a value is a mapping with known keys only, and return it; None becomes an empty mapping."""
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise UserError(f"Stage {stage} in dvc.yaml: {where} must be a mapping, not {value!r}.")
    for key in value:
        if key not in known:
            allowed = ", ".join(sorted(known))
            raise UserError(f"Stage {stage} in dvc.yaml: {where}.{key} is unknown; the keys are {allowed}.")
    return value


def read_number(stage: str, where: str, values: Mapping[str, object]) -> int:
    """Return the whole number at the path `where` after checking its range."""
    key = where.rpartition(".")[2]
    value = values.get(key, DEFAULTS.get(key))
    if value is None:
        raise UserError(f"Stage {stage} in dvc.yaml: {where} is missing: give a whole number.")
    if not isinstance(value, int) or isinstance(value, bool) or value < SMALLEST[key]:
        least = f"a whole number of at least {SMALLEST[key]}"
        raise UserError(f"Stage {stage} in dvc.yaml: {where} must be {least}, not {value!r}.")
    return value


def find_undeclared(root: Path, folders: Iterable[str]) -> list[Path]:
    """List the files that no stage declares, such as those of runs that params.yaml no longer names.

    Args:
        root: The folder of dvc.yaml.
        folders: The folders to search, relative to the root, such as `runs`; files in declared folders are declared.

    Returns:
        Paths relative to the root, sorted, without `.gitignore` and `.gitkeep`.
    """
    # The file with a job's time and memory is beside its log.
    declared = {
        path for job in resolve_jobs(root) for path in (*job.outputs, job.log, str(Path(job.log).with_suffix(".json")))
    }
    paths = (path.relative_to(root) for folder in folders for path in (root / folder).rglob("*"))
    return sorted(
        path
        for path in paths
        if ((root / path).is_symlink() or not (root / path).is_dir())
        and path.name not in {".gitignore", ".gitkeep"}
        and not declared.intersection([path.as_posix(), *(parent.as_posix() for parent in path.parents)])
    )
