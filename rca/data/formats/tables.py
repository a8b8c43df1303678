"""Tables of tags: `tags.csv` as people write it.

The first line names the columns. One holds the image (`id`, `filename`, `image`, ...), one its tags (`tags`, `label`,
`class`, ...) and one perhaps its split; or there is a column of 0 and 1 for each class. Cells are separated by commas,
or by semicolons or tabs where the first line has those alone or Excel's `sep=;` precedes it; tags by whichever of `;`,
`|` and `,` the column shows, or they are a list as Python, JSON or numpy write it (`['cow', 'sheep']`). Where no cell
has several tags, an image may have a line for each of its tags or boxes. Where two columns may be meant, one of numbers
alone is not.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from rca.core.errors import UserError
from rca.data.faults import Fault
from rca.data.formats.files import drop_suffix, read_text
from rca.data.names import find_role, fold

# Headers without spaces, underscores and hyphens, in the order in which they are looked for.
ID_COLUMNS = (
    *("id", "imageid", "image", "filename", "file", "filepath", "imagename", "imagefile", "imagepath", "img", "imgid"),
    *("imgname", "path", "name", "photo", "photograph", "picture"),
)
TAG_COLUMNS = (
    *("tags", "tag", "labels", "label", "classes", "class", "classname", "category", "categories", "choice", "choices"),
)
SPLIT_COLUMNS = ("split", "splits", "set", "subset", "partition")
# A list of Python, JSON or numpy, as pandas writes it into a cell, and Label Studio's choices.
_LIST = re.compile(r'(?:\{\s*"choices":\s*)?\[(.*)\]\s*\}?', re.DOTALL)
_SEPARATOR = re.compile(r'"?sep=([^"\w\r\n])"?')  # the line by which Excel knows a table's separator
_COUNTED = re.compile(r"(.*\S)\s*[:=]\s*(\d+)")  # a tag with the number of its objects
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
WORDS = {"true": True, "false": False}


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
    of_split = _find_column(columns, SPLIT_COLUMNS)
    of_id = _find_column(columns, ID_COLUMNS, lines, _is_picture)
    of_tags = _find_column(columns, TAG_COLUMNS, lines, lambda cell: _read_number(cell) is None)
    if of_id is None:
        raise _miss(path, "id", header)
    if of_tags is not None:
        split = _choose_separator([cells[of_tags] for _, cells in lines], classes)
        tags = [split(cells[of_tags]) for _, cells in lines]
    else:
        tags = _read_columns(path, header, lines, (of_id, of_split))
    notes = [*_note_columns(path, header, columns, of_tags)]
    if of_tags is not None and _are_counted(tags, classes):
        notes.append(f"{path}: the numbers behind tags are taken for counts, and left out.")
        tags = [tuple(match[1] for tag in row if (match := _COUNTED.fullmatch(tag)) and int(match[2])) for row in tags]
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
    notes += [f"{path}: {tag!r} is no class and left out {times} times." for tag, times in sorted(left_out.items())]
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
    told = _SEPARATOR.fullmatch(first.strip(" \r\n"))
    delimiter = told[1] if told else next((one for one in "\t;" if one in first and "," not in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    lines = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV ({error}): correct it.") from None
    if told:
        del lines[0]
    if len(lines) < 2:
        raise UserError(f"{path} is empty: give it the columns id and tags, and a line for each image.")
    header = [cell.strip() for cell in lines[0][1]]
    for number, cells in lines[1:]:
        while len(cells) > len(header) and not cells[-1].strip():  # as spreadsheets leave them
            del cells[-1]
        if len(cells) != len(header):
            raise UserError(f"{path}, line {number}, has another number of cells than the first line: correct it.")
    return header, lines[1:]


def _find_column(
    columns: Mapping[int, str],
    names: Sequence[str],
    lines: Sequence[tuple[int, list[str]]] = (),
    is_better: Callable[[str], bool] = lambda _: False,
) -> int | None:
    """The column with the first of some names that occurs; one with a better cell if that holds numbers alone."""
    known = [position for name in names for position, column in columns.items() if column == name]
    if not known:
        return None
    better = (one for one in known if any(is_better(cells[one]) for _, cells in lines if cells[one].strip()))
    has_numbers = all(_read_number(cells[known[0]]) is not None for _, cells in lines)
    return next(better, known[0]) if has_numbers else known[0]


def _note_columns(path: Path, header: Sequence[str], columns: Mapping[int, str], chosen: int | None) -> Iterator[str]:
    """A sentence on columns that may hold tags as well, if there are any."""
    others = [header[one] for one, column in columns.items() if column in TAG_COLUMNS and one != chosen]
    if chosen is not None and others:
        yield f"{path}: tags are those of the column {header[chosen]}; {', '.join(others)} is not read."


def _are_counted(tags: Iterable[Iterable[str]], classes: Sequence[str]) -> bool:
    """Whether each tag has a number behind it."""
    every = [tag for row in tags for tag in row]
    return bool(every) and all(tag not in classes and _COUNTED.fullmatch(tag) for tag in every)


def _read_columns(
    path: Path, header: Sequence[str], lines: Sequence[tuple[int, list[str]]], others: Sequence[int | None]
) -> list[tuple[str, ...]]:
    """The tags of each line of a table with a column for each class.

    Raises:
        UserError: there is no such column, or a cell says neither yes nor no.
    """
    marks = {position: name for position, name in enumerate(header) if position not in others and name.strip()}
    first = [lines[0][1][position] for position in marks]
    if not marks or (_read_mark(first[0]) is None and any(_read_number(cell) is None for cell in first)):
        raise _miss(path, "tags", header)
    return [_read_marks(path, number, cells, marks) for number, cells in lines]


def _is_picture(cell: str) -> bool:
    return drop_suffix(cell.strip()) != cell.strip()


def _read_number(cell: str) -> float | None:
    """A number, perhaps with a decimal comma; None if it is none."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return None


def _miss(path: Path, column: str, header: Sequence[str]) -> UserError:
    known = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
    return UserError(
        f"{path} lacks the column {column} (it has {known[:300]}): name the columns in its first line, e.g. "
        "id,tags or id and a column of 0 and 1 for each class."
    )


def _read_name(path: Path, number: int, cell: str) -> str:
    name = cell.strip().replace("\\", "/").removeprefix("./")
    if not name.strip("/"):
        raise UserError(f"{path}, line {number}: {cell.strip()!r} is no file below images: correct the id.")
    return name


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


def _read_mark(cell: str) -> bool | None:
    """What a cell of a class's column says; None if nothing."""
    number = _read_number(cell)
    return bool(number) if number in (0, 1) else WORDS.get(cell.strip().lower())


def _read_marks(path: Path, number: int, cells: Sequence[str], marks: Mapping[int, str]) -> tuple[str, ...]:
    """The classes whose columns hold 1."""

    def find() -> Iterator[str]:
        for position, name in marks.items():
            mark = _read_mark(cells[position])
            if mark is None:
                shown = f"{cells[position].strip()!r} in the column {name}"
                raise UserError(f"{path}, line {number}, has {shown}: write 1 where the image shows it, else 0.")
            if mark:
                yield name

    return tuple(find())
