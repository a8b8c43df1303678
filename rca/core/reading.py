"""Opening what others bring: regular files only, bounded in size, as text or JSON."""

import codecs
import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from rca.core.errors import UserError, quote

# The largest files that are read whole, in bytes. Lists of millions of images fit.
MOST_TEXT = 1 << 30
MOST_JSON = 1 << 28
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def name_kind(path: Path) -> str:
    """What a path leads to if that is no regular file, in words; "" for a regular file.

    Raises:
        OSError: there is nothing, or it cannot be reached.
    """
    return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "")


def check_file(path: Path, what: str = "", most: int | None = None) -> None:
    """Check that a path leads to a regular file before it is opened, since a pipe or a device may never end.

    Args:
        path: The path.
        what: The file's name in messages, with its article; by default only the path.
        most: The most bytes allowed.

    Raises:
        UserError: it leads to something else or to too large a file, or cannot be a path.
        OSError: there is nothing, or it cannot be reached.
    """
    name = f"{what} {quote(path)}".lstrip()
    try:
        kind = name_kind(path)
    except ValueError as error:  # a null byte
        if isinstance(error, UnicodeError):
            raise
        raise UserError(f"{name} cannot be the name of a file ({error}): correct it.") from None
    if kind:
        raise UserError(f"{name} is {kind}, not a file: name a file.")
    if most is not None and path.stat().st_size > most:
        raise UserError(f"{name} has more than {most >> 20} MiB: split it, or name another.")


def check_target(path: Path, kind: str = "file") -> None:
    """Check that a path is free, or holds what may be replaced, before work whose result goes there.

    Args:
        path: The path.
        kind: What is to be written: "file" or "folder".

    Raises:
        UserError: it leads to something else.
        OSError: it cannot be reached.
    """
    try:
        found = name_kind(path) or "a file"
    except FileNotFoundError:
        return
    if found != f"a {kind}":
        raise UserError(f"{quote(path)} is {found}, not a {kind}: name another.")


def read_text(path: Path, what: str = "", most: int = MOST_TEXT) -> str:
    """Read a text file in UTF-8, or in UTF-16 where its byte order mark says so, as spreadsheets write "Unicode text".

    Raises:
        UserError: it is no regular file, too large or in another encoding.
        OSError: there is nothing, or it cannot be read.
    """
    check_file(path, what, most)
    with open(path, "rb") as file:
        mark = file.read(2)
    try:
        is_wide = mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        return path.read_text(encoding="utf-16" if is_wide else "utf-8-sig")
    except UnicodeError:
        raise UserError(f"{what} {quote(path)} is not UTF-8 text: save it as UTF-8.".lstrip()) from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON as the standard defines it.

    Raises:
        ValueError: it is not valid, holds NaN or an infinity, nests too deeply for Python, or has a number of more
            digits than Python converts.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")
