"""What a run has to do: DVC is asked once, and the answer is what the Snakefile's rules are made of."""

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
MARKER = FOLDER / "stale"  # an input, always fresh, of each stage that DVC calls changed
SAVED = FOLDER / "dag.json"
# The stage that pins what others depend on, and what brings its outputs and the list of instances up to date.
PIN, REFRESH = "pin_stages", ("-m", "rca.params.pin", "--refresh")


@dataclass(frozen=True)
class Plan:
    """The jobs, and which of them are to run.

    Attributes:
        jobs: All jobs, each after those that it depends on.
        changed: Names of those that DVC calls changed.
        affected: Names of those and of all their descendants.
    """

    jobs: tuple[Job, ...]
    changed: frozenset[str]
    affected: frozenset[str]


def make_plan(root: Path) -> Plan:
    """Resolve dvc.yaml, ask DVC which stages changed, and put down the marker that makes Snakemake run them.

    Raises:
        UserError: The pipeline is not valid or is running already.
    """
    # DVC takes a second to import: the jobs of Snakemake, which call `load_plan`, do without it.
    from rca.pipeline.dvc_project import DvcProject

    declared, changed = refresh_pins(DvcProject(root)).ask_status()
    jobs = build_jobs(root, declared)
    check_rule_names(jobs)
    check_sources(root, jobs)
    marker = root / MARKER
    marker.parent.mkdir(exist_ok=True)
    # Snakemake overlooks a newer file whose content it has seen before.
    marker.write_text(uuid.uuid4().hex)
    return Plan(jobs, frozenset(changed), frozenset(find_affected(jobs, changed)))


def refresh_pins(project: "DvcProject") -> "DvcProject":
    """Pin code and settings before DVC is asked what changed, as `dvc repro` does with its first stage.

    Returns:
        The project, opened again where dvc.yaml may say something else now.

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
    """Write the plan where jobs on other machines find it."""
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
        UserError: If there is none.
    """
    try:
        content = json.loads((root / SAVED).read_text())
    except FileNotFoundError as error:
        message = f"There is no {SAVED} in {root.resolve()}: a job needs the plan of the snakemake that sent it."
        raise UserError(message) from error
    return Plan(
        tuple(map(restore_job, content["jobs"])),
        frozenset(content["changed"]),
        frozenset(content["affected"]),
    )


def restore_job(content: dict[str, Any]) -> Job:
    """Make a job of what JSON kept, which has no tuples."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
    return Job(**values)


def name_rule(stage: str) -> str:
    """Return a legal name of a rule for a stage: `train_cam_rca_0` for `train_cam@rca-0`."""
    return re.sub(r"\W", "_", stage, flags=re.ASCII)


def check_sources(root: Path, jobs: Iterable[Job]) -> None:
    """Refuse a pipeline one of whose inputs no stage makes and nobody has put there."""
    jobs = tuple(jobs)
    made = {path for job in jobs for path in job.outputs}
    for job in jobs:
        for path in job.inputs:
            if path not in made and not (root / path).exists():
                reader = f"which stage {job.name} reads"
                raise UserError(f"{path}, {reader}, does not exist: put it there, or link it with `rca preset`.")


def check_rule_names(jobs: Iterable[Job]) -> None:
    """Refuse two jobs whose rules would have the same name."""
    seen = {"all": "all"}
    for job in jobs:
        rule = name_rule(job.name)
        if rule in seen:
            raise UserError(
                f"Stages {seen[rule]} and {job.name} in dvc.yaml would both be the rule {rule}: rename one."
            )
        seen[rule] = job.name
