"""The plan of a run: DVC reports once what changed, and the Snakefile makes its rules from that."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rca.core.errors import UserError
from rca.pipeline.lockfile import check_lock, drop_empty_runs
from rca.pipeline.resolve import INSTANCES, Job, build_jobs
from rca.pipeline.seen import sign_files
from rca.pipeline.tasks import FOLDER, RWLOCK, list_records, write_tasks, write_whole

if TYPE_CHECKING:
    from rca.pipeline.dvc_project import DvcProject

MARKER = FOLDER / "stale"  # an input, always newer than the outputs, of each changed stage
SAVED = FOLDER / "dag.json"
# The stage that pins code and settings, and the command that updates its outputs and the list of instances.
PIN, REFRESH = "pin_stages", ("-m", "rca.params.pin", "--refresh")


@dataclass(frozen=True)
class Plan:
    """All jobs, and which of them must run.

    Attributes:
        jobs: All jobs in topological order.
        changed: The names of the jobs that DVC reports as changed.
        affected: The names of these jobs and of all their descendants.
    """

    jobs: tuple[Job, ...]
    changed: frozenset[str]
    affected: frozenset[str]


def make_plan(root: Path) -> Plan:
    """Resolve dvc.yaml, ask DVC which stages changed, and write the marker that makes Snakemake run them.

    DVC is asked only if a file changed since the last plan.

    Raises:
        UserError: The pipeline is invalid or already running.
    """
    plan = recall_plan(root) or ask_dvc(root)
    check_sources(root, plan.jobs)
    open_outputs(root, [job for job in plan.jobs if job.name in plan.affected])
    # The content must be new, since Snakemake ignores a newer file with known content.
    write_whole(root / MARKER, uuid.uuid4().hex)
    return plan


def recall_plan(root: Path) -> Plan | None:
    """The last plan, if no job has run and no file has changed since DVC was asked."""
    path, running = root / SAVED, root / RWLOCK
    if not path.exists() or list_records(root) or (running.exists() and running.read_text() != "{}"):
        return None
    content = json.loads(path.read_text())
    watched = content.get("watched")
    if watched is None or sign_files(root, watched, Path(content["cache"])) != content["signature"]:
        return None
    return restore_plan(content)


def ask_dvc(root: Path) -> Plan:
    """Ask DVC, and save its answer: the plan, and a task for each job."""
    # Imported late: DVC takes a second, and Snakemake's jobs, which call `load_plan`, do not need it.
    from rca.pipeline.dvc_project import DvcProject

    project = DvcProject(root)
    project.files.check_idle()
    check_lock(root)
    drop_empty_runs(project.cache.parents[1])
    project.merge_records(list_order(root))
    with project.lock():
        plan = None if project.is_changed(PIN) else save_answer(project)
    if plan is None:
        refresh_pins(root)
        project = DvcProject(root)  # opened again, since dvc.yaml may resolve to other stages now
        project.record(PIN)
        with project.lock():
            plan = save_answer(project)
    return plan


def refresh_pins(root: Path) -> None:
    """Pin code and settings before asking DVC what changed; with `dvc repro`, the first stage does it.

    Raises:
        UserError: params.yaml is not valid.
    """
    done = subprocess.run([sys.executable, *REFRESH], cwd=root, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: ") or f"{PIN} failed.")


def save_answer(project: "DvcProject") -> Plan:
    """Ask an open project, and save what it says."""
    files = project.list_watched()
    watched = None if files is None else [*files, INSTANCES.as_posix()]
    # Signed before DVC looks: what changes meanwhile has another signature.
    signature = sign_files(project.root, watched or (), project.cache)
    changed = project.list_changed()
    jobs = build_jobs(project.root, project.list_declared())
    check_rule_names(jobs)
    plan = Plan(jobs, frozenset(changed), frozenset(find_affected(jobs, changed)))
    write_tasks(project.root, project.list_tasks())
    content = {
        "jobs": [asdict(job) for job in jobs],
        "changed": sorted(plan.changed),
        "affected": sorted(plan.affected),
        "watched": watched,
        "cache": str(project.cache),
        "signature": signature,
    }
    write_whole(project.root / SAVED, json.dumps(content))
    return plan


def merge_pending(root: Path) -> None:
    """Check dvc.lock, and merge what the jobs of a killed Snakemake process recorded into it.

    Raises:
        UserError: dvc.lock is cut off or damaged.
    """
    check_lock(root)
    if list_records(root):
        from rca.pipeline.dvc_project import DvcProject

        DvcProject(root).merge_records(list_order(root))


def list_order(root: Path) -> list[str]:
    """The names of the last plan's jobs, in the order in which `dvc repro` would record them."""
    return [job.name for job in load_plan(root).jobs] if (root / SAVED).exists() else []


