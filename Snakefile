# The pipeline's schedule: one rule for each stage instance that DVC resolves from dvc.yaml.
#
#     snakemake --cores 2 --resources gpu=1
#     snakemake --cores 2 --until make_cam   # a stage's name stands for all its instances
#
# DVC decides what must run and records what ran; Snakemake runs it, in parallel where possible.
import sys
from pathlib import Path

from rca.core.errors import end_with_sentence
from rca.pipeline.events import report_events
from rca.pipeline.plan import MARKER, load_plan, make_plan, merge_pending, name_rule
from rca.pipeline.running import hold_project
from rca.pipeline.targets import follow_command_line, group_jobs

if config:
    sys.exit(
        f"--config {next(iter(config))}: settings are in params.yaml: edit it, or write it with "
        "`rca preset NAME --set KEY=VALUE`."
    )

if workflow.is_main_process:
    report_events()

with end_with_sentence():
    if workflow.is_main_process:
        hold_project(Path(), workflow.snakemake_tmp_dir)
    # Jobs on other machines read the plan of this process instead of asking DVC again.
    plan, left_out = (
        follow_command_line(Path(), make_plan(Path()))
        if workflow.is_main_process
        else (load_plan(Path()), frozenset())
    )


def list_outputs(jobs):
    """The outputs of jobs, but for those that `--omit-from` leaves out."""
    return [path for job in jobs if job.name not in left_out for path in job.outputs]


def mark(job, path):
    """Mark an output for Snakemake: a folder, and in the report with its caption if it has a `type` in dvc.yaml."""
    output = directory(path) if path in job.directories else path
    if path not in job.shown:
        return output
    kind = job.shown[path]
    return report(
        output,
        caption=f"workflow/captions/{kind}.rst",
        category=kind.replace("_", " ").capitalize(),
        labels={"file": Path(path).name, **job.labels},
        htmlindex="index.html" if path in job.directories else None,
    )


report: "workflow/captions/workflow.rst"


localrules:
    all,


rule all:
    input:
        list_outputs(plan.jobs),


# `snakemake train_seg` or `--until train_seg`: all instances of the stage.
for stage, jobs in group_jobs(plan.jobs).items():

    rule:
        name:
            stage
        localrule: True
        input:
            list_outputs(jobs),


for job in plan.jobs:

    rule:
        name:
            name_rule(job.name)
        message:
            job.name  # instead of all its files, which would hide the progress
        input:
            # Only the marker, which starts the changed stages, and files that they write again may trigger a job.
            job.inputs if job.name in plan.affected else [ancient(path) for path in job.inputs],
            [MARKER] if job.name in plan.changed else [],
        output:
            [mark(job, path) for path in job.outputs],
        log:
            job.log,
        threads: job.threads
        resources:
            gpu=job.gpu,
            mem_mb=job.mem_mb,
            runtime=job.runtime,
        params:
            python=sys.executable,
            job=job.name,
        shell:
            "{params.python:q} -m rca.pipeline.run_job {params.job:q} --gpus {resources.gpu}"


# What the jobs recorded goes into dvc.lock. After a kill, the next start does this.
onsuccess:
    with end_with_sentence():
        merge_pending(Path())


onerror:
    with end_with_sentence():
        merge_pending(Path())
