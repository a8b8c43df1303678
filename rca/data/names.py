"""Names of classes: which of them are none, and which mean the same. One rule for all readers and commands.

A list of classes may begin with names of the background or of undecided pixels, in the order in which labelme writes
them (`__ignore__`, `_background_`), and end with names of undecided pixels. These are left out, since 0 and 255 need no
name: the first object is label 1 either way. Anywhere else such a name would shift the labels, and is an error.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

Role = Literal["object", "background", "undecided", "nothing"]
BACKGROUND = frozenset({"background", "bg"})
UNDECIDED = frozenset({"ignore", "ignored", "void", "unlabeled", "unlabelled", "undecided", "dontcare"})
# What spreadsheets and pandas write into an empty cell, or into one that they cannot fill.
NOTHING = frozenset(
    {
        *("", "nan", "none", "n/a", "na", "null", "<na>", "-"),
        *("#n/a", "#ref!", "#name?", "#value!", "#div/0!", "#null!", "#num!"),
    }
)
# What others call splits. A folder may have such a name and be a class: a train is one of VOC's.
SPLITS = frozenset({"train", "training", "trn", "val", "valid", "validation", "dev", "test", "testing", "eval"})
SEPARATORS = re.compile(r"[;,|/&+\s]+")


class ClassNames(NamedTuple):
    """The names on a list of classes.

    Attributes:
        objects: The object classes: label n is `objects[n - 1]`.
        left_out: The names of the background and of undecided pixels around them.
    """

    objects: tuple[str, ...]
    left_out: tuple[str, ...]


def fold(name: str) -> str:
    """A name without the differences that people overlook: case, spaces and Unicode form."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def find_role(name: str) -> Role:
    """What a name stands for: an object class, label 0, label 255, or an empty cell."""
    folded = fold(name)
    if folded in NOTHING:
        return "nothing"
    bare = re.sub(r"[_'’-]", "", folded)
    return "background" if bare in BACKGROUND else "undecided" if bare in UNDECIDED else "object"


def is_object(name: str) -> bool:
    """Whether a name stands for an object class."""
    return find_role(name) == "object"


def are_splits(names: Collection[str]) -> bool:
    """Whether names of folders are names of splits, all of them."""
    return bool(names) and all(fold(name) in SPLITS for name in names)


def take_objects(names: Sequence[str]) -> ClassNames:
    """Leave out the names of labels 0 and 255 at both ends of a list, where they shift no label."""
    first, last = 0, len(names)
    while first < last and find_role(names[first]) == "undecided":
        first += 1
    if first < last and find_role(names[first]) == "background":
        first += 1
    while last > first and find_role(names[last - 1]) == "undecided":
        last -= 1
    return ClassNames(tuple(names[first:last]), (*names[:first], *names[last:]))


def find_parts(name: str, others: Sequence[str]) -> tuple[str, ...]:
    """The classes that a name is made of, if it is made of names of other classes alone; else none."""
    parts = [part for part in SEPARATORS.split(name) if part and part.casefold() != "and"]
    known = {fold(other): other for other in others if other != name}
    found = tuple(known[fold(part)] for part in parts if fold(part) in known)
    return found if len(found) == len(parts) > 1 else ()


def find_similar(name: str, others: Sequence[str]) -> str | None:
    """The name that was probably meant: one edit away, two for a name of eight letters or more; None if none is."""
    folded = fold(name)
    limit = 2 if len(folded) >= 8 else 1
    near = [(distance, other) for other in others if (distance := _measure(folded, fold(other), limit)) <= limit]
    return min(near)[1] if near else None


def _measure(first: str, second: str, limit: int) -> int:
    """The number of letters to insert, remove, replace or swap; above `limit` any larger number."""
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: list[int] = []
    line = list(range(len(second) + 1))
    for row, left in enumerate(first, 1):
        earlier, before, line = before, line, [row]
        for column, right in enumerate(second, 1):
            cost = min(before[column] + 1, line[-1] + 1, before[column - 1] + (left != right))
            swapped = row > 1 and column > 1 and left == second[column - 2] and first[row - 2] == right
            line.append(min(cost, earlier[column - 2] + 1) if swapped else cost)
    return line[-1]
