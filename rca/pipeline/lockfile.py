"""dvc.lock is written whole or not at all, and one that is damaged is named.

DVC itself says of a part of it that validation failed, or takes it for all.
"""

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rca.core.errors import UserError

LOCK = Path("dvc.lock")
CHECKSUM = re.compile(r"[0-9a-f]{32}(\.dir)?")


def check_lock(root: Path) -> None:
    """Check the dvc.lock of a project, if there is one.

    Raises:
        UserError: It is cut off or damaged.
    """
    import yaml  # imported late: `dvc` imports this module as well, and needs none

    path = root / LOCK
    if not path.exists():
        return
    text = path.read_bytes()
    # libyaml, where there is one, reads a lock of 300 kB in a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(text, loader)  # noqa: S506  # both are safe
    except (yaml.YAMLError, ValueError):
        raise refuse(path, "is no YAML") from None
    entries = check_content(path, text, content)
    for name, entry in entries.items():
        if not is_whole(entry, name == list(entries)[-1]):
            raise refuse(path, f"is incomplete at stage {name}")


def check_content(path: Path, text: bytes, content: object) -> Mapping[str, object]:
    """Check what a dvc.lock holds, but not the entries themselves.

    Args:
        path: Its path.
        text: Its bytes.
        content: What a parser made of them.

    Returns:
        Its entries, by stage.

    Raises:
        UserError: It is cut off or damaged.
    """
    if not text.strip():
        raise refuse(path, "is empty")
    if not text.endswith(b"\n"):
        raise refuse(path, "ends in the middle of a line")
    entries = content.get("stages") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping):
        raise refuse(path, "lists no stages")
    return entries


def is_whole(entry: object, last: bool) -> bool:
    """Whether an entry has a command, and its outs their checksums; at the end of a file that was cut it lacks some."""
    if not isinstance(entry, Mapping) or "cmd" not in entry:
        return False
    outs = entry.get("outs", () if not last else None)
    return isinstance(outs, list | tuple) and all(map(is_out, outs)) and bool(outs or not last)


def is_out(out: object) -> bool:
    """Whether an out has a path, a checksum and a size; DVC calls checksums of other stores `etag` or `checksum`."""
    if not isinstance(out, Mapping) or "path" not in out:
        return False
    if "etag" in out or "checksum" in out:
        return True
    numbers = ("size", "nfiles") if str(out.get("md5")).endswith(".dir") else ("size",)
    whole = all(isinstance(out.get(key), int) for key in numbers)
    return whole and CHECKSUM.fullmatch(str(out.get("md5"))) is not None


def replace_file(path: Path, text: str) -> None:
    """Replace a file of DVC, so that no reader and no kill finds a part of it; dvc.lock not even if the machine stops.

    The part lies in DVC's own folder for such files, or else beside the file. Who writes a file twice at once has DVC's
    lock, so one name does.
    """
    path = path.resolve()
    own = next((parent for parent in path.parents if parent.name == ".dvc"), path.parent / ".dvc")
    folder = own / "tmp" if (own / "tmp").is_dir() else path.parent
    part = folder / f".{path.name}.part"
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if path.name == LOCK.name:
            os.fsync(file.fileno())
    if path.exists():
        part.chmod(path.stat().st_mode)
    part.replace(path)


def drop_empty_runs(cache: Path) -> None:
    """Remove the empty folders in which DVC looks for the last run of a stage, and fails.

    A kill leaves one while DVC records a run there. What is younger than a second may be another process's.

    Args:
        cache: The folder of DVC's cache.
    """
    for folder in (cache / "runs").glob("*/*"):
        with suppress(OSError):  # it is not empty
            if folder.stat().st_mtime < time.time() - 1:
                folder.rmdir()


def refuse(path: Path, damage: str) -> UserError:
    """What to say of a damaged file: nothing is lost, since DVC keeps what ran in its cache as well."""
    return UserError(
        f"{path} {damage}: restore it with `git checkout {path.name}`, or delete it; the next run takes what ran from"
        " DVC's cache."
    )
