"""Examine the names of the classes for faults."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rca.data.faults import Fault, count
from rca.data.listing import Listing
from rca.data.names import find_parts, find_role, find_similar, fold

MAX_CLASSES = 254
# A tag is taken for a mistyped one if at most so many images have it, and so many times as many the other.
RARE, TIMES = 3, 10


def examine_classes(listing: Listing, root: Path) -> Iterator[Fault]:
    """Class names that cannot be used, that mean the same class, or that are no class."""
    file = str(listing.class_list or root)
    names = list(dict.fromkeys(listing.classes))
    if not names:
        yield Fault("no class", file, f"{file} names no class")
    if len(names) > MAX_CLASSES:
        yield Fault("too many classes", file, f"{file} names {len(names)} classes")
    for name in names:
        if not name.strip() or ";" in name or name != name.strip() or not name.isprintable():
            yield Fault("unusable class name", file, f"{file} names the class {name!r}")
        elif find_role(name) != "object":
            yield Fault("misleading class", file, f"{file} names the class {name!r} as label {names.index(name) + 1}")
    for name, times in Counter(listing.classes).items():
        if times > 1:
            yield Fault("repeated class", file, f"{file} names the class {name!r} {times} times")
    for first, *others in group_by(names, fold):
        for other in others:
            # As escapes, since the two may look the same.
            shown = f"{first!a} and {other!a}"
            statement = f"{file} names the classes {shown}, which differ only in case, spaces or Unicode form"
            yield Fault("similar classes", file, statement)
    if listing.derived:
        yield from _examine_tags(listing, names, file)


def _examine_tags(listing: Listing, names: list[str], file: str) -> Iterator[Fault]:
    """Tags that look like several tags, or like a mistyped one; where a list names the classes these are unknown."""
    images = Counter(tag for entry in listing.entries for tag in dict.fromkeys(entry.tags or ()))
    for name in names:
        parts = find_parts(name, names)
        if parts:
            statement = f"{file}: the class {name!r} ({count(images[name], 'image')}) is made of {', '.join(parts)}"
            yield Fault("joined classes", file, statement)
        elif 0 < images[name] <= RARE:
            frequent = [other for other in names if images[other] >= TIMES * images[name]]
            meant = find_similar(name, [other for other in frequent if fold(other) != fold(name)])
            if meant is not None:
                both = f"{count(images[name], 'image')}; did you mean {meant} ({count(images[meant], 'image')})?"
                yield Fault("rare class", file, f"{file}: {name}: {both}")


def group_by(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """The groups of two names or more with the same key, in order."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return [members for members in groups.values() if len(members) > 1]
