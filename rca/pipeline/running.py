"""One Snakemake at a time runs in a project, and a start removes what one that was killed left in TMPDIR.

Snakemake's own lock outlives a kill, and asks for `snakemake --unlock`. This one ends with its process.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO

from rca.core.errors import UserError
from rca.pipeline.tasks import FOLDER

HOLDER = FOLDER / "snakemake.lock"
_held: list[IO[str]] = []  # an open file holds its lock


def hold_project(root: Path, temporary: Path) -> None:
    """Keep other Snakemake processes out of a project until this one ends, whatever ends it.

    Args:
        root: The project's root.
        temporary: The folder in TMPDIR that this process removes itself unless it is killed.

    Raises:
        UserError: Another one is running.
    """
    path = root / HOLDER
    path.parent.mkdir(exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = read_holder(file.read()).get("pid", "unknown")
        file.close()
        raise UserError(
            f"The pipeline is running: process {holder} (snakemake) in {root.resolve()}; wait for it or stop it."
        ) from None
    file.seek(0)
    left = Path(str(read_holder(file.read()).get("temporary", "")))
    if left.name.startswith("snakemake") and left != temporary:
        shutil.rmtree(left, ignore_errors=True)
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "temporary": str(temporary)}))
    file.flush()
    _held.append(file)


def read_holder(text: str) -> dict[str, object]:
    """What the last holder wrote; nothing if it was killed as it did."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
