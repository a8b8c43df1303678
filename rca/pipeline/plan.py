"""The plan of a run: DVC reports once what changed, and the Snakefile makes its rules from that."""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rca.core.errors import UserError
from rca.pipeline.resolve import Job, build_jobs

if TYPE_CHECKING:
    from rca.pipeline.dvc_project import DvcProject

FOLDER = Path(".rca")
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

    Raises:
        UserError: The pipeline is invalid or already running.
    """
    # Imported late: DVC takes a second, and Snakemake's jobs, which call `load_plan`, do not need it.
    from rca.pipeline.dvc_project import DvcProject

    declared, changed = refresh_pins(DvcProject(root)).ask_status()
    jobs = build_jobs(root, declared)
    check_rule_names(jobs)
    check_sources(root, jobs)
    marker = root / MARKER
    marker.parent.mkdir(exist_ok=True)
    # The content must be new, since Snakemake ignores a newer file with known content.
    marker.write_text(uuid.uuid4().hex)
    return Plan(jobs, frozenset(changed), frozenset(find_affected(jobs, changed)))


def refresh_pins(project: "DvcProject") -> "DvcProject":
    """Pin code and settings before asking DVC what changed; with `dvc repro`, the first stage does it.

    Returns:
        The project, opened again if the pins changed, since dvc.yaml may then resolve to other stages.

    Raises:
        UserError: params.yaml is not valid.
    """
    project.check_idle()
    if not project.is_changed(PIN):
        return project
    done = subprocess.run([sys.executable, *REFRESH], cwd=project.root, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: ") or f"{PIN} failed.")
    reopened = type(project)(project.root)
    reopened.record(PIN)
    return reopened


def find_affected(jobs: Iterable[Job], changed: Iterable[str]) -> set[str]:
    """The changed jobs and all their descendants; `jobs` must be in topological order."""
    affected = set(changed)
    for job in jobs:
        if affected.intersection(job.upstream):
            affected.add(job.name)
    return affected


def save_plan(root: Path, plan: Plan) -> None:
    """Write the plan to a file that jobs on other machines read."""
    content = {
        "jobs": [asdict(job) for job in plan.jobs],
        "changed": sorted(plan.changed),
        "affected": sorted(plan.affected),
    }
    part = (root / SAVED).with_suffix(".part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(root / SAVED)


def load_plan(root: Path) -> Plan:
    """Read the plan of the Snakemake process that started this job.

    Raises:
        UserError: There is no plan.
    """
    try:
        content = json.loads((root / SAVED).read_text())
    except FileNotFoundError as error:
        message = f"There is no {SAVED} in {root.resolve()}: a job needs the plan of its Snakemake process."
        raise UserError(message) from error
    return Plan(
        tuple(map(restore_job, content["jobs"])),
        frozenset(content["changed"]),
        frozenset(content["affected"]),
    )


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


def check_rule_names(jobs: Iterable[Job]) -> None:
    """Raise a UserError if the rules of two jobs would have the same name."""
    seen = {"all": "all"}
    for job in jobs:
        rule = name_rule(job.name)
        if rule in seen:
            raise UserError(
                f"Stages {seen[rule]} and {job.name} in dvc.yaml would both have the rule name {rule}: rename one."
            )
        seen[rule] = job.name
