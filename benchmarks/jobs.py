"""What the pipeline's machinery costs: a job, its wait for others, a plan with nothing to do, and a cluster.

    python benchmarks/jobs.py
    python benchmarks/jobs.py --jobs 76 300 934 3000 --cluster 0

It builds projects of one-line shell commands (one source, then `make` and `check` for each item, then `collect`),
writes their outputs and records them. A hand-written Snakefile of the same jobs, with four rules, is measured in turns
with ours. Times are processor seconds of a process and its children, except where they are called waiting.
"""

import argparse
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from report import Report, add_options

ROOT = Path(__file__).parents[1]
META = "{resources: {mem_mb: 100, runtime: 5}}"
DVC_YAML = f"""\
stages:
  source: {{cmd: echo 0 > runs/source.txt, params: [value], outs: [runs/source.txt], meta: {META}}}
  make:
    matrix: {{item: "${{items}}"}}
    cmd: SLEEP; echo ${{item.item}} > runs/made/${{item.item}}.txt
    deps: [runs/source.txt]
    outs: ["runs/made/${{item.item}}.txt"]
    meta: {META}
  check:
    matrix: {{item: "${{items}}"}}
    cmd: cp runs/made/${{item.item}}.txt runs/checked/${{item.item}}.txt
    deps: ["runs/made/${{item.item}}.txt"]
    outs: ["runs/checked/${{item.item}}.txt"]
    meta: {META}
  collect: {{cmd: cat runs/checked/*.txt > runs/all.txt, deps: [runs/checked], outs: [runs/all.txt], meta: {META}}}
"""
BY_HAND = """\
rule all:
    input: "runs/all.txt"
rule source:
    output: "runs/source.txt"
    shell: "echo 0 > {output}"
rule make:
    input: "runs/source.txt"
    output: "runs/made/{item}.txt"
    shell: "echo {wildcards.item} > {output}"
rule check:
    input: "runs/made/{item}.txt"
    output: "runs/checked/{item}.txt"
    shell: "cp {input} {output}"
rule collect:
    input: expand("runs/checked/{item}.txt", item=range(ITEMS))
    output: "runs/all.txt"
    shell: "cat {input} > {output}"
"""
PLAN = (sys.executable, "-c", "from pathlib import Path; from rca.pipeline.plan import make_plan; make_plan(Path())")
OURS = ("snakemake", "--cores", "1", "--dry-run", "--quiet", "all")
HAND = (*OURS, "--snakefile", "hand.smk", "--workflow-profile", "none", "--rerun-triggers", "mtime")


class Project:
    """A project of `jobs` jobs in a folder that does not exist yet."""

    def __init__(self, folder: Path, jobs: int, sleep: str = ":") -> None:
        self.folder, self.items = folder, (jobs - 2) // 2
        (folder / "runs/made").mkdir(parents=True)
        (folder / "runs/checked").mkdir()
        (folder / "dvc.yaml").write_text(DVC_YAML.replace("SLEEP", sleep))
        (folder / "params.yaml").write_text(f"value: 0\nitems: {list(range(self.items))}\n")
        (folder / "hand.smk").write_text(BY_HAND.replace("ITEMS", str(self.items)))
        (folder / ".gitignore").write_text("/runs/\n/logs/\n/.snakemake/\n/.rca/\n")
        shutil.copy(ROOT / "Snakefile", folder)
        shutil.copytree(ROOT / "profiles", folder / "profiles")
        shutil.copytree(ROOT / "workflow/captions", folder / "workflow/captions")
        bin_folder = Path(sys.executable).parent
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
        }
        for command in ("git init -q", "dvc init -q", "dvc config core.analytics false"):
            self.run(*command.split())

    def run(self, *command: str) -> float:
        """Run a command that succeeds, and return its processor seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def finish(self) -> None:
        """Put all outputs there as if every job had run, and record them."""
        for level in (["source.txt"], [f"made/{item}.txt" for item in range(self.items)]):
            for name in level:
                (self.folder / "runs" / name).write_text(f"{Path(name).stem if '/' in name else 0}\n")
            time.sleep(0.05)  # Snakemake compares times
        for item in range(self.items):
            shutil.copyfile(self.folder / f"runs/made/{item}.txt", self.folder / f"runs/checked/{item}.txt")
        time.sleep(0.05)
        names = sorted((self.folder / "runs/checked").iterdir())
        (self.folder / "runs/all.txt").write_text("".join(name.read_text() for name in names))
        self.run(sys.executable, "-c", RECORD)


# Records all outputs in one process, through the records of jobs: `dvc commit` takes quadratic time.
RECORD = """
from pathlib import Path
from dvc.stage.serialize import to_single_stage_lockfile
from rca.pipeline.dvc_project import DvcProject
from rca.pipeline.tasks import Record, write_record
project = DvcProject(Path())
with project.lock():
    stages = {stage.name: stage for stage in project._list_stages()}
    for task in project.list_tasks():
        stage = stages[task.name]
        stage.save()
        stage.commit()
        write_record(Path(), Record(task, to_single_stage_lockfile(stage)))
