"""The one module that knows DVC: its repository, opened so that many processes share it and a killed one blocks none.

DVC keeps two locks below .dvc/tmp: `lock`, held for moments while it reads or records, and `rwlock`, a list
of the files that running stages read and write, with the process of each.

What DVC does not offer is replaced here and nowhere else: a lock that waits, a dvc.lock that is written whole or not at
all, and the name under which `rwlock` lists a process. tests/pipeline/test_dvc_contract.py holds what is used of it.
"""

import json
import os
import re
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dvc.dvcfile
import psutil
from dvc.exceptions import DvcException
from dvc.lock import LockBase, LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.scm import SCMError
from dvc.stage import PipelineStage
from dvc.utils.serialize import dumps_yaml, load_yaml
from ruamel.yaml import YAML

from rca.core.errors import UserError

PATIENCE = 600.0  # seconds; DVC itself gives up after three
DIRECTORY = "directory"  # the label of an out that is a folder

Result = TypeVar("Result")


@dataclass(frozen=True)
class Out:
    """An out of a stage.

    Attributes:
        path: Relative to the project's root.
        kind: Its `type` in dvc.yaml; "" without one.
        directory: Whether dvc.yaml labels it a folder.
    """

    path: str
    kind: str
    directory: bool


@dataclass(frozen=True)
class Declared:
    """A stage of dvc.yaml as DVC resolves it.

    Attributes:
        name: DVC's name of the stage, such as `train_cam@rca-0`.
        command: What DVC runs.
        deps: Files and folders that it reads, relative to the project's root.
        params: Files of which it reads some keys.
        outs: Files and folders that it writes.
        meta: What dvc.yaml says under `meta`.
    """

    name: str
    command: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[Out, ...]
    meta: object


class PatientLock(LockBase):
    """DVC's repository lock, waited for as long as a neighbour may need to record large outputs.

    DVC takes the lock anew when a stage's command has ended: giving up then would lose hours of work.
    """

    def __init__(self, inner: LockBase, patience: float = PATIENCE) -> None:
        self.inner = inner
        self.patience = patience

    @property
    def is_locked(self) -> bool:
        """Whether this process holds the lock."""
        return bool(self.inner.is_locked)

    def lock(self) -> None:
        """Wait for the lock and take it."""
        retry_locked(self.inner.lock, self.patience)

    def unlock(self) -> None:
        """Give the lock back."""
        self.inner.unlock()

    def __enter__(self) -> None:
        self.lock()

    def __exit__(self, *_: object) -> None:
        self.unlock()


def retry_locked(action: Callable[[], Result], patience: float = PATIENCE) -> Result:
    """Call `action` until DVC's locks let it through, pausing longer each time.

    Raises:
        UserError: They did not within `patience` seconds.
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
    """The innermost reason of an error of DVC, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn DVC's exceptions into one sentence each."""
    try:
        yield
    except DvcException as error:
        raise UserError(f"DVC: {describe_error(error)}") from error


