"""End a process with the one that started it: what a killed engine leaves running would write into the next run."""

import os
import select
import threading
from pathlib import Path

PROCESSES = Path("/proc")
SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh", "fish"}


def end_with_starter() -> None:
    """End this process and its children once the program that started it is gone, whatever ended that.

    Shells in between do not count: they outlive what started them. Only Linux tells a process of the end of another.
    """
    starter = find_starter()
    if starter is None or not hasattr(os, "pidfd_open"):
        return
    try:
        handle = os.pidfd_open(starter)
    except OSError:  # it may not be watched, or is gone already
        return
    threading.Thread(target=_follow, args=(handle,), daemon=True, name="end_with_starter").start()


def find_starter() -> int | None:
    """The process id of the nearest ancestor that is no shell; None if the system does not tell."""
    process = os.getppid()
    try:
        while process > 1:
            # The name is in brackets, and may hold brackets itself; after it come the state and the parent.
            name, _, rest = (PROCESSES / str(process) / "stat").read_text().partition("(")[2].rpartition(")")
            if name not in SHELLS:
                return process
            process = int(rest.split()[1])
    except OSError:
        return None
    return process or None


def _follow(handle: int) -> None:
    """Wait for the end of a process, and end this one with all that it has started."""
    select.select([handle], [], [])
    import psutil  # imported late: few processes come here

    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(143)  # as if it had been terminated
