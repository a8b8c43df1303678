"""Make DVC write its files whole or not at all, and restore none that has changed in its cache.

DVC rewrites dvc.lock in place after each stage, for seconds if it is long: whatever stops `dvc repro` meanwhile, Ctrl+C
included, leaves a part of it. And what is in its cache it takes for what was put there. Python imports this module as
it starts `dvc`: workflow/rca_whole_lock.pth, which is installed with the package, tells it to. Jobs of Snakemake import
it themselves.
"""

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import dvc.utils.serialize._common as common
from dvc.utils.serialize import _json, _toml, _yaml

from rca.pipeline.lockfile import drop_empty_runs, replace_file

MODULES = (common, _json, _toml, _yaml)
dump_in_place: Callable[..., None] = common._dump_data


def dump_whole(path: str, data: Any, dumper: Callable[..., Any], fs: Any = None, **options: Any) -> None:
    """Write data to a file as DVC's own function does, which it replaces."""
    if fs is not None and fs.protocol != "local":
        dump_in_place(path, data, dumper, fs=fs, **options)
        return
    text = StringIO()
    dumper(data, text, **options)
    replace_file(Path(path), text.getvalue())


def verify_restored() -> None:
    """Make DVC compare what it restores with its checksum, unless the file is as it was when it was last compared.

    A file with other bytes is removed from the cache, and its stage runs again.
    """
    from dvc.stage.cache import StageCache
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.db.local import LocalHashFileDB

    caches: Any = LocalHashFileDB
    restore, trust, compare = StageCache.restore, caches.check, HashFileDB.check

    def restore_whole(*arguments: Any, **options: Any) -> None:
        caches.check = compare  # DVC's own trusts all files that are read-only
        try:
            restore(*arguments, **options)
        finally:
            caches.check = trust

    StageCache.restore = restore_whole


def mend_list(root: Path) -> None:
    """Empty DVC's list of what running stages use if a kill left a part of it, which DVC refuses."""
    try:
        json.loads((root / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        from rca.pipeline.rwlock import FileList  # imported where it is needed: each command of DVC comes by here

        FileList(root).mend()


def install() -> None:
    """Put the function in the place of DVC's own wherever that was imported, and tidy up before a run."""
    for module in MODULES:
        if hasattr(module, "_dump_data"):
            module._dump_data = dump_whole
    if "repro" in sys.orig_argv:
        verify_restored()
        root = next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".dvc").is_dir()), Path.cwd())
        drop_empty_runs(root / ".dvc/cache")
        mend_list(root)


install()