class DvcProject:
    """The DVC project at a folder, with a lock that waits.

    Args:
        root: The folder of dvc.yaml.
        patience: Seconds to wait for DVC's locks.

    Raises:
        UserError: There is no pipeline, or no git repository.
    """

    def __init__(self, root: Path, patience: float = PATIENCE) -> None:
        self.root = root.resolve()
        for name, remedy in (("dvc.yaml", "go to the project's root"), (".dvc", "run `dvc init`")):
            if not (self.root / name).exists():
                raise UserError(f"There is no {name} in {self.root}: {remedy}.")
        with report_errors():
            try:
                self.repo = Repo(str(self.root))
            except SCMError:
                raise UserError(f"DVC needs a git repository, and {self.root} is none: run `git init`.") from None
        self.repo.lock = PatientLock(self.repo.lock, patience)
        _write_lock_whole()

    @property
    def _tmp(self) -> Path:
        return self.root / ".dvc/tmp"

    def list_declared(self) -> list[Declared]:
        """The stages of the root's dvc.yaml, in the order in which `dvc repro` would run them.

        Raises:
            UserError: dvc.yaml is not valid.
        """
        return [self._describe(stage) for stage in self._list_stages()]

    def ask_status(self) -> tuple[list[Declared], set[str]]:
        """The declared stages and the names of those that DVC calls changed, all under one lock.

        Raises:
            UserError: dvc.yaml is not valid, or a stage is running.
        """
        self.check_idle()
        with report_errors(), lock_repo(self.repo):
            stages = self._list_stages()
            changed = self.repo.status()
        names = {stage.name for stage in stages if stage.addressing in changed}
        return [self._describe(stage) for stage in stages], names

    def is_changed(self, name: str) -> bool:
        """Whether there is a stage of that name and DVC calls it changed.

        Raises:
            UserError: dvc.yaml is not valid.
        """
        with report_errors(), lock_repo(self.repo):
            stages = [stage for stage in self._list_stages() if stage.name == name]
            return any(bool(stage.status()) for stage in stages)

    def reproduce(self, name: str) -> None:
        """Reproduce one stage and nothing upstream of it.

        Raises:
            UserError: It failed.
        """
        name_process(name)
        with report_errors():
            retry_locked(lambda: self.repo.reproduce(targets=[name], single_item=True))

    def record(self, name: str) -> None:
        """Record a stage in dvc.lock as it lies there, after its command ran.

        Raises:
            UserError: An out is missing.
        """
        with report_errors():
            retry_locked(lambda: self.repo.commit(name, force=True))

    def check_idle(self) -> None:
        """Drop what dead processes left in DVC's `rwlock`, and refuse to go on while a stage is running.

        DVC drops an entry when it meets one whose pid is dead. But it takes a zombie and a pid that was given away
        again, as after a reboot, for alive, and stops at a file that a kill left half written.

        Raises:
            UserError: A living process writes outputs.
        """
        path = self._tmp / "rwlock"
        with self.repo.lock:
            if not path.exists():
                return
            written = path.stat().st_mtime
            try:
                entries = json.loads(path.read_text())
            except json.JSONDecodeError:
                path.unlink()
                return
            writers = {file: who for file, who in entries.get("write", {}).items() if is_alive(who, written)}
            readers = {
                file: [who for who in several if is_alive(who, written)]
                for file, several in entries.get("read", {}).items()
            }
            readers = {file: several for file, several in readers.items() if several}
            path.write_text(json.dumps({"write": writers, "read": readers}))
        for who in writers.values():
            raise UserError(
                f"The pipeline is running: process {who['pid']} ({who['cmd']}); wait for it or stop it"
                " (if its machine is gone, remove .dvc/tmp/rwlock)."
            )

    def sort_lock(self) -> None:
        """Bring dvc.lock into the order in which `dvc repro` writes it.

        Stages that ran side by side are recorded as they end: the same content in another order, which would show
        as a change in git after each run.
        """
        with report_errors(), lock_repo(self.repo):
            path = self.root / "dvc.lock"
            if not path.exists():
                return
            content = load_yaml(path)
            recorded = content["stages"]
            order = [stage.name for stage in self._list_stages() if stage.name in recorded]
            content["stages"] = {name: recorded[name] for name in [*order, *sorted(set(recorded) - set(order))]}
            text = dumps_yaml(content)
            if text != path.read_text():
                copy = self._tmp / "dvc.lock.new"
                copy.write_text(text)
                copy.replace(path)

    def _list_stages(self) -> list[PipelineStage]:
        with report_errors(), lock_repo(self.repo):
            ordered = plan_repro(get_active_graph(self.repo.index.graph), self.repo.index.stages)
        path = str(self.root / "dvc.yaml")
        return [stage for stage in ordered if isinstance(stage, PipelineStage) and stage.path == path]

    def _describe(self, stage: PipelineStage) -> Declared:
        local = [dep for dep in stage.deps if dep.protocol == "local"]
        return Declared(
            name=stage.name,
            command=stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd),
            deps=tuple(self._relate(dep.fs_path) for dep in local if not hasattr(dep, "params")),
            params=tuple(self._relate(dep.fs_path) for dep in local if hasattr(dep, "params")),
            outs=tuple(
                Out(self._relate(out.fs_path), out.annot.type or "", DIRECTORY in out.annot.labels)
                for out in stage.outs
            ),
            meta=stage.meta,
        )

    def _relate(self, path: str) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()


def name_process(stage: str) -> None:
    """Let DVC's `rwlock` name stage and host beside this process's pid, which tells nothing elsewhere."""
    sys.argv = ["rca-stage", stage, "on", socket.gethostname()]


def is_alive(entry: dict[str, Any], written: float) -> bool:
    """Whether the process of an entry of `rwlock`, a file last written at `written`, may still run."""
    host = re.fullmatch(r"rca-stage \S+ on (\S+)", entry["cmd"])
    if host and host[1] != socket.gethostname():
        return True
    try:
        process = psutil.Process(entry["pid"])
        # A process younger than the file cannot have written the entry. A second for the clock's rounding.
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written + 1)
    except psutil.NoSuchProcess:
        return False


def _write_lock_whole() -> None:
    """Make DVC replace dvc.lock as a whole, and use a parser in C.

    It writes the file in place, and a kill meanwhile would lose the record of every stage. It also reads and writes it
    with all comments, in Python: seven seconds for two hundred stages, for each stage that ends.
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
    """A writer of plain data in DVC's own form."""
    writer = YAML(typ="safe")
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # it is declared as None
    writer.Representer.add_representer(OrderedDict, writer.Representer.represent_dict)
    return writer
