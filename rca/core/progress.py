"""Progress of long loops, as a bar on a terminal and plain lines elsewhere; output that takes names in any locale."""

import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 20.0


def track(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Yield `items` while showing how far the loop is and how long it will take.

    Args:
        items: The items.
        label: What the loop does, e.g. "score maps".
        total: The number of items.
    """
    # Bars of several jobs on one terminal would overwrite one another, so the scheduler asks for lines.
    if sys.stderr.isatty() and os.environ.get("RCA_PROGRESS") != "lines":
        from tqdm import tqdm  # imported late: few commands show a bar

        terminal = getattr(sys.stderr, "terminal", sys.stderr)  # a bar does not belong in a log
        yield from tqdm(items, desc=label, total=total, leave=False, file=terminal)
        return
    start = shown = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES and count < total:
            shown = now
            left = (now - start) / count * (total - count)
            print(f"{label}: {count}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)


def print_anything() -> None:
    """Let the output escape letters that its encoding lacks, as in the locale C, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
