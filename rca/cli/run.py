"""`rca run`: check the project, run Snakemake, and show what it does, in one command with one view."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rca.cli.jobs import TIMES, Jobs, format_time, read_times
from rca.cli.view import choose_view
from rca.core.errors import UserError
from rca.pipeline.events import VARIABLE
from rca.pipeline.plan import MARKER, load_plan
from rca.stages.base.layout import LOGS

EVENTS = Path(".rca/events")
CHECK_LOG, ENGINE_LOG = LOGS / "check.log", LOGS / "snakemake.log"
PAUSE = 0.25  # seconds between two looks at the events
TAIL = 12  # lines of the engine's log where no job failed


def run_pipeline(cores: int | None, gpus: int | None, verbose: bool, check: bool, engine: Sequence[str]) -> None:
    """Run the pipeline of the current folder.

    Args:
        cores: Cores to use; None uses all that this process may.
        gpus: GPUs to use; None uses all. With 0, and on a machine without one, jobs share the cores alone.
        verbose: Show the engine's own output instead.
        check: Check params, data and machine first.
        engine: Further arguments of Snakemake.

    Raises:
        UserError: the check finds errors, or a stage fails.
    """
    if not Path("params.yaml").is_file():
        raise UserError("There is no params.yaml here: go to a project, or make one with `rca init DIR`.")
    from rca.pipeline.gpus import VISIBLE, list_devices

    LOGS.mkdir(exist_ok=True)
    if gpus == 0:
        os.environ[VISIBLE] = ""  # the check and the jobs inherit it
    if check:
        check_first(verbose)
    cores = cores or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    gpus = gpus or len(list_devices(os.environ)) or cores
    # Cores last: --resources takes all words up to the next option, and `engine` may begin with a target.
    command = [sys.executable, "-m", "snakemake", "--resources", f"gpu={gpus}", "--cores", str(cores), *engine]
    if verbose:
        code = subprocess.run(command).returncode
        if code:
            raise UserError(f"Snakemake ended with code {code}.")
        return
    EVENTS.parent.mkdir(exist_ok=True)
    EVENTS.unlink(missing_ok=True)
    begun = time.time()
    with ENGINE_LOG.open("w", encoding="utf-8") as log, start(command, log.fileno()) as process:
        follow(process, cores, gpus, begun)
    if process.returncode:
        lines = ENGINE_LOG.read_text(encoding="utf-8", errors="replace").splitlines()
        if not EVENTS.exists():
            print(*lines[-TAIL:], sep="\n", file=sys.stderr)
        raise UserError(f"The run stopped; its log is {ENGINE_LOG}. `rca run` goes on where it stopped.")


def check_first(verbose: bool) -> None:
    """Run `rca check` in a process of its own, since what it imports is of no use afterwards.

    Raises:
        UserError: it finds errors.
    """
    done = subprocess.run([sys.executable, "-m", "rca", "check"], capture_output=not verbose, text=True)
    if verbose:
        text = ""
    else:
        text = done.stdout + done.stderr
        CHECK_LOG.write_text(text, encoding="utf-8")
    if done.returncode:
        print(done.stdout or "", end="")
        last = (done.stderr or "").strip().splitlines()
        raise UserError(last[-1].removeprefix("error: ") if last else "The check failed.")
    if not verbose:
        for line in text.splitlines():
            if line.startswith("warning: "):
                print(line)
        print(f"Checked: params, data and machine ({CHECK_LOG}).", flush=True)


@contextmanager
def start(command: Sequence[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start Snakemake, pass one signal on to it and its jobs, and wait for its end."""
    environment = {**os.environ, VARIABLE: str(EVENTS)}
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
    )

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield process
    except KeyboardInterrupt:
        # Not the interrupt itself, which whoever is started in the background ignores.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise UserError("Stopped. `rca run` goes on where it stopped.") from None
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    finally:
        process.wait()
        signal.signal(signal.SIGTERM, before)


def follow(process: subprocess.Popen[bytes], cores: int, gpus: int, begun: float) -> None:
    """Show what Snakemake does until it ends."""
    while process.poll() is None and not (MARKER.exists() and MARKER.stat().st_mtime >= begun):
        time.sleep(PAUSE)  # it makes its plan
    if not (MARKER.exists() and MARKER.stat().st_mtime >= begun):
        return
    plan = load_plan(Path())
    known = {job.name: job for job in plan.jobs}
    jobs = Jobs(known, set(plan.affected), read_times(plan.jobs))
    view, position = choose_view(jobs, cores, gpus), 0
    view.tell(f"{len(jobs.expected)} of {len(known)} jobs to run, on {cores} cores; the engine's log: {ENGINE_LOG}")
    with view.open():
        ended = False
        while not ended:
            ended = process.poll() is not None  # before the last look
            events, position = read_events(position)
            for event in events:
                name = jobs.take(event)
                line = describe_end(jobs, name, view.finish(name) if name in jobs.done else None) if name else None
                if line:
                    view.tell(line)
            view.refresh()
            if not ended:
                time.sleep(PAUSE)
    save_times(jobs)
    seconds = format_time(time.time() - view.start)
    print(f"{len(jobs.done)} jobs done in {seconds}" + (f", {len(jobs.failed)} failed." if jobs.failed else "."))


def describe_end(jobs: Jobs, name: str, finished: str | None) -> str | None:
    """The line for a job that ended: that of its group, or why it failed."""
    if name not in jobs.failed:
        return finished
    log = Path(jobs.known[name].log)
    lines = [line for line in read_lines(log) if line.startswith("error: ")] or read_lines(log)[-1:]
    return f"FAILED {name}: {lines[-1].removeprefix('error: ') if lines else 'it wrote no log'} (log: {log})"


def read_lines(path: Path) -> list[str]:
    """The lines of a log that are not empty; none if there is no log."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def read_events(position: int) -> tuple[list[Mapping[str, object]], int]:
    """The events after a position in their file, and the position after them."""
    if not EVENTS.exists():
        return [], position
    with EVENTS.open("rb") as file:
        file.seek(position)
        whole = file.read().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()], position + (len(whole) + 1 if whole else 0)


def save_times(jobs: Jobs) -> None:
    """Keep what the jobs took, for the next run's estimates."""
    TIMES.write_text(json.dumps({**jobs.before, **jobs.done}, indent=1), encoding="utf-8")
