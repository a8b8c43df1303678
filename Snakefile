# The pipeline, scheduled: one rule for each stage that DVC resolves from dvc.yaml, which alone names them.
#
#     snakemake --cores 2 --resources gpu=1
#
# DVC decides what must run and records what ran; Snakemake runs it, side by side where it can.
import sys
from pathlib import Path

from rca.core.errors import UserError
from rca.pipeline.plan import MARKER, load_plan, make_plan, name_rule, save_plan

try:
    # Jobs on other machines read what this process wrote down instead of asking DVC again.
    plan = make_plan(Path()) if workflow.is_main_process else load_plan(Path())
except UserError as error:
    sys.exit(str(error))


def mark(stage, path):
    """An output as Snakemake is to treat it; what has a type in dvc.yaml is in `snakemake --report`, with its caption."""
    output = directory(path) if path in stage.directories else path
    if path not in stage.shown:
        return output
    kind = stage.shown[path]
    return report(
        output,
        caption=f"workflow/captions/{kind}.rst",
        category=kind.replace("_", " ").capitalize(),
        labels={"file": Path(path).name, **stage.labels},
        htmlindex="index.html" if path in stage.directories else None,
    )


report: "workflow/captions/workflow.rst"


localrules:
    all,


rule all:
    input:
        [path for stage in plan.stages for path in stage.outputs],


for stage in plan.stages:

    rule:
        name:
            name_rule(stage.name)
        message:
            stage.name  # in place of all its files, which bury the progress
        input:
            # No age counts but that of the marker, which starts the changed stages, and of what they write anew.
            stage.inputs if stage.name in plan.affected else [ancient(path) for path in stage.inputs],
            [MARKER] if stage.name in plan.changed else [],
        output:
            [mark(stage, path) for path in stage.outputs],
        log:
            stage.log,
        threads: stage.threads
        resources:
            gpu=stage.gpu,
            mem_mb=stage.mem_mb,
            runtime=stage.runtime,
        params:
            python=sys.executable,
            stage=stage.name,
        shell:
            "{params.python:q} -m rca.pipeline.run_stage {params.stage:q} --gpus {resources.gpu}"


onstart:
    save_plan(Path(), plan)


# Importing DVC's side of the bridge here keeps it out of jobs on other machines.
onsuccess:
    from rca.pipeline.repository import sort_lock

    sort_lock(Path())


onerror:
    from rca.pipeline.repository import sort_lock

    sort_lock(Path())