def find_affected(jobs: Iterable[Job], changed: Iterable[str]) -> set[str]:
    """The changed jobs and all their descendants; `jobs` must be in topological order."""
    affected = set(changed)
    for job in jobs:
        if affected.intersection(job.upstream):
            affected.add(job.name)
    return affected


def load_plan(root: Path) -> Plan:
    """Read the plan of the Snakemake process that started this job.

    Raises:
        UserError: There is no plan.
    """
    try:
        return restore_plan(json.loads((root / SAVED).read_text()))
    except FileNotFoundError as error:
        message = f"There is no {SAVED} in {root.resolve()}: a job needs the plan of its Snakemake process."
        raise UserError(message) from error


def restore_plan(content: dict[str, Any]) -> Plan:
    """Build a plan from its JSON."""
    jobs = tuple(map(restore_job, content["jobs"]))
    return Plan(jobs, frozenset(content["changed"]), frozenset(content["affected"]))


def restore_job(content: dict[str, Any]) -> Job:
    """Build a job from its JSON, which has lists for tuples."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
    return Job(**values)


def name_rule(stage: str) -> str:
    """Return a valid rule name for a stage: `train_cam_rca_0` for `train_cam@rca-0`."""
    return re.sub(r"\W", "_", stage, flags=re.ASCII)


def check_sources(root: Path, jobs: Iterable[Job]) -> None:
    """Raise a UserError if an input does not exist and no stage makes it."""
    jobs = tuple(jobs)
    made = {path for job in jobs for path in job.outputs}
    for job in jobs:
        for path in job.inputs:
            if path not in made and not (root / path).exists():
                reader = f"which stage {job.name} reads"
                raise UserError(f"{path}, {reader}, does not exist: put it there, or link it with `rca preset`.")


def open_outputs(root: Path, jobs: Iterable[Job]) -> None:
    """Make the outputs of jobs writable, which Snakemake asks for before DVC can replace them.

    DVC links outputs to read-only files of its cache if `cache.type` says so; these become copies.

    Raises:
        UserError: an output lies in a folder that cannot be written to.
    """
    for path in dict.fromkeys(root / path for job in jobs for path in job.outputs):
        folder = next(parent for parent in path.parents if parent.exists())
        if not os.access(folder, os.W_OK):
            raise UserError(f"{path} cannot be written, since {folder} is read-only: change its permissions.")
        if path.is_file() and not os.access(path, os.W_OK):
            part = path.with_name(f".{path.name}.part")
            shutil.copyfile(path, part)
            part.replace(path)


def check_rule_names(jobs: Iterable[Job]) -> None:
    """Raise a UserError if two jobs, or a job and another stage, would have the same rule name."""
    jobs = tuple(jobs)
    # A stage of several instances has a rule of its own name, which asks for them all.
    seen = {"all": "all"} | {job.name.partition("@")[0]: job.name for job in jobs if "@" in job.name}
    for job in jobs:
        rule = name_rule(job.name)
        if rule in seen:
            raise UserError(
                f"Stages {seen[rule]} and {job.name} in dvc.yaml would both have the rule name {rule}: rename one."
            )
        seen[rule] = job.name
