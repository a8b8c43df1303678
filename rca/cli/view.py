"""What `rca run` shows: on a terminal a line for each running job, elsewhere few plain lines."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rca.cli.jobs import Jobs, Place, Running, format_time, locate

BAR = 16
COST = 100  # an estimate is made again after so many times the time that it took
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 1800.0  # seconds between plain lines on what runs: each is twice the last


@dataclass
class Finished:
    """Jobs that are shown in one line once all have finished.

    Attributes:
        names: The jobs' names.
        places: What differs between them is left out.
    """

    names: list[str]
    place: Place


def group_jobs(jobs: Jobs, key: Callable[[Place], Place]) -> dict[Place, Finished]:
    """The expected jobs, by what their common line names."""
    groups: dict[Place, Finished] = {}
    for name, job in jobs.known.items():
        if name in jobs.expected:
            place = key(locate(job))
            groups.setdefault(place, Finished([], place)).names.append(name)
    return groups


def of_instance(place: Place) -> Place:
    """A line for each instance, but one for all its shards."""
    return replace(place, shard="")


def of_run(place: Place) -> Place:
    """A line for each stage of a run."""
    return replace(place, seed="", shard="")


class View:
    """Shows the jobs as they come and go.

    Args:
        jobs: The jobs.
        cores: The cores that they share.
        gpus: The GPUs that they share.
        key: What a line for finished jobs names.
    """

    def __init__(self, jobs: Jobs, cores: int, gpus: int, key: Callable[[Place], Place]) -> None:
        self.jobs, self.cores, self.gpus, self.key = jobs, cores, gpus, key
        self.start = time.time()
        self.estimate, self.estimated, self.patience = (0.0, False), 0.0, 0.0
        self.groups: dict[Place, Finished] = {}
        self.grouped = 0

    def estimate_all(self) -> tuple[float, bool]:
        """As `Jobs.estimate_all`, but only now and then: it takes a second for some thousand jobs."""
        begun = time.time()
        if begun - self.estimated >= self.patience:
            self.estimate = self.jobs.estimate_all(self.cores, self.gpus)
            self.estimated, self.patience = begun, COST * (time.time() - begun)
        seconds, known = self.estimate
        return max(seconds - (begun - self.estimated), 0.0), known

    def finish(self, name: str) -> str | None:
        """The line for a job that finished, if it is the last of those that share one."""
        if len(self.jobs.expected) != self.grouped:  # Snakemake may run more than DVC called changed
            self.groups, self.grouped = group_jobs(self.jobs, self.key), len(self.jobs.expected)
        group = self.groups[self.key(locate(self.jobs.known[name]))]
        if not self.jobs.done.keys() >= set(group.names):
            return None
        times = [self.jobs.done[one] for one in group.names]
        many = f" ({len(times)} jobs)" if len(times) > 1 else ""
        return f"{group.place.words}{many}: {format_time(sum(times))}"

    def sum_up(self) -> str:
        """How much is done, and how long the rest will take."""
        seconds, known = self.estimate_all()
        done = (
            f"{len(self.jobs.done)} of {len(self.jobs.expected)} jobs done in {format_time(time.time() - self.start)}"
        )
        if seconds < 1:  # nothing is left, or nothing is known of it
            return done
        return f"{done}, {'about' if known else 'more than'} {format_time(seconds)} left"


def describe(running: Running, jobs: Jobs, now: float) -> tuple[str, str, str, str]:
    """A running job in four columns: what it is, its device, how far it is, and the time left."""
    running.look()
    left = jobs.estimate_left(running, now)
    share = f"{100 * running.share:3.0f} % {running.label}" if running.share is not None else "started"
    time_left = "" if left is None else f"{format_time(left)} left"
    return locate(running.job).words, running.device, share, time_left


class PlainView(View):
    """For logs and dumb terminals: a line for what finished, now and then one for what runs."""

    def __init__(self, jobs: Jobs, cores: int, gpus: int) -> None:
        super().__init__(jobs, cores, gpus, of_run)
        self.pause, self.told = FIRST_PAUSE, time.time()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show the jobs while the context lasts."""
        yield

    def tell(self, line: str) -> None:
        """Print a line."""
        self.told = time.time()
        print(line, flush=True)

    def refresh(self) -> None:
        """Say what runs, if nothing was said for long."""
        now = time.time()
        if now - self.told < self.pause or not self.jobs.running:
            return
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        running = ", ".join(
            f"{words} ({share.partition('%')[0].strip()} %)" if "%" in share else words
            for words, _, share, _ in (describe(one, self.jobs, now) for one in self.jobs.running.values())
        )
        self.tell(f"{self.sum_up()}; running: {running}")


class LiveView(View):
    """For a terminal: finished jobs above, and below them a line for each that runs, which changes in place."""

    def __init__(self, jobs: Jobs, cores: int, gpus: int) -> None:
        super().__init__(jobs, cores, gpus, of_instance)
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show the jobs while the context lasts."""
        with self.live:
            yield

    def tell(self, line: str) -> None:
        """Print a line above those of the running jobs."""
        self.console.print(line, markup=False)

    def refresh(self) -> None:
        """Draw the running jobs again."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, table = time.time(), Table.grid(padding=(0, 2))
        room = max(self.console.height - 3, 1)
        shown = sorted(self.jobs.running.values(), key=lambda running: running.started)
        for running in shown[:room]:
            words, device, share, left = describe(running, self.jobs, now)
            bar = ProgressBar(total=1.0, completed=running.share or 0.0, width=BAR)
            table.add_row(Text(words), Text(device), bar, Text(share), Text(left))
        more = [Text(f"and {len(shown) - room} more")] if len(shown) > room else []
        self.live.update(Group(table, *more, Text(self.sum_up())), refresh=True)


def choose_view(jobs: Jobs, cores: int, gpus: int) -> PlainView | LiveView:
    """The view for the output of this process."""
    dumb = os.environ.get("TERM", "dumb") in ("dumb", "") or "CI" in os.environ
    return PlainView(jobs, cores, gpus) if dumb or not sys.stdout.isatty() else LiveView(jobs, cores, gpus)
