"""Reproduce one stage with DVC, but without dvc.yaml and dvc.lock: from its task to its record.

So the time of a job depends neither on the number of jobs nor on other jobs.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dvc.cachemgr import CacheManager
from dvc.config import Config
from dvc.dvcfile import PROJECT_FILE, ProjectFile
from dvc.fs import LocalFileSystem
from dvc.ignore import DvcIgnoreFilter
from dvc.stage import PipelineStage
from dvc.stage.cache import StageCache
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_single_stage_lockfile
from dvc_data.hashfile.state import State

from rca.core.errors import UserError
from rca.pipeline.dvc_patches import HeldLock, describe_error, run_alone
from rca.pipeline.rwlock import FileList
from rca.pipeline.tasks import Record, Task, find_recorded, write_record
from rca.pipeline.whole_lock import verify_restored


class JobRepo:
    """What a stage needs of DVC's `Repo`, which takes longer to import than all the rest: git and every command.

    Args:
        root: The project's root.
        state: The folder where DVC remembers the checksums of files.
    """

    DVC_DIR = ".dvc"
    subrepos = False

    def __init__(self, root: Path, state: str) -> None:
        self.root_dir = str(root)
        self.dvc_dir = self.local_dvc_dir = os.path.join(self.root_dir, self.DVC_DIR)
        self.tmp_dir = os.path.join(self.dvc_dir, "tmp")
        self.fs = LocalFileSystem()
        self.config = Config(self.dvc_dir, local_dvc_dir=self.dvc_dir, fs=self.fs)
        self.lock = HeldLock()
        self.dvcignore = self._read_dvcignore()
        self.state = State(self.root_dir, state, self.dvcignore)
        self.cache = CacheManager(self)
        self.stage_cache = StageCache(self)

    def _read_dvcignore(self) -> DvcIgnoreFilter:
        """Read .dvcignore files; DVC imports `Repo` there for the name of one folder."""
        module = ModuleType("dvc.repo")
        vars(module)["Repo"] = type(self)
        there = sys.modules.setdefault(module.__name__, module)
        try:
            return DvcIgnoreFilter(self.fs, self.root_dir)
        finally:
            if there is module:
                del sys.modules[module.__name__]


def reproduce(root: Path, task: Task, force: bool = False) -> None:
    """Run a stage's command or restore its outputs, where something changed, and write the record.

    Args:
        root: The project's root.
        task: What the job needs of dvc.yaml and dvc.lock.
        force: Run the command whatever changed, and restore nothing.

    Raises:
        UserError: The stage failed.
    """
    root = root.resolve()
    run_alone()
    verify_restored()
    try:
        repo = JobRepo(root, task.state)
        stage = load_stage(repo, task, find_recorded(root, task))
        files = FileList(root, repo.config["core"].get("hardlink_lock", False))
        reads, writes = ([item.fs_path for item in items] for items in (stage.deps, stage.outs))
        with files.hold(task.name, reads, writes):
            if stage.reproduce(force=force):
                write_record(root, Record(task, to_single_stage_lockfile(stage)))
    except UserError:
        raise
    except Exception as error:  # `dvc repro` sums up any of them as well
        raise UserError(f"DVC: {describe_error(error)}") from error


def load_stage(repo: Any, task: Task, recorded: Mapping[str, Any]) -> PipelineStage:
    """Build DVC's object of a stage with the checksums of its entry in dvc.lock."""
    file = ProjectFile(repo, os.path.join(repo.root_dir, PROJECT_FILE))
    return StageLoader.load_stage(file, task.name, dict(task.stage), dict(recorded))
