"""Find and read the small files that list a dataset: one reader each for lists of images and for names of classes."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from rca.core import reading
from rca.core.errors import UserError
from rca.core.images import SUFFIXES
from rca.data.ids import compose
from rca.data.names import ClassNames, find_role, fold, is_object, take_objects

# In the order of preference where an image has several files; any case is read.
MAPS = (".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".jpg", ".jpeg")
MOST_LABELS = 254
MACOS = "__MACOSX"  # its copies of attributes, in archives
# A line of a list of classes with its number: "1 cat", "1: cat", "1,cat".
_NUMBERED = re.compile(r"(\d+)\s*[\s:,;.=)]\s*(\S.*)")
_CELLS = re.compile("[,;\t]")
_HEADS = frozenset({"id", "label", "labels", "name", "class", "classes", "index", "number", "classid", "category"})

Index = Mapping[str, tuple[str, ...]]
"""The pictures below a folder: the files of each name, which is a composed path without suffix."""


def spell(root: Path, file: str) -> str:
    """A composed path as the disk writes it; as it is where there is no such file."""
    apart = unicodedata.normalize("NFD", file)
    return apart if apart != file and not (root / file).exists() and (root / apart).exists() else file


def read_text(path: Path) -> str:
    """Read a text file, composed and without the byte order mark that spreadsheets write.

    Raises:
        UserError: the file is missing, no regular file, or not UTF-8.
    """
    try:
        return compose(reading.read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: add it, or remove it from the dataset's settings.") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without empty ones.

    Raises:
        UserError: the file is missing or not UTF-8.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_list(path: Path, is_known: Callable[[str], bool] = lambda _: False) -> list[str]:
    """The names of images on a list, in its order and with repeats.

    A line holds a name, a path, or as other codes write them a photograph and its mask (`/JPEGImages/x.jpg
    /SegmentationClass/x.png`) or a name and a number (`x  1`). Folders, suffixes and numbers are left out.

    Args:
        path: The file.
        is_known: Tells of a whole line whether it is an image's name as it stands.

    Raises:
        UserError: the file is missing or not UTF-8, a line holds something else, or two paths have one name.
    """
    names: list[str] = []
    written: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text, words = line.strip(), line.split()
        if not words:
            continue
        if len(words) == 1 or is_known(text):
            word = text
        elif len(words) == 2 and (_is_flag(words[1]) or _is_picture(words[1])):
            word = words[0]
        else:
            raise UserError(f"{path}, line {number}: {text[:80]!r} is no name of an image: write one name a line.")
        name = word if is_known(word) else strip_path(word)
        if written.setdefault(name, word) != word and PurePosixPath(written[name]).parent != PurePosixPath(word).parent:
            raise UserError(f"{path} lists {written[name]} and {word}, which have one name: rename one of them.")
        names.append(name)
    return names


def strip_path(word: str) -> str:
    """The name of a picture, without folders and the suffix."""
    return drop_suffix(word.replace("\\", "/").rstrip("/").rpartition("/")[2])


def drop_suffix(name: str) -> str:
    """A name without the suffix of a picture, if it has one."""
    return name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix).lower() in SUFFIXES else name


def _is_picture(word: str) -> bool:
    return PurePosixPath(word.replace("\\", "/")).suffix.lower() in SUFFIXES


def _is_flag(word: str) -> bool:
    return word.lstrip("+-").isdigit()


def read_names(path: Path) -> ClassNames:
    """The names on a list of classes, one a line, by the rule of `rca.data.names`; they may be numbered.

    Raises:
        UserError: the file is missing, not UTF-8, a table or a list on one line, or its numbers are no labels.
    """
    lines = read_lines(path)
    head = _CELLS.split(lines[0]) if lines else [""]
    if len(lines) == 1 and (len(head) > 1 or lines[0].startswith("[")):
        raise UserError(f"{path} has one line, {lines[0][:80]!r}: write one name a line.")
    has_head = len(head) > 1 and fold(head[0]).replace("_", "") in _HEADS
    names = _drop_numbers(path, lines[has_head:])
    for name in names:
        cells = _CELLS.split(name)
        if len(cells) > 1 and (has_head or cells[-1].strip().isdigit()):
            raise UserError(f"{path} is a table, as {name[:80]!r} shows: write one name a line.")
    return take_objects(names)


def _drop_numbers(path: Path, lines: Sequence[str]) -> Sequence[str]:
    """The names of a list whose lines all begin with their label; the lines as they are if they do not.

    Raises:
        UserError: the numbers are no labels.
    """
    matches = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    numbers, names = [int(match[1]) for match in matches], [match[2] for match in matches]
    if len(names) < max(2, len(lines)) or len(set(names)) < len(names):
        return lines
    first = numbers[0]
    if numbers != list(range(first, first + len(numbers))) or first > 1 or (not first and is_object(names[0])):
        shown = ", ".join(line[:30] for line in lines[:2])
        rule = "number them from 1 on, or from 0 with the background first"
        raise UserError(f"{path} numbers its names as labels cannot be ({shown}, ...): {rule}.")
    return names


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of the object classes, in the order of their labels, for commands that take nothing else.

    Raises:
        UserError: the file is missing or not UTF-8, names no class, too many or one twice, or has the background or
            undecided pixels among the classes.
    """
    names = read_names(path).objects
    if not 0 < len(names) <= MOST_LABELS:
        raise UserError(f"{path} names {len(names)} classes: list 1 to {MOST_LABELS}, one a line.")
    for label, name in enumerate(names, 1):
        if find_role(name) != "object":
            raise UserError(f"{path} names {name!r} as label {label}: list only object classes, from label 1 on.")
        if name in names[: label - 1]:
            raise UserError(f"{path} names the class {name!r} twice: list it once.")
    return names


