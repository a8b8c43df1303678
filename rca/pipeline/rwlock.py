"""DVC's list of the files that running stages read and write, with the process of each.

DVC keeps it in .dvc/tmp/rwlock. A job enters its files once and for as long as it runs, so that `dvc repro` waits for
them and a second Snakemake does not start.
"""

import fcntl
import json
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.lock import LockError, make_lock

from rca.core.errors import UserError
from rca.pipeline.dvc_patches import PATIENCE, retry_locked
from rca.pipeline.tasks import FOLDER, RWLOCK

Entry = Mapping[str, Any]


class FileList:
    """The list of a project.

    Args:
        root: The project's root.
        hardlink: Whether DVC locks with hard links, its option `core.hardlink_lock`.
        patience: Seconds to wait for DVC's lock.
    """

    def __init__(self, root: Path, hardlink: bool = False, patience: float = PATIENCE) -> None:
        self.path = root / RWLOCK
        self.queue = root / FOLDER / "rwlock.queue"
        self.guard = make_lock(f"{self.path}.lock", tmp_dir=str(self.path.parent), hardlink_lock=hardlink)
        self.patience = patience

    @contextmanager
    def hold(self, stage: str, reads: Collection[str], writes: Collection[str]) -> Iterator[None]:
        """List a stage's files while the context lasts; wait while another process uses them.

        Raises:
            UserError: They were in use for too long.
        """
        # The pid means nothing on other hosts.
        me = {"pid": os.getpid(), "cmd": name_holder(stage, socket.gethostname())}
        retry_locked(lambda: self._enter(me, stage, reads, writes), self.patience)
        try:
            yield
        finally:
            with self._edit() as (writers, readers):
                drop(writers, readers, lambda entry: entry == me)

    def check_idle(self) -> None:
        """Remove the entries of dead processes, and refuse to continue while a stage is running.

        DVC itself removes an entry only if its pid is dead. It takes a zombie, or a pid reused after a reboot, for
        alive, and it fails if a kill left the file half written.

        Raises:
            UserError: A running process writes outputs.
        """
        if not self.path.exists() or self.path.read_text() == "{}":
            return
        written = self.path.stat().st_mtime
        with self._edit() as (writers, readers):
            drop(writers, readers, lambda entry: not is_alive(entry, written))
        for who in writers.values():
            raise UserError(
                f"The pipeline is running: process {who['pid']} ({who['cmd']}); wait for it or stop it"
                " (if its machine is gone, remove .dvc/tmp/rwlock)."
            )

    def mend(self) -> None:
        """Empty the list if it is half written, once no process is writing it."""
        with self._edit():
            pass

    def _enter(self, me: Entry, stage: str, reads: Collection[str], writes: Collection[str]) -> None:
        with self._edit() as (writers, readers):
            # A stage is tried again once its first try has ended, perhaps with its machine.
            drop(writers, readers, lambda entry: is_elsewhere(entry, re.escape(stage)))
            written = self.path.stat().st_mtime if self.path.exists() else 0.0
            used = [(path, entry) for path, entry in writers.items() if overlaps(path, (*reads, *writes))]
            used += [(path, entry) for path in readers if overlaps(path, writes) for entry in readers[path]]
            for path, entry in used:
                if is_alive(entry, written):
                    raise LockError(f"{path} is in use by process {entry['pid']} ({entry['cmd']})")
            writers.update(dict.fromkeys(writes, me))
            for path in reads:
                readers.setdefault(path, []).append(me)

    @contextmanager
    def _edit(self) -> Iterator[tuple[dict[str, Entry], dict[str, list[Entry]]]]:
        """The writers of each file and its readers, to be changed; they are saved when the context ends well."""
        self.queue.parent.mkdir(exist_ok=True)
        with self.queue.open("w") as queue:
            # DVC's guard sleeps half a second where it is held: jobs queue here, and only other processes hold it.
            fcntl.flock(queue, fcntl.LOCK_EX)
            retry_locked(self.guard.lock, self.patience)
            try:
                try:
                    content = json.loads(self.path.read_text() or "{}") if self.path.exists() else {}
                except json.JSONDecodeError:
                    content = {}
                writers, readers = content.get("write", {}), content.get("read", {})
                yield writers, readers
                readers = {path: entries for path, entries in readers.items() if entries}
                kept = {"write": writers, "read": readers}
                # In place, as DVC does: to replace a file takes ext4 20 ms, for which all other jobs would wait.
                self.path.write_text(json.dumps({kind: files for kind, files in kept.items() if files}))
            finally:
                self.guard.unlock()


def overlaps(path: str, others: Collection[str]) -> bool:
    """Whether one of the other paths is this one, lies below it or above it."""
    return any(path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in others)


def drop(writers: dict[str, Entry], readers: dict[str, list[Entry]], unwanted: Callable[[Entry], bool]) -> None:
    """Remove entries from the list."""
    for path in [path for path, entry in writers.items() if unwanted(entry)]:
        del writers[path]
    for path, entries in readers.items():
        readers[path] = [entry for entry in entries if not unwanted(entry)]


def name_holder(stage: str, host: str) -> str:
    """What the list says of a job's process; DVC has its command there."""
    return f"rca-stage {stage} on {host}"


def is_elsewhere(entry: Entry, stage: str = r"\S+") -> bool:
    """Whether an entry is of a job on another host, of one stage or of any."""
    host = re.fullmatch(name_holder(stage, r"(\S+)"), entry["cmd"])
    return host is not None and host[1] != socket.gethostname()


def is_alive(entry: Entry, written: float) -> bool:
    """Whether the process of an entry may still run; `written` is when the list was last modified."""
    import psutil  # imported late: a job without neighbours asks after nobody

    if is_elsewhere(entry):
        return True
    try:
        process = psutil.Process(entry["pid"])
        # A process younger than the file did not write the entry. One second allows for rounded times.
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written + 1)
    except psutil.NoSuchProcess:
        return False
