"""The generated files of a project: written by `rca init`, brought up to date by `rca init --upgrade`.

`workflow/generated.json` holds the checksum of each file as it was written. A file that still has it is replaced. Any
other was edited: it stays, and what is new lies beside it.
"""

import difflib
import hashlib
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from rca.cli.packaged import SCHEMA, read_generated
from rca.core.errors import UserError
from rca.core.files import read_json, write_json, write_text

RECORD = Path("workflow/generated.json")
SUFFIX = ".new"
MOST_LINES = 40  # of a shown difference


def write_generated() -> None:
    """Write all generated files of a new project in the current folder, and their record."""
    texts = read_generated()
    for path, text in texts.items():
        write_text(Path(path), text)
    _record({path: _hash(text) for path, text in texts.items()})


def upgrade() -> tuple[list[str], list[str]]:
    """Bring the generated files of the project in the current folder up to date.

    Returns:
        Lines that report what was done, with the differences, and the files that were edited and have a new version
        beside them.

    Raises:
        UserError: there is no project made by `rca init`.
    """
    if not RECORD.is_file():
        raise UserError(
            f"There is no {RECORD}: go to the top of a project that `rca init` made. A clone of the repository is"
            " upgraded by git."
        )
    recorded = read_json(RECORD)
    written = recorded.get("files", {}) if isinstance(recorded, dict) else {}
    old, new_version = recorded.get("version"), version("rca")
    lines, edited = [f"From rca {old} to {new_version}." if old != new_version else f"rca {old}, as before."], []
    for name, text in read_generated().items():
        path, new = Path(name), _hash(text)
        present = path.read_text(encoding="utf-8") if path.is_file() else None
        if present is None or (_hash(present) == written.get(name) != new):
            write_text(path, text)
            lines += [f"{path}: {'replaced, you had not edited it' if present else 'was missing, written'}"]
            lines += _show_difference(present or "", text, path) if present else []
        elif present == text:
            pass
        elif new == written.get(name):
            lines.append(f"{path}: edited by you and kept; nothing is new in it")
        else:
            beside = path.with_name(path.name + SUFFIX)
            write_text(beside, text)
            edited.append(name)
            lines += [f"{path}: edited by you and kept; its new version is {beside}"]
            lines += _show_difference(present, text, path, beside)
        written[name] = new
    _record(written)
    return lines if len(lines) > 1 else [*lines, "All generated files are up to date."], edited


def _record(files: dict[str, str]) -> None:
    write_json(RECORD, {"version": version("rca"), "files": files})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _show_difference(old: str, new: str, path: Path, beside: Path | None = None) -> Iterator[str]:
    """The difference of two texts, indented; the schema's is of no use to people."""
    if path == SCHEMA:
        return
    lines = list(
        difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), str(beside or path), n=1, lineterm="")
    )
    width = shutil.get_terminal_size().columns - 4
    yield from (f"    {line[: max(width, 76)]}" for line in lines[:MOST_LINES])
    if len(lines) > MOST_LINES:
        yield f"    and {len(lines) - MOST_LINES} more lines"
