"""What a run has to do: DVC is asked once, and the answer is what the Snakefile's rules are made of."""

import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rca.core.errors import UserError
from rca.pipeline.resolve import Stage, build_stages

FOLDER = Path(".rca")
MARKER = FOLDER / "stale"  # an input, always fresh, of each stage that DVC calls changed
SAVED = FOLDER / "dag.json"


@dataclass(frozen=True)
class Plan:
    """The stages, and which of them are to run.

    Attributes:
        stages: All stages, each after those that it depends on.
        changed: Names of those that DVC calls changed.
        affected: Names of those and of all their descendants.
    """

    stages: tuple[Stage, ...]
    changed: frozenset[str]
    affected: frozenset[str]


def make_plan(root: Path) -> Plan:
    """Resolve dvc.yaml, ask DVC which stages changed, and put down the marker that makes Snakemake run them.

    Raises:
        UserError: If the pipeline is not valid or is running already.
    """
    # DVC takes a second to import: the jobs of Snakemake, which call `load_plan`, do without it.
    from rca.pipeline.repository import ask_status, open_repo

    declared, changed = ask_status(open_repo(root))
    stages = build_stages(root, declared)
    check_rule_names(stages)
    check_sources(root, stages)
    marker = root / MARKER
    marker.parent.mkdir(exist_ok=True)
    # Snakemake overlooks a newer file whose content it has seen before.
    marker.write_text(uuid.uuid4().hex)
    return Plan(stages, frozenset(changed), frozenset(find_affected(stages, changed)))


def find_affected(stages: Iterable[Stage], changed: Iterable[str]) -> set[str]:
    """Return the changed stages and all their descendants; `stages` must be in topological order."""
    affected = set(changed)
    for stage in stages:
        if affected.intersection(stage.upstream):
            affected.add(stage.name)
    return affected


def save_plan(root: Path, plan: Plan) -> None:
    """Write the plan where jobs on other machines find it."""
    content = {
        "stages": [asdict(stage) for stage in plan.stages],
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
        tuple(map(restore_stage, content["stages"])),
        frozenset(content["changed"]),
        frozenset(content["affected"]),
    )


def restore_stage(content: dict[str, Any]) -> Stage:
    """Make a stage of what JSON kept, which has no tuples."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
    return Stage(**values)


def name_rule(stage: str) -> str:
    """Return a legal name of a rule for a stage: `train_cam_rca_0` for `train_cam@rca-0`."""
    return re.sub(r"\W", "_", stage, flags=re.ASCII)


def check_sources(root: Path, stages: Iterable[Stage]) -> None:
    """Refuse a pipeline one of whose inputs no stage makes and nobody has put there."""
    stages = tuple(stages)
    made = {path for stage in stages for path in stage.outputs}
    for stage in stages:
        for path in stage.inputs:
            if path not in made and not (root / path).exists():
                reader = f"which stage {stage.name} reads"
                raise UserError(f"{path}, {reader}, does not exist: put it there, or link it with `rca preset`.")


def check_rule_names(stages: Iterable[Stage]) -> None:
    """Refuse two stages whose rules would have the same name."""
    seen = {"all": "all"}
    for stage in stages:
        rule = name_rule(stage.name)
        if rule in seen:
            raise UserError(
                f"Stages {seen[rule]} and {stage.name} in dvc.yaml would both be the rule {rule}: rename one."
            )
        seen[rule] = stage.name
