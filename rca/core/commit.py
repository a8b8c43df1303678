"""The commit that a project is at, for those who want to make its results again."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict


class Commit(TypedDict):
    """A commit.

    Attributes:
        sha: Its name.
        changed: Whether files that git knows had changes that were not in it.
    """

    sha: str
    changed: bool


def read_commit(made: Iterable[Path]) -> Commit | None:
    """Read the commit that the current folder is at.

    Args:
        made: Files and folders that runs write: their changes do not count.

    Returns:
        None outside of git, and before the first commit.
    """
    here = ["--", ".", *(f":(exclude){path.as_posix()}" for path in made)]
    try:
        sha, changes = (
            subprocess.run(["git", *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", *here])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"sha": sha, "changed": bool(changes)}
