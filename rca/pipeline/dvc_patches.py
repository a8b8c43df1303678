"""All replacements of DVC's own behaviour.

They are a repository lock that waits, atomic writes of dvc.lock, and the name under which `rwlock` lists a process.
tests/pipeline/test_dvc_contract.py tests the parts of DVC that the package uses.
"""

import os
import re
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import dvc.dvcfile
import psutil
from dvc.lock import LockBase, LockError
from dvc.utils.serialize import load_yaml
from ruamel.yaml import YAML

from rca.core.errors import UserError

PATIENCE = 600.0  # seconds; DVC itself gives up after three
Result = TypeVar("Result")


class PatientLock(LockBase):  # type: ignore[misc]  # DVC is untyped
    """DVC's repository lock, with a timeout long enough for another process to record large outputs.

    DVC takes the lock again after a stage's command ends: giving up then would lose hours of work.
    """

    def __init__(self, inner: LockBase, patience: float = PATIENCE) -> None:
        self.inner = inner
        self.patience = patience

    @property
    def is_locked(self) -> bool:
        """Whether this process holds the lock."""
        return bool(self.inner.is_locked)

    def lock(self) -> None:
        """Wait for the lock and acquire it."""
        retry_locked(self.inner.lock, self.patience)

    def unlock(self) -> None:
        """Release the lock."""
        self.inner.unlock()

    def __enter__(self) -> None:
        self.lock()

    def __exit__(self, *_: object) -> None:
        self.unlock()


def retry_locked(action: Callable[[], Result], patience: float = PATIENCE) -> Result:
    """Call `action` until DVC's locks are free, with longer and longer pauses.

    Raises:
        UserError: The locks were not free within `patience` seconds.
    """
    give_up = time.monotonic() + patience
    pause = 0.1
    while True:
        try:
            return action()
        except LockError as error:
            if time.monotonic() >= give_up:
                message = f"Another process kept DVC's lock for {patience:g} s: {describe_error(error)}"
                raise UserError(message) from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def describe_error(error: BaseException) -> str:
    """The root cause of an error of DVC, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def name_process(stage: str) -> None:
    """Make DVC's `rwlock` list stage and host with this process's pid, which means nothing on other hosts."""
    sys.argv = ["rca-stage", stage, "on", socket.gethostname()]


def is_alive(entry: Mapping[str, Any], written: float) -> bool:
    """Whether the process of an entry of `rwlock` may still run; `written` is when that file was last modified."""
    host = re.fullmatch(r"rca-stage \S+ on (\S+)", entry["cmd"])
    if host and host[1] != socket.gethostname():
        return True
    try:
        process = psutil.Process(entry["pid"])
        # A process younger than the file did not write the entry. One second allows for rounded times.
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written + 1)
    except psutil.NoSuchProcess:
        return False


def write_lock_whole() -> None:
    """Make DVC replace dvc.lock atomically, and parse it in C.

    DVC writes the file in place, so a kill during the write would lose the record of every stage. It also parses and
    writes the file in Python to keep comments, which takes seven seconds per finished stage with two hundred stages.
    """
    dvc.dvcfile.modify_yaml = _modify_lock


@contextmanager
def _modify_lock(path: str, fs: object = None) -> Iterator[Any]:
    data = load_yaml(path) if os.path.exists(path) else {}
    yield data
    copy = Path(path).with_name(".dvc") / "tmp" / f"{Path(path).name}.new"
    with copy.open("w", encoding="utf-8") as stream:
        _build_writer().dump(data, stream)
    copy.replace(path)


def _build_writer() -> YAML:
    """A writer of plain data in DVC's format."""
    writer = YAML(typ="safe")
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None
    writer.Representer.add_representer(OrderedDict, writer.Representer.represent_dict)
    return writer
