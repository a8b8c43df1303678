"""All replacements of DVC's own behaviour.

They are locks that wait, a dvc.lock that is parsed once and written atomically, and stages that run without a lock.
`rca.pipeline.whole_lock` has those for the command `dvc`, too.
tests/pipeline/test_dvc_contract.py tests the parts of DVC that the package uses.
"""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import dvc.dependency.param
import dvc.dvcfile
import dvc.output
import dvc.rwlock
import dvc.stage.run
import dvc.utils.serialize
from dvc.lock import LockBase, LockError
from ruamel.yaml import YAML

from rca.core.errors import UserError, explain
from rca.pipeline.lockfile import check_content, refuse

PATIENCE = 600.0  # seconds; DVC itself gives up after three
Result = TypeVar("Result")


class PatientLock(LockBase):  # type: ignore[misc]  # DVC is untyped
    """DVC's repository lock, with a timeout long enough for another process to record large outputs."""

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


class HeldLock(LockBase):  # type: ignore[misc]
    """A repository lock for a process that needs none: it neither reads nor writes what the real one guards."""

    is_locked = True

    def __init__(self) -> None:
        pass

    def lock(self) -> None:
        """Do nothing."""

    def unlock(self) -> None:
        """Do nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


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
    """The root cause of an error of DVC, on one line; of one of the operating system, its sentence."""
    sentence = explain(error)
    if sentence is not None:
        return sentence
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def list_no_files() -> None:
    """Make DVC list no files in `rwlock`: it rewrites that file twice for each question about a stage."""
    dvc.rwlock.rwlock = lambda *_: nullcontext()


def run_alone() -> None:
    """Make a stage run without the repository lock and without git: who merges its record writes .gitignore files."""
    list_no_files()
    dvc.stage.run.unlocked_repo = lambda function: function
    dvc.output.Output.ignore = lambda out: None
    dvc.dvcfile.is_git_ignored = lambda repo, path: False


def parse_once() -> None:
    """Make DVC parse dvc.lock and files of parameters once, not for each question and each stage."""
    dvc.dvcfile.Lockfile.load = lambda file: read_lock(Path(file.path))
    load, parsed = dvc.utils.serialize.load_path, {}

    def load_once(path: str, fs: Any, **options: Any) -> Any:
        state = os.stat(path)
        key = (path, state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in parsed:
            parsed[key] = load(path, fs, **options)
        return parsed[key]

    dvc.dependency.param.load_path = load_once


_parsed: dict[Path, tuple[bytes, dict[str, Any]]] = {}


def read_lock(path: Path) -> dict[str, Any]:
    """The content of a dvc.lock, which the caller must not change; empty if there is no such file.

    Raises:
        UserError: It is cut off or damaged.
    """
    if not path.exists():
        return {}
    text = path.read_bytes()
    if path not in _parsed or _parsed[path][0] != text:
        try:
            content = YAML(typ="safe").load(text)
        except Exception as error:  # ruamel.yaml raises errors of several kinds
            raise refuse(path, "is no YAML") from error
        check_content(path, text, content)
        _parsed[path] = (text, content)
    return _parsed[path][1]
