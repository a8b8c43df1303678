"""DVC's repository, opened so that many processes can share it and a killed one blocks none.

DVC keeps two locks below .dvc/tmp: `lock`, held for moments while it reads or records, and `rwlock`, a list
of the files that running stages read and write, with the process of each.
"""

import json
import os
import re
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


class PatientLock(LockBase):
    """DVC's repository lock, waited for as long as a neighbour may need to record large outputs.

    DVC takes the lock anew when a stage's command has ended: giving up then would lose hours of work.
    """

    def __init__(self, inner: LockBase, patience: float = PATIENCE):
        self.inner = inner
        self.patience = patience

    @property
    def is_locked(self) -> bool:
        """Tell whether this process holds the lock."""
        return self.inner.is_locked

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


def retry_locked(action: Any, patience: float = PATIENCE) -> Any:
    """Call `action` until DVC's locks let it through, pausing longer each time.

    Raises:
        UserError: If they did not within `patience` seconds.
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
    """Return the innermost reason of an error of DVC on one line."""
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


def open_repo(root: Path, patience: float = PATIENCE) -> Repo:
    """Open the DVC project at `root` with a lock that waits.

    Raises:
        UserError: If there is no pipeline, or no git repository.
    """
    root = root.resolve()
    for name, remedy in (("dvc.yaml", "go to the project's root"), (".dvc", "run `dvc init`")):
        if not (root / name).exists():
            raise UserError(f"There is no {name} in {root}: {remedy}.")
    with report_errors():
        try:
            repo = Repo(str(root))
        except SCMError:
            raise UserError(f"DVC needs a git repository, and {root} is none: run `git init`.") from None
    repo.lock = PatientLock(repo.lock, patience)
    return repo


def list_declared(repo: Repo) -> list[PipelineStage]:
    """Return the stages of the root's dvc.yaml in the order in which `dvc repro` would run them."""
    with report_errors(), lock_repo(repo):
        ordered = plan_repro(get_active_graph(repo.index.graph), repo.index.stages)
        path = os.path.join(repo.root_dir, "dvc.yaml")
        return [stage for stage in ordered if isinstance(stage, PipelineStage) and stage.path == path]


def ask_status(repo: Repo) -> tuple[list[PipelineStage], set[str]]:
    """Return the declared stages and the names of those that DVC calls changed, all under one lock.

    Raises:
        UserError: If dvc.yaml is not valid or if a stage is running.
    """
    check_idle(repo)
    with report_errors(), lock_repo(repo):
        declared = list_declared(repo)
        changed = repo.status()
    return declared, {stage.name for stage in declared if stage.addressing in changed}


def name_process(stage: str) -> None:
    """Let DVC's `rwlock` name stage and host beside this process's pid, which tells nothing elsewhere."""
    sys.argv = ["rca-stage", stage, "on", socket.gethostname()]


def check_idle(repo: Repo) -> None:
    """Drop what dead processes left in DVC's `rwlock`, and refuse to go on while a stage is running.

    DVC drops an entry when it meets one whose pid is dead. But it takes a zombie and a pid that was given away
    again, as after a reboot, for alive, and stops at a file that a kill left half written.

    Raises:
        UserError: If a living process writes outputs.
    """
    path = Path(repo.tmp_dir or "", "rwlock")
    with repo.lock:
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


def is_alive(entry: dict[str, Any], written: float) -> bool:
    """Tell whether the process of an entry of `rwlock`, a file last written at `written`, may still run."""
    host = re.fullmatch(r"rca-stage \S+ on (\S+)", entry["cmd"])
    if host and host[1] != socket.gethostname():
        return True
    try:
        process = psutil.Process(entry["pid"])
        # A process younger than the file cannot have written the entry. A second for the clock's rounding.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written + 1
    except psutil.NoSuchProcess:
        return False


def write_lock_atomically() -> None:
    """Make DVC replace dvc.lock as a whole, and by a parser in C.

    It writes the file in place, and a kill meanwhile would lose the record of every stage. It also reads and writes it
    with all comments, in Python: seven seconds for two hundred stages, for each stage that ends.
    """
    dvc.dvcfile.modify_yaml = _modify_lock


@contextmanager
def _modify_lock(path: str, fs: Any = None) -> Iterator[Any]:
    data = load_yaml(path) if os.path.exists(path) else {}
    yield data
    copy = Path(path).with_name(".dvc") / "tmp" / f"{Path(path).name}.new"
    with copy.open("w", encoding="utf-8") as stream:
        _build_writer().dump(data, stream)
    copy.replace(path)


def _build_writer() -> YAML:
    """What writes plain data as DVC does."""
    writer = YAML(typ="safe")
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.Representer.add_representer(OrderedDict, writer.Representer.represent_dict)
    return writer


def sort_lock(root: Path) -> None:
    """Bring dvc.lock into the order in which `dvc repro` writes it.

    Stages that ran side by side are recorded as they end: the same content in another order, which would show
    as a change in git after each run.
    """
    repo = open_repo(root)
    with report_errors(), lock_repo(repo):
        path = Path(repo.root_dir, "dvc.lock")
        if not path.exists():
            return
        content = load_yaml(path)
        recorded = content["stages"]
        order = [stage.name for stage in list_declared(repo) if stage.name in recorded]
        content["stages"] = {name: recorded[name] for name in [*order, *sorted(set(recorded) - set(order))]}
        text = dumps_yaml(content)
        if text != path.read_text():
            copy = Path(repo.tmp_dir or "", "dvc.lock.new")
            copy.write_text(text)
            copy.replace(path)
