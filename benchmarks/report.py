"""What benchmarks share: figures beside their limits, as Markdown on the terminal and JSON for docs/benchmarks.md."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rca.core.machine import name_processor

# On a CPU the process time, on which other work on the machine has far less influence than on wall time.
CLOCK = {"cpu": time.process_time, "cuda": time.perf_counter}
WARM_UP = {"cpu": 1, "cuda": 10}  # calls


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all benchmarks."""
    parser.add_argument("--json", type=Path, help="also write tables and figures to this file")


def compare_turns(calls: Mapping[str, Callable[[], Any]], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each call of each function, called in turns after warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    clock = CLOCK[device]
    for number in range(WARM_UP[device] + repeats):
        for name in calls if number % 2 else reversed(calls):
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return {name: times[WARM_UP[device] :] for name, times in seconds.items()}


class Report:
    """The tables and figures of one benchmark.

    Args:
        title: What is measured.
        args: The arguments of the command line, with `json`.
    """

    def __init__(self, title: str, args: argparse.Namespace) -> None:
        self.title, self.path = title, args.json
        self.tables: list[str] = []
        self.figures: list[dict[str, Any]] = []
        self.began = time.perf_counter()

    def table(self, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; its first column holds text, the others figures."""
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        self.tables.append("\n".join([f"{caption}:", "", *(f"| {' | '.join(line)} |" for line in lines)]))
        print(self.tables[-1], flush=True)

    def ratio(
        self,
        what: str,
        above: Sequence[float],
        below: Sequence[float],
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        """Print the ratio of two series that took turns: of their fastest, and the least and most of each turn."""
        turns = [one / other for one, other in zip(above, below, strict=True)]
        self.figure(what, min(above) / min(below), turns, most=most, least=least)

    def figure(
        self,
        what: str,
        value: float,
        turns: Sequence[float] = (),
        *,
        unit: str = "",
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        """Print a figure, its spread and the limit that it is asked to keep."""
        spread = [min(turns), statistics.median(turns), max(turns)] if turns else []
        met = (most is None or value <= most) and (least is None or value >= least)
        figure = {
            "what": what,
            "value": value,
            "unit": unit,
            "spread": spread,
            "most": most,
            "least": least,
            "met": met,
        }
        self.figures.append(figure)
        print(" | ".join(describe(figure)), flush=True)

    def finish(self) -> None:
        """Print how long it took, and write the JSON file if one is asked for."""
        seconds = time.perf_counter() - self.began
        print(f"took {seconds:.0f} s")
        if self.path:
            content = {
                "title": self.title,
                "command": " ".join(["python", *without_json(sys.argv)]),
                "machine": describe_machine(),
                "tables": self.tables,
                "figures": self.figures,
                "seconds": seconds,
            }
            self.path.write_text(json.dumps(content, indent=1))


def without_json(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line without `--json FILE`, its script relative to the repository."""
    kept = list(arguments)
    if "--json" in kept:
        place = kept.index("--json")
        del kept[place : place + 2]
    return [f"benchmarks/{Path(kept[0]).name}", *kept[1:]]


def describe_machine() -> str:
    """The processor, the cores that this process may use, and what else kept them busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name_processor()}, {cores} cores, load {os.getloadavg()[1]:.1f}"


def describe(figure: Mapping[str, Any]) -> list[str]:
    """A figure as the cells of a row: what it is, the figure, its spread, what is asked, whether it is met."""
    least, most, unit = figure["least"], figure["most"], figure["unit"]
    asked = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else ""
    spread = " / ".join(f"{value:.3g}" for value in figure["spread"])
    met = "" if not asked else "yes" if figure["met"] else "**no**"
    return [figure["what"], f"{figure['value']:.3g}{unit}", spread, asked + (unit if asked else ""), met]
