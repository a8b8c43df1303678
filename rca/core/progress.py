"""Progress of long loops, as a bar on a terminal and plain lines elsewhere; output that takes names in any locale."""

import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_NOTES = 20.0, 0.5
STATUS = "RCA_STATUS"
"""The variable that names a file, in which `track` notes how far it is for other processes."""


@dataclass
class Done:
    """What the loops of this process have done.

    Attributes:
        items: How many items they have worked on.
        seconds: How long all but the first of them took, which also waits for what is loaded once.
    """

    items: int = 0
    seconds: float = 0.0


DONE = Done()


def track(items: Iterable[Item], label: str, total: int, part: tuple[int, int] = (0, 1)) -> Iterator[Item]:
    """Yield `items` while showing how far the loop is and how long it will take; count them in `DONE`.

    Args:
        items: The items.
        label: What the loop does, e.g. "score maps".
        total: The number of items.
        part: Which part this loop is of the whole work, counted from 0, and the number of parts.
    """
    last = time.monotonic()
    for item in _show(items, label, total, part):
        yield item
        now = time.monotonic()
        DONE.seconds += now - last if DONE.items else 0.0
        DONE.items += 1
        last = now


def _show(items: Iterable[Item], label: str, total: int, part: tuple[int, int]) -> Iterator[Item]:
    # Bars of several jobs on one terminal would overwrite one another, so the scheduler asks for lines.
    if sys.stderr.isatty() and os.environ.get("RCA_PROGRESS") != "lines":
        from tqdm import tqdm  # imported late: few commands show a bar

        terminal = getattr(sys.stderr, "terminal", sys.stderr)  # a bar does not belong in a log
        yield from tqdm(items, desc=label, total=total, leave=False, file=terminal)
        return
    start = shown = time.monotonic()
    noted = 0.0
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - noted >= SECONDS_BETWEEN_NOTES:
            noted = now
            note(label, (part[0] + count / max(total, count)) / part[1])
        if now - shown >= SECONDS_BETWEEN_LINES and count < total:
            shown = now
            left = (now - start) / count * (total - count)
            print(f"{label}: {count}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)


def note(label: str, share: float) -> None:
    """Note how far the work is in the file that `STATUS` names, if any.

    Args:
        label: What is being done.
        share: How much of it is done, 0..1.
    """
    path = os.environ.get(STATUS)
    if path:
        part = f"{path}.{os.getpid()}"
        # No result depends on it, so the work goes on where it cannot be written.
        with suppress(OSError):
            with open(part, "w", encoding="utf-8") as file:
                json.dump({"label": label, "share": share, "device": name_device()}, file)
            os.replace(part, path)


def name_device() -> str:
    """The GPUs that an engine gave this process, or "cpu"."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    torch = sys.modules.get("torch")  # whoever uses a GPU has imported it
    if torch is None or not torch.cuda.is_initialized():
        return "cpu"
    return f"gpu {visible}" if visible else "gpu"


def print_anything() -> None:
    """Let the output escape letters that its encoding lacks, as in the locale C, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
