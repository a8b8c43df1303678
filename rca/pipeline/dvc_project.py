"""The DVC project, opened so that many processes can share it and a killed process blocks no other.

Only this module and `rca.pipeline.dvc_patches` use DVC. DVC keeps two locks in .dvc/tmp: `lock`, held briefly while it
reads or records, and `rwlock`, a list of the files that running stages read and write, each with its process.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.scm import SCMError
from dvc.stage import PipelineStage
from dvc.utils.serialize import dumps_yaml, load_yaml

from rca.core.errors import UserError
from rca.pipeline.dvc_patches import (
    PATIENCE,
    PatientLock,
    describe_error,
    is_alive,
    name_process,
    retry_locked,
    write_lock_whole,
)

DIRECTORY = "directory"  # the label of an out that is a folder


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
    """A stage instance of dvc.yaml, as DVC resolves it.

    Attributes:
        name: DVC's name of the stage, such as `train_cam@rca-0`.
        command: The command that DVC runs.
        deps: The files and folders that it reads, relative to the project's root.
        params: The files of which it reads some keys.
        outs: The files and folders that it writes.
        meta: The value of `meta` in dvc.yaml.
    """

    name: str
    command: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[Out, ...]
    meta: object


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn DVC's exceptions into UserErrors of one sentence."""
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
                raise UserError(f"DVC needs a git repository, but {self.root} is not one: run `git init`.") from None
        self.repo.lock = PatientLock(self.repo.lock, patience)
        write_lock_whole()

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
        """The declared stages and the names of those that DVC reports as changed, under one lock.

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
        """Whether a stage of this name exists and DVC reports it as changed.

        Raises:
            UserError: dvc.yaml is not valid.
        """
        with report_errors(), lock_repo(self.repo):
            stages = [stage for stage in self._list_stages() if stage.name == name]
            return any(bool(stage.status()) for stage in stages)

    def reproduce(self, name: str) -> None:
        """Reproduce one stage without its upstream stages.

        Raises:
            UserError: The stage failed.
        """
        name_process(name)
        with report_errors():
            retry_locked(lambda: self.repo.reproduce(targets=[name], single_item=True))

    def record(self, name: str) -> None:
        """Record a stage's present files in dvc.lock, after its command ran.

        Raises:
            UserError: An out is missing.
        """
        with report_errors():
            retry_locked(lambda: self.repo.commit(name, force=True))

    def check_idle(self) -> None:
        """Remove entries of dead processes from DVC's `rwlock`, and refuse to continue while a stage is running.

        DVC itself removes an entry only if its pid is dead. It takes a zombie, or a pid reused after a reboot, for
        alive, and it fails if a kill left the file half written.

        Raises:
            UserError: A running process writes outputs.
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
        """Sort dvc.lock into the order in which `dvc repro` writes it.

        Parallel stages are recorded in the order in which they end, which would show as a change in git after each
        run.
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
