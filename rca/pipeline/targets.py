"""Names of stages on Snakemake's command line: `snakemake train_seg`, `--until train_seg`, `-R make_cam`.

Snakemake knows rules, one for each instance of a stage. The Snakefile adds one for each stage that has several, which
asks for all its instances. That is enough for targets, but not for what Snakemake forces or leaves out.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from rca.core.errors import UserError
from rca.pipeline.plan import Plan, find_affected, name_rule
from rca.pipeline.resolve import INSTANCES, Job
from rca.pipeline.tasks import FORCED, write_whole


def group_jobs(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """The instances of each stage that is no rule itself, by its name."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        stage, several, _ = job.name.partition("@")
        if several:
            groups.setdefault(stage, []).append(job)
    return groups


def follow_command_line(root: Path, plan: Plan) -> tuple[Plan, frozenset[str]]:
    """Do what the options of this Snakemake process ask for with names of stages.

    Args:
        root: The project's root, where the forced jobs are noted for their processes.
        plan: What DVC says.

    Returns:
        The plan in which the forced jobs have changed, and the names of the jobs that are left out.

    Raises:
        UserError: A stage that has no instances is named.
    """
    from snakemake.cli import get_argument_parser  # imported late: only Snakemake's main process has it at hand

    options, _ = get_argument_parser().parse_known_args()
    asked = {*options.targets, *options.until, *options.forcerun, *options.omit_from}
    check_words(asked, plan.jobs, root / INSTANCES)
    forced = find_named({*options.forcerun, *(options.targets if options.force else ())}, plan.jobs)
    noted = [job.name for job in plan.jobs] if options.forceall else sorted(forced)
    write_whole(root / FORCED, json.dumps(noted))
    changed = plan.changed | forced
    left_out = find_affected(plan.jobs, find_named(options.omit_from, plan.jobs))
    return replace(plan, changed=changed, affected=frozenset(find_affected(plan.jobs, changed))), frozenset(left_out)


def find_named(words: Collection[str], jobs: Iterable[Job]) -> frozenset[str]:
    """The names of the jobs of which a word names the stage, the rule or a file."""
    named = ((job.name, {job.name.partition("@")[0], name_rule(job.name), *job.outputs}) for job in jobs)
    return frozenset(name for name, names in named if not names.isdisjoint(words))


def check_words(words: Iterable[str], jobs: Iterable[Job], instances: Path) -> None:
    """Check that no word names a stage without instances; unknown names are left to Snakemake.

    Raises:
        UserError: One does.
    """
    known = {job.name.partition("@")[0] for job in jobs}
    stages = instances.read_text(encoding="utf-8") if instances.exists() else ""
    for word in words:
        if word not in known and word.isidentifier() and f"\n  {word}: " in stages:
            raise UserError(f"The stage {word} has nothing to do: params.yaml switches it off, or no run needs it.")
