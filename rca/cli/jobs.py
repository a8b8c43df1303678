"""The jobs of a running pipeline: which run, which are done, how far each is and how long the rest will take."""

import heapq
import json
import shlex
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from rca.pipeline.resolve import Job
from rca.stages.base.layout import LOGS, PROGRESS

TIMES = Path(".rca/times.json")


@dataclass(frozen=True)
class Place:
    """What a job works on, by the options of its command.

    Attributes:
        stage: The stage.
        item: The dataset or network; "" without one.
        run: The run; "" without one.
        seed: The seed; "" without one.
        shard: The part of the images; "" without one.
    """

    stage: str
    item: str = ""
    run: str = ""
    seed: str = ""
    shard: str = ""

    @property
    def words(self) -> str:
        """The place in words, e.g. "train_cam rca, seed 0"."""
        named = " ".join(part for part in (self.stage, self.item, self.run) if part)
        return ", ".join([named, *(f"{key} {value}" for key in ("seed", "shard") if (value := getattr(self, key)))])


def locate(job: Job) -> Place:
    """What a job works on."""
    return _locate(job.name, job.command)


@cache
def _locate(name: str, command: str) -> Place:
    words = shlex.split(command)
    options = {word[2:]: value for word, value in pairwise(words) if word.startswith("--")}
    known = {key: options[key] for key in ("item", "run", "seed", "shard") if key in options}
    return Place(name.partition("@")[0], **known)


@dataclass
class Running:
    """A running job.

    Attributes:
        job: The job.
        started: When it started, in seconds since the epoch.
        label: What it is doing.
        share: How much of it is done, 0..1; None where it does not say.
        device: What it runs on; "" where it does not say.
    """

    job: Job
    started: float
    label: str = ""
    share: float | None = None
    device: str = ""

    def look(self) -> None:
        """Read how far the job's stage says it is."""
        with suppress(OSError, ValueError, KeyError):  # it has not said anything yet, or has just ended
            told = json.loads((PROGRESS / f"{Path(self.job.log).stem}.json").read_text(encoding="utf-8"))
            self.label, self.share, self.device = str(told["label"]), float(told["share"]), str(told["device"])


@dataclass
class Jobs:
    """The state of all jobs, brought up to date by Snakemake's events.

    Attributes:
        known: All jobs of the plan, by name.
        expected: The names of the jobs that are to run.
        before: The seconds that jobs took in earlier runs.
        running: The running jobs, by name.
        done: The seconds of the finished jobs, in the order in which they finished.
        failed: The names of the jobs that failed.
    """

    known: Mapping[str, Job]
    expected: set[str]
    before: Mapping[str, float]
    running: dict[str, Running] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    numbers: dict[int, str] = field(default_factory=dict)

    def take(self, event: Mapping[str, object]) -> str | None:
        """Take an event.

        Returns:
            The name of the job that ended with it, if one did.
        """
        kind, number, when = event["event"], int(str(event.get("job", -1))), float(str(event["time"]))
        if kind == "job_info" and event.get("name") in self.known:
            name = self.numbers[number] = str(event["name"])
            self.running[name] = Running(self.known[name], when)
            self.expected.add(name)
            return None
        name = self.numbers.get(number, "")
        if kind not in ("job_finished", "job_error") or name not in self.running:
            return None
        started = self.running.pop(name).started
        if kind == "job_error":
            self.failed.append(name)
        else:
            self.done[name] = when - started
            self.failed = [failed for failed in self.failed if failed != name]  # a second try succeeded
        return name

    @property
    def waiting(self) -> set[str]:
        """The names of the jobs that are to run and have not started."""
        return self.expected - self.done.keys() - self.running.keys() - set(self.failed)

    def estimate(self, name: str) -> float | None:
        """The seconds that a job will take: as before, or as others of its stage; None where nothing is known."""
        if name in self.before:
            return self.before[name]
        stage = name.partition("@")[0]
        times = [seconds for other, seconds in self.done.items() if other.partition("@")[0] == stage]
        times = times or [seconds for other, seconds in self.before.items() if other.partition("@")[0] == stage]
        return sum(times) / len(times) if times else None

    def estimate_left(self, running: Running, now: float) -> float | None:
        """The seconds that a running job still takes; None where nothing is known."""
        taken = now - running.started
        if running.share:
            return taken / running.share * (1 - running.share)
        whole = self.estimate(running.job.name)
        return None if whole is None else max(whole - taken, 0.0)

    def estimate_all(self, cores: int, gpus: int, now: float | None = None) -> tuple[float, bool]:
        """The seconds until all jobs are done, on this many cores and GPUs.

        Returns:
            The seconds, and whether something is known of each job. Where it is not, the jobs take longer.
        """
        now = time.time() if now is None else now
        left = {name: self.estimate_left(running, now) for name, running in self.running.items()}
        left |= {name: self.estimate(name) for name in self.waiting}
        jobs = [job for job in self.known.values() if job.name in left]
        seconds = simulate(jobs, {name: value or 0.0 for name, value in left.items()}, set(self.running), cores, gpus)
        return seconds, None not in left.values()


def simulate(jobs: Iterable[Job], seconds: Mapping[str, float], started: set[str], cores: int, gpus: int) -> float:
    """The time that jobs take if each starts as soon as its inputs are there and cores and GPUs are free.

    Args:
        jobs: The jobs, in topological order.
        seconds: The time of each.
        started: The names of those that run already.
        cores: Cores to share.
        gpus: GPUs to share.
    """
    waiting = sorted(jobs, key=lambda job: job.name not in started)
    needed = {job.name for job in waiting}
    ends: list[tuple[float, str]] = []
    used: dict[str, tuple[int, int]] = {}
    free, clock = [cores, gpus], 0.0
    while waiting or ends:
        later = []
        for number, job in enumerate(waiting):
            if free[0] <= 0 and job.name not in started:
                later += waiting[number:]
                break
            threads, gpu = min(job.threads, cores), min(job.gpu, gpus)
            fits = threads <= free[0] and gpu <= free[1] and needed.isdisjoint(job.upstream)
            if job.name in started or fits:
                used[job.name] = threads, gpu
                free = [free[0] - threads, free[1] - gpu]
                heapq.heappush(ends, (clock + seconds[job.name], job.name))
            else:
                later.append(job)
        waiting = later
        clock, name = heapq.heappop(ends)
        needed.discard(name)
        threads, gpu = used.pop(name)
        free = [free[0] + threads, free[1] + gpu]
    return clock


def read_times(jobs: Iterable[Job]) -> dict[str, float]:
    """The seconds that jobs took in earlier runs."""
    times: dict[str, float] = {}
    for job in jobs:
        measured = LOGS / f"{Path(job.log).stem}.json"
        try:
            times[job.name] = float(json.loads(measured.read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError):
            continue
    with suppress(OSError, ValueError):  # no earlier run
        times |= {str(name): float(seconds) for name, seconds in json.loads(TIMES.read_text()).items()}
    return times


def format_time(seconds: float) -> str:
    """A time in words: 8 s, 3 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
