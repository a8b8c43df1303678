"""Runs of a pipeline that are stopped and compared, for benchmarks/faults.py."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from projects import Project

ENGINES = {"dvc": ("dvc", "repro"), "snakemake": ("snakemake", "--cores", "2", "--resources", "gpu=2")}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
COMPARED = ("data", "runs", "results", "dvc.lock")
# What no run promises: the time and memory of stages, and where Snakemake was.
OTHERS = {"measurements.js", ".snakemake_timestamp"}
PATIENCE = 900.0  # seconds for a command


@dataclass(frozen=True)
class Kill:
    """A kill: of what, how, and when."""

    engine: str
    number: signal.Signals
    group: bool
    stage: str  # a kind of stage of the real pipeline; "lock" or "any" for the toy

    def __str__(self) -> str:
        return f"{self.engine:<9} {self.number.name:<7} {'group' if self.group else 'leader':<6} {self.stage}"


def list_files(root: Path) -> dict[str, bytes]:
    """The content of all files that are compared, by path; dvc.lock in order of its entries.

    Entries that are written again come last in it, and those of stages that are gone stand where an engine puts them.
    """
    found = {}
    for name in COMPARED:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.name not in OTHERS:
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    found["dvc.lock"] = json.dumps(yaml.safe_load(found["dvc.lock"]), sort_keys=True).encode()
    return found


def find_differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """The paths that lack, are too many, or have other bytes."""
    return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))


def list_running(token: str) -> list[psutil.Process]:
    """The processes that a run has started, wherever they are now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("RCA_FAULT") == token:
                found.append(process)
        except psutil.Error:
            continue
    return found


class Run:
    """A run in a copy of a project.

    Args:
        project: The copy.
        token: What marks its processes.
    """

    def __init__(self, project: Project, token: str) -> None:
        self.project, self.token = project, token
        self.output = project.outside / "output"
        (project.outside / "tmp").mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**self.project.environment, "RCA_FAULT": self.token, "TMPDIR": str(self.project.outside / "tmp")}

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=self.project.path,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, *command: str) -> tuple[int, str]:
        """Run a command to its end; its exit code and what it printed."""
        process = self.start(*command)
        code = process.wait(timeout=PATIENCE)
        return code, self.output.read_text(errors="replace")

    def wait_for_end(self, seconds: float = 30) -> int:
        """Wait until all processes have gone; the number of those that have not, which are ended."""
        give_up = time.monotonic() + seconds
        while (left := list_running(self.token)) and time.monotonic() < give_up:
            time.sleep(0.2)
        for process in left:
            process.kill()
        return len(left)

    def list_left(self) -> list[str]:
        """What lies in TMPDIR."""
        return sorted(path.name for path in (self.project.outside / "tmp").iterdir())


def strike(run: Run, kill: Kill, is_time: Callable[[], bool], delay: float) -> bool:
    """Start an engine and kill it some time after a moment; False if it had ended before."""
    process = run.start(*ENGINES[kill.engine])
    give_up = time.monotonic() + PATIENCE
    while not is_time() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.005)
    time.sleep(delay)
    alive = process.poll() is None
    if alive:
        (os.killpg if kill.group else os.kill)(process.pid, kill.number)
        process.wait(timeout=PATIENCE)
    return alive


def stop_at(run: Run, is_time: Callable[[], bool]) -> None:
    """Kill `dvc repro` and all its processes at a moment."""
    if not strike(run, Kill("dvc", signal.SIGKILL, True, ""), is_time, 0):
        raise RuntimeError("the run ended before it could be stopped")
    run.wait_for_end()


def forget(project: Project, stage: str) -> str:
    """Take the records of one kind of stage and what it wrote away, as if it had not run; the name of its first log."""
    lock = project.path / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    names = [name for name in content["stages"] if name.partition("@")[0] == stage]
    commands = {content["stages"][name]["cmd"] for name in names}
    for name in names:
        for out in content["stages"].pop(name)["outs"]:
            path = project.path / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (project.path / f"logs/{name.replace('@', '.')}.log").unlink(missing_ok=True)
    lock.write_text(yaml.safe_dump(content, sort_keys=False))
    for path in sorted((project.path / ".dvc/cache/runs").rglob("*")):
        if path.is_file() and yaml.safe_load(path.read_text())["cmd"] in commands:
            path.unlink()
            path.parent.rmdir()
    return f"logs/{names[0].replace('@', '.')}.log"


def copy(template: Project, folder: Path) -> Project:
    """Copy a project."""
    shutil.copytree(template.path, folder / "project", symlinks=True)
    (folder / "outside").mkdir()
    return type(template)(folder / "project", folder / "outside")
