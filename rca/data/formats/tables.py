"""Tables of tags: `tags.csv` as people write it.

The first line names the columns. One holds the image (`id`, `filename`, `image`, ...), one its tags (`tags`, `label`,
`class`, ...) and one perhaps its split; or there is a column of 0 and 1 for each class. Cells are separated by commas,
or by semicolons or tabs where the first line has those alone; tags by whichever of `;`, `|` and `,` the column shows,
or they are a list as Python, JSON or numpy write it (`['cow', 'sheep']`). Where no cell has several tags, an image may
have a line for each of its tags or boxes.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rca.core.errors import UserError
from rca.data.faults import Fault
from rca.data.formats.files import read_text
from rca.data.names import find_role, fold

# Headers without spaces, underscores and hyphens, in the order in which they are looked for.
ID_COLUMNS = (
    *("id", "imageid", "image", "filename", "file", "filepath", "imagename", "imagefile", "imagepath", "img", "imgid"),
    *("imgname", "path", "name", "photo", "photograph", "picture"),
)
TAG_COLUMNS = ("tags", "tag", "labels", "label", "classes", "class", "classname", "category", "categories")
SPLIT_COLUMNS = ("split", "splits", "set", "subset", "partition")
# A list of Python, JSON or numpy, as pandas writes it into a cell.
_LIST = re.compile(r"\[(.*)\]", re.DOTALL)
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
PRESENT = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


@dataclass(frozen=True)
class TagRow:
    """A line of a table.

    Attributes:
        line: Its number in the file.
        name: The image's name as written, with `/` between folders.
        tags: Its tags.
        splits: Its splits; empty if the table gives none.
    """

    line: int
    name: str
    tags: tuple[str, ...]
    splits: tuple[str, ...]


class TagTable(NamedTuple):
    """A table of tags.

    Attributes:
        rows: Its lines.
        notes: What was left out, in sentences.
        faults: What is wrong with single lines.
    """

    rows: list[TagRow]
    notes: tuple[str, ...]
    faults: tuple[Fault, ...] = ()


def read_table(path: Path, classes: Sequence[str] = ()) -> TagTable:
    """Read a table of tags.

    Args:
        path: The file.
        classes: The names of the classes if they are known, which may then hold separators.

    Raises:
        UserError: the table is missing, empty or broken, or its columns are not known.
    """
    header, lines = _read_cells(path)
    columns = {position: fold(name).translate(str.maketrans("", "", "_-")) for position, name in enumerate(header)}
    of_id = _find_column(columns, ID_COLUMNS)
    of_split = _find_column(columns, SPLIT_COLUMNS)
    of_tags = _find_column(columns, TAG_COLUMNS)
    if of_id is None:
        raise _miss(path, "id", header)
    if of_tags is not None:
        split = _choose_separator([cells[of_tags] for _, cells in lines], classes)
        tags = [split(cells[of_tags]) for _, cells in lines]
    else:
        marks = {
            position: name for position, name in enumerate(header) if position not in (of_id, of_split) and name.strip()
        }
        if not marks or not _is_mark(lines[0][1][min(marks)]):
            raise _miss(path, "tags", header)
        tags = [_read_marks(path, number, cells, marks) for number, cells in lines]
    left_out: Counter[str] = Counter(tag for row in tags for tag in row if find_role(tag) != "object")
    rows = [
        TagRow(
            number,
            _read_name(path, number, cells[of_id]),
            tuple(tag for tag in found if tag not in left_out),
            () if of_split is None else split_cell(cells[of_split], ";" if ";" in cells[of_split] else ","),
        )
        for (number, cells), found in zip(lines, tags, strict=True)
    ]
    notes = [f"{path}: {tag!r} is no class and left out {times} times." for tag, times in sorted(left_out.items())]
    if of_tags is not None and all(len(found) <= 1 for found in tags):
        joined = _join_lines(rows)
        if len(joined) < len(rows):
            notes.append(f"{path} has {len(rows)} lines of {len(joined)} images: tags of an image are joined.")
        rows = joined
    return TagTable(rows, tuple(notes))


def _join_lines(rows: Iterable[TagRow]) -> list[TagRow]:
    """Join the lines of an image that agree in its splits, as tables of boxes or single tags have them."""
    joined: dict[tuple[str, tuple[str, ...]], TagRow] = {}
    for row in rows:
        first = joined.setdefault((row.name, row.splits), row)
        if first is not row:
            joined[row.name, row.splits] = replace(first, tags=tuple(dict.fromkeys((*first.tags, *row.tags))))
    return list(joined.values())


def _read_cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The cells of the first line, and those of each further line with its number."""
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((one for one in "\t;" if one in first and "," not in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    lines = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV ({error}): correct it.") from None
    if len(lines) < 2:
        raise UserError(f"{path} is empty: give it the columns id and tags, and a line for each image.")
    header = [cell.strip() for cell in lines[0][1]]
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise UserError(f"{path}, line {number}, has another number of cells than the first line: correct it.")
    return header, lines[1:]


def _find_column(columns: Mapping[int, str], names: Sequence[str]) -> int | None:
    """The position of the column with the first of some names that occurs."""
    return next((position for name in names for position, column in columns.items() if column == name), None)


def _miss(path: Path, column: str, header: Sequence[str]) -> UserError:
    known = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
    return UserError(
        f"{path} lacks the column {column} (it has {known[:300]}): name the columns in its first line, e.g. "
        "id,tags or id and a column of 0 and 1 for each class."
    )


def _read_name(path: Path, number: int, cell: str) -> str:
    name = cell.strip().replace("\\", "/").removeprefix("./")
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise UserError(f"{path}, line {number}: {cell.strip()!r} is no file below images: correct the id.")
    return PurePosixPath(name).as_posix()


def split_cell(cell: str, separator: str) -> tuple[str, ...]:
    """The parts of a cell, stripped, without empty ones."""
    return tuple(part.strip() for part in cell.split(separator) if part.strip())


def _choose_separator(cells: Sequence[str], classes: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """How to split the cells of a column: as lists, by the separator that it shows, or not where they are classes."""
    known = set(classes)
    open_cells = [cell for cell in cells if cell.strip() not in known and not _LIST.fullmatch(cell.strip())]
    separator = next((one for one in ";|," if any(one in cell for cell in open_cells)), ";")

    def split(cell: str) -> tuple[str, ...]:
        if cell.strip() in known:
            return (cell.strip(),)
        written = _LIST.fullmatch(cell.strip())
        if written is None:
            return split_cell(cell, separator)
        quoted = _QUOTED.findall(written[1])
        return tuple(one or other for one, other in quoted) if quoted else split_cell(written[1], ",")

    return split


def _is_mark(cell: str) -> bool:
    return cell.strip().lower() in PRESENT


def _read_marks(path: Path, number: int, cells: Sequence[str], marks: Mapping[int, str]) -> tuple[str, ...]:
    """The classes whose columns hold 1."""

    def find() -> Iterator[str]:
        for position, name in marks.items():
            cell = cells[position].strip()
            if not _is_mark(cell):
                shown = f"{cell!r} in the column {name}"
                raise UserError(f"{path}, line {number}, has {shown}: write 1 where the image shows it, else 0.")
            if PRESENT[cell.lower()]:
                yield name

    return tuple(find())