project.merge_records(stages)
"""


def plan_in_turns(project: Project, repeats: int) -> tuple[list[float], list[float]]:
    """Processor seconds of Snakemake with nothing to do: with our Snakefile, and with the one by hand."""
    pairs = [(project.run(*OURS), project.run(*HAND)) for _ in range(repeats)]
    return [ours for ours, _ in pairs], [hand for _, hand in pairs]


def show(values: Sequence[float]) -> str:
    """The median and the spread."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


def measure_jobs(project: Project, repeats: int) -> list[float]:
    """Processor seconds of jobs whose command runs."""
    (project.folder / "runs/source.txt").write_text("changed\n")  # each `make` has a changed dep
    project.run(*PLAN)
    names = [f"make@{item}" for item in range(repeats)]
    return [project.run(sys.executable, "-m", "rca.pipeline.run_job", name) for name in names]


def measure_wait(project: Project, running: int) -> list[float]:
    """Seconds on the clock that a job holds the one lock of all jobs, that of the list of files in use.

    Args:
        project: A project.
        running: Jobs that the list grows to, each with six files that it reads and one that it writes.
    """
    sys.path.insert(0, str(ROOT))
    from rca.pipeline.rwlock import FileList

    files, waits = FileList(project.folder), []
    with ExitStack() as held:
        for number in range(running):
            start = time.monotonic()
            reads = [f"/in/{number}/{name}" for name in range(6)]
            held.enter_context(files.hold(f"make@{number}", reads, [f"/out/{number}"]))
            waits.append(time.monotonic() - start)
    return waits


def find_slope(jobs: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of a straight line through logarithms."""
    return statistics.linear_regression([math.log(n) for n in jobs], [math.log(s) for s in seconds]).slope


def run_cluster(report: Report, folder: Path, jobs: int, slots: int) -> None:
    """Run jobs that sleep for a second in slots of this one machine, through Snakemake and the real job runner."""
    project = Project(folder, 2 * jobs + 2, sleep="sleep 1")
    project.run(*PLAN)
    targets = [f"runs/made/{item}.txt" for item in range(jobs)]
    start = time.monotonic()
    processor = project.run("snakemake", *targets, "--cores", str(slots), "--quiet", "all")
    wall, ideal = time.monotonic() - start, math.ceil(jobs / slots)
    floor = processor / len(os.sched_getaffinity(0))  # all slots share the processors of this machine
    what = f"{jobs:,} jobs of one second in {slots} slots: time on the clock over what slots and processors allow"
    report.figure(what, wall / max(ideal, floor), most=1.3)
    row = [f"{wall:.1f} s", f"{ideal} s", f"{processor:.0f} s", f"{floor:.0f} s"]
    header = ["took", "ideal on nodes of their own", "of the processor", "at least on these processors"]
    report.table(f"{jobs:,} jobs of one second in {slots} slots of this machine", header, [row])


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[76, 300, 934], help="sizes of the projects")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--cluster", type=int, default=64, help="jobs of the simulated cluster; 0 leaves it out")
    parser.add_argument("--slots", type=int, default=64, help="its slots")
    add_options(parser)
    args = parser.parse_args()
    report, rows = Report("The machinery of jobs", args), []
    with tempfile.TemporaryDirectory() as name:
        planned = []
        for jobs in args.jobs:
            project = Project(Path(name, str(jobs)), jobs)
            project.finish()
            first = project.run(*PLAN)
            ours, hand = plan_in_turns(project, args.repeats)
            planned.append(statistics.median(ours))
            of_jobs = measure_jobs(project, args.repeats)
            rows.append([f"{jobs:,}", show(ours), show(hand), f"{first:.2f} s", show(of_jobs)])
            report.ratio(f"nothing to do at {jobs:,} jobs, over a hand-written Snakefile", ours, hand, most=limit(jobs))
            report.figure(f"a job of {jobs:,}", statistics.median(of_jobs), of_jobs, unit=" s", most=0.6)
        if len(planned) > 1:
            report.figure("nothing to do: slope, log-log", find_slope(args.jobs, planned), most=1.05)
        waits = [1000 * seconds for seconds in measure_wait(project, 64)]
        report.figure("the lock of all jobs is held, with up to 64 jobs", max(waits), waits, unit=" ms", most=50)
        header = ["jobs", "nothing to do", "by hand", "DVC is asked", "a job"]
        report.table("Processor seconds: median, and least to most", header, rows)
        if args.cluster:
            run_cluster(report, Path(name, "cluster"), args.cluster, args.slots)
    report.finish()


def limit(jobs: int) -> float:
    """The most that nothing to do may cost, of a hand-written Snakefile's."""
    return 1.6 if jobs <= 76 else 3.0


if __name__ == "__main__":
    main()
