"""A signature of the files that a plan rests on: while it stays the same, DVC need not be asked again.

DVC itself takes a file with the same size, inode and time of modification for unchanged.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent


def sign_files(root: Path, watched: Iterable[str], cache: Path) -> str:
    """The signature of the present files.

    Args:
        root: The project's root.
        watched: Files and folders, relative to the root or absolute.
        cache: The folder of DVC's cache, of which only the names of files count.
    """
    digest, root = hashlib.sha256(), root.resolve()
    for folder in (cache, PACKAGE):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
            # A folder's time changes with the names in it. Python changes that of its own folder.
            if entry.name != "__pycache__":
                digest.update(f"{entry.name} {describe(entry.stat())}\n".encode())
    for path in drop_inner(watched):
        for line in list_lines(root / path):
            digest.update(f"{path} {line}\n".encode())
    return digest.hexdigest()


def drop_inner(paths: Iterable[str]) -> Iterator[str]:
    """The paths that lie in none of the others, sorted."""
    outer = ""
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not outer or not path.startswith(f"{outer}/"):
            outer = path
            yield path


def list_lines(path: Path) -> Iterator[str]:
    """A line for a file, or for each file in a folder, as DVC walks it: not into folders that are links."""
    try:
        state = os.stat(path)
    except OSError:
        yield "none"
        return
    if not path.is_dir():
        yield describe(state)
        return
    waiting = [str(path)]
    while waiting:
        folder = waiting.pop()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    waiting.append(entry.path)
            else:
                yield f"{entry.path} {describe(entry.stat()) if os.path.exists(entry.path) else 'none'}"


def describe(state: os.stat_result) -> str:
    """What of a file's state tells that it changed."""
    return f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"