def note_left_out(path: Path, names: ClassNames) -> Iterator[str]:
    """A sentence on the names that a list of classes has besides its classes, if there are any."""
    if names.left_out:
        first = f"label 1 is {names.objects[0]}" if names.objects else "no class is left"
        yield f"{path}: {', '.join(names.left_out)} is no class and left out; {first}."


def list_files(folder: Path) -> Iterator[str]:
    """The paths of all files below a folder, without hidden ones; links are followed, and each folder is seen once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != MACOS)
        here = Path(place).relative_to(folder)
        yield from ((here / name).as_posix() for name in sorted(files) if not name.startswith("."))


def index_pictures(folder: Path, suffixes: Iterable[str] = MAPS) -> Index:
    """Index the pictures below a folder, which may be missing; each name's files are in the order of `suffixes`."""
    order = {suffix: position for position, suffix in enumerate(suffixes)}
    found: dict[str, list[str]] = {}
    for file in list_files(folder) if folder.is_dir() else ():
        if PurePosixPath(file).suffix.lower() in order:
            found.setdefault(compose(drop_suffix(file)), []).append(file)
    return {
        name: tuple(sorted(files, key=lambda file: (order[PurePosixPath(file).suffix.lower()], file)))
        for name, files in found.items()
    }


def find_pictures(index: Index, name: str) -> tuple[str, ...]:
    """The files that a composed name with or without a suffix, in any case, may mean."""
    if name in index:
        return index[name]
    files = index.get(drop_suffix(name), ())
    exact = tuple(file for file in files if compose(file) == name)
    return exact or tuple(file for file in files if compose(file).lower() == name.lower())


def find_file(root: Path, folders: Iterable[str], stem: str, suffixes: Iterable[str]) -> str | None:
    """The first of an image's possible files that exists, relative to the root; None if none does.

    Suffixes are written as `.png`, `.PNG` or `.Png`.
    """
    cased = [one for suffix in suffixes for one in (suffix, suffix.upper(), f".{suffix[1:].capitalize()}")]
    candidates = (spell(root, f"{folder}/{stem}{suffix}") for folder in folders for suffix in cased)
    return next((candidate for candidate in candidates if (root / candidate).is_file()), None)


def check_folder(root: Path, folder: str, key: str) -> str:
    """Check that a folder exists that a dataset's settings name, and return it.

    Args:
        root: The dataset's root.
        folder: The folder, relative to the root.
        key: The dotted key of the setting, for the message.

    Raises:
        UserError: the folder does not exist.
    """
    if not (root / folder).is_dir():
        raise UserError(f"The folder {root / folder} does not exist: put it there, or correct {key}.")
    return folder
