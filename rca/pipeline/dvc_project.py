"""The DVC project, opened so that many processes can share it and a killed process blocks no other.

`rca.pipeline.dvc_job` runs single stages of it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvc.dvcfile import LOCK_FILE, PROJECT_FILE, ProjectFile
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.scm import SCMError
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_pipeline_file, to_single_stage_lockfile
from dvc.utils.serialize import dumps_yaml

from rca.core.errors import UserError
from rca.pipeline.dvc_job import load_stage
from rca.pipeline.dvc_patches import (
    PATIENCE,
    PatientLock,
    describe_error,
    list_no_files,
    parse_once,
    read_lock,
)
from rca.pipeline.lockfile import replace_file
from rca.pipeline.rwlock import FileList
from rca.pipeline.tasks import Record, Task, list_records, read_record, write_record, write_tasks

# What DVC's answers depend on besides the files of the stages.
OF_PROJECT = ("dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config", ".dvc/config.local", ".dvcignore")
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
        self.files = FileList(self.root, self.repo.config["core"].get("hardlink_lock", False), patience)
        list_no_files()
        parse_once()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Take DVC's repository lock; what DVC reads of dvc.yaml is kept while the context lasts.

        Raises:
            UserError: DVC refuses what is done in the context.
        """
        # DVC looks for parts of the project in the current folder.
        with report_errors(), chdir(self.root), lock_repo(self.repo):
            yield

    def list_declared(self) -> list[Declared]:
        """The stages of the root's dvc.yaml, in the order in which `dvc repro` would run them.

        Raises:
            UserError: dvc.yaml is not valid.
        """
        with self.lock():
            return [self._describe(stage) for stage in self._list_stages()]

    def list_tasks(self) -> list[Task]:
        """What the job of each stage needs of dvc.yaml and dvc.lock."""
        with self.lock():
            recorded = self._read_recorded()
            return [self._make_task(stage, recorded) for stage in self._list_stages()]

    def list_changed(self) -> set[str]:
        """The names of the stages that DVC reports as changed.

        Raises:
            UserError: dvc.yaml is not valid.
        """
        with self.lock():
            return {stage.name for stage in self._list_stages() if stage.status()}

    def is_changed(self, name: str) -> bool:
        """Whether a stage of this name exists and DVC reports it as changed.

        Raises:
            UserError: dvc.yaml is not valid.
        """
        with self.lock():
            return any(stage.name == name and bool(stage.status()) for stage in self._list_stages())

    def record(self, name: str) -> None:
        """Record a stage's present files, after its command ran.

        Raises:
            UserError: An out is missing.
        """
        with self.lock():
            (stage,) = (stage for stage in self._list_stages() if stage.name == name)
            stage.save()
            stage.commit()
            write_record(
                self.root, Record(self._make_task(stage, self._read_recorded()), to_single_stage_lockfile(stage))
            )
            self.merge_records()

    def list_watched(self) -> list[str] | None:
        """The files and folders on which the answers of `list_declared` and `list_changed` depend.

        Returns:
            Paths, relative to the root where they lie in it; None if DVC has to be asked each time.
        """
        with self.lock():
            stages = self._list_stages()
            files = {*OF_PROJECT, *list_vars(ProjectFile(self.repo, str(self.root / PROJECT_FILE)).contents)}
            if any("${" in file for file in files) or not all(map(is_watchable, stages)):
                return None
            files.update(self._relate(item.fs_path) for stage in stages for item in (*stage.deps, *stage.outs))
            return sorted(files)

    @property
    def cache(self) -> Path:
        """The folder of DVC's cache."""
        return Path(self.repo.cache.local.path)

    def merge_records(self, order: Iterable[str] = ()) -> None:
        """Move the records of jobs into dvc.lock, and list their outs in .gitignore files.

        Without records dvc.lock stays as DVC wrote it: `order` may be older than that.
        A record is dropped if dvc.lock has another entry than the job was handed: DVC recorded it in the meantime.

        Args:
            order: The names of all stages in the order in which `dvc repro` records them. Jobs end in another one,
                which would show as a change in git after each run. By default, new stages come last.

        Raises:
            UserError: dvc.lock is not valid, or git tracks an out.
        """
        with self.lock():
            paths = list_records(self.root)
            if not paths:
                return
            records = [read_record(path) for path in paths]
            lock = self.root / LOCK_FILE
            content = {"schema": "2.0", **read_lock(lock)}
            before = content.get("stages", {})
            stages = dict(before)
            for record in records:
                if stages.get(record.task.name, {}) == record.task.recorded:
                    stages[record.task.name] = record.after
            stages = sort_entries(stages, order)
            if stages != before or list(stages) != list(before):
                replace_file(lock, dumps_yaml({**content, "stages": stages}))
            for record, path in zip(records, paths, strict=True):
                load_stage(self.repo, record.task, record.after).ignore_outs()
                write_tasks(self.root, [replace(record.task, recorded=stages.get(record.task.name, {}))])
                path.unlink()

    def _list_stages(self) -> list[PipelineStage]:
        ordered = plan_repro(get_active_graph(self.repo.index.graph), self.repo.index.stages)
        path = str(self.root / PROJECT_FILE)
        return [stage for stage in ordered if isinstance(stage, PipelineStage) and stage.path == path]

    def _read_recorded(self) -> Mapping[str, Any]:
        stages: Mapping[str, Any] = read_lock(self.root / LOCK_FILE).get("stages", {})
        return stages

    def _make_task(self, stage: PipelineStage, recorded: Mapping[str, Any]) -> Task:
        entry = to_pipeline_file(stage)[stage.name]
        return Task(stage.name, entry, recorded.get(stage.name, {}), self.repo.site_cache_dir)

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


def list_vars(content: object) -> Iterator[str]:
    """The files that `vars` name anywhere in dvc.yaml."""
    if isinstance(content, Mapping):
        listed = content.get("vars")
        yield from (item.partition(":")[0] for item in listed or () if isinstance(item, str))
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from list_vars(value)


def is_watchable(stage: PipelineStage) -> bool:
    """Whether the state of a stage is in files of this machine."""
    local = all(item.protocol == "local" for item in (*stage.deps, *stage.outs))
    return local and not stage.always_changed and not stage.is_callback


def sort_entries(stages: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """Put the entries of dvc.lock in an order; those that it does not name come last, as they are."""
    return {name: stages[name] for name in (*order, *stages) if name in stages}
