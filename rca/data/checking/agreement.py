"""Hold tags and masks against each other.

A mask that shows none of its image's tags is a fault of that image. Where the labels of most masks go with other tags
than their own, the labels are in another order than the classes: that is one fault of the dataset.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rca.core.files import IGNORE
from rca.data.checking.reading import Reading
from rca.data.faults import Fault, count
from rca.data.listing import Entry, Listing
from rca.data.manifest import locate

# Labels are permuted if so many of the masks that hold one have the other tag, and so many fewer have its own.
AGREED, GAIN = 0.9, 0.25
MOST_NAMED = 4
Pair = tuple[Entry, set[int], set[int]]
"""An image, the labels of its tags, and those that its mask shows."""


def compare_tags(root: Path, listing: Listing, pairs: Sequence[Pair]) -> list[Fault]:
    """The faults of masks and tags that contradict each other.

    Args:
        root: The dataset's root.
        listing: The dataset as listed.
        pairs: From `pair_tags`.
    """
    order = find_order(len(listing.classes), [(tags, shown) for _, tags, shown in pairs])
    faults = []
    if order:
        file = str(listing.class_list or root)
        faults.append(Fault("permuted labels", file, f"{file}: labels look permuted: {_tell(order, listing, pairs)}"))
    for entry, tags, shown in pairs:
        if not tags & {order.get(label, label) for label in shown}:
            faults.append(_blame(root, listing, entry, tags, shown))
    return faults


def note_besides(listing: Listing, pairs: Sequence[Pair]) -> Iterator[str]:
    """A sentence on masks that show a tag of their image and other classes as well, if there are any.

    Args:
        listing: The dataset as listed.
        pairs: From `pair_tags`.
    """
    besides = [(entry, shown - tags) for entry, tags, shown in pairs if tags & shown and shown - tags]
    if besides:
        entry, labels = besides[0]
        shown = _name(labels, listing.classes)
        yield f"{len(besides)} of {count(len(pairs), 'mask')} show classes besides their tags ({entry.id}: {shown})."


def pair_tags(listing: Listing, readings: Sequence[Reading]) -> Iterator[Pair]:
    """The images with tags and a mask that can be held against each other, the labels of both.

    Args:
        listing: The dataset as listed.
        readings: The reading of each image, in the order of the listing.
    """
    classes: dict[str, int] = {}
    for label, name in enumerate(listing.classes, 1):
        classes.setdefault(name, label)
    for entry, reading in zip(listing.entries, readings, strict=True):
        tags = {classes[tag] for tag in entry.tags or () if tag in classes}
        spoiled = any(fault.severity == "error" for fault in reading.faults)
        if not tags or not reading.pixels or spoiled or set(reading.pixels) == {IGNORE}:
            continue  # nothing to compare, or reported already
        shown = set(reading.pixels) - {0, IGNORE}
        if shown or entry.draw is None or IGNORE not in reading.pixels:  # else what is tagged may be undecided
            yield entry, tags, shown


def find_order(classes: int, pairs: Sequence[tuple[set[int], set[int]]]) -> dict[int, int]:
    """The class that each label really stands for, if labels go with other tags than their own.

    Args:
        classes: The number of classes, C.
        pairs: Of each image its tags and the labels in its mask, 1..C.

    Returns:
        The class of each label that goes with another than its own; empty if the labels agree with the tags, or
        disagree without a rule.
    """
    if all(shown <= tags for tags, shown in pairs):
        return {}
    from scipy.optimize import linear_sum_assignment  # takes a second to import, and is seldom needed

    together = np.zeros((classes + 1, classes + 1))
    masks = np.zeros(classes + 1)
    for tags, shown in pairs:
        for label in shown:
            if label <= classes:
                masks[label] += 1
                together[label, list(tags)] += 1
    labels = np.flatnonzero(masks)
    if not len(labels):
        return {}
    # Of equally good orders the one nearest to the labels' own.
    own = np.arange(1, classes + 1)[None, :] == labels[:, None]
    rows, columns = linear_sum_assignment(together[labels, 1:] + 1e-6 * own, maximize=True)
    moved = {int(labels[row]): int(column) + 1 for row, column in zip(rows, columns, strict=True)}
    moved = {label: other for label, other in moved.items() if label != other}
    agreed = sum(together[label, other] for label, other in moved.items())
    own_agreed = sum(together[label, label] for label in moved)
    total = sum(masks[label] for label in moved)
    return moved if total > 1 and agreed >= AGREED * total and agreed - own_agreed >= GAIN * total else {}


def _tell(order: dict[int, int], listing: Listing, pairs: Iterable[Pair]) -> str:
    """Which label goes with which tag, e.g. "1 goes with sheep in 5 of 5 images"."""
    pairs = list(pairs)
    parts = []
    for label, other in sorted(order.items())[:MOST_NAMED]:
        having = [tags for _, tags, shown in pairs if label in shown]
        agreeing = sum(other in tags for tags in having)
        parts.append(f"{label} goes with {listing.classes[other - 1]} in {agreeing} of {len(having)} images")
    return ", ".join(parts) + (", ..." if len(order) > MOST_NAMED else "")


def _blame(root: Path, listing: Listing, entry: Entry, tags: set[int], shown: set[int]) -> Fault:
    classes = listing.classes
    path = locate(root, entry.mask or "") if entry.draw is None else locate(root, entry.image)
    statement = (
        f"The mask of {entry.id}, {path}, shows {_name(shown, classes)}, but its tags are {_name(tags, classes)}"
    )
    return Fault("mask against tags", str(path), statement, entry.id)


def _name(labels: set[int], classes: Sequence[str]) -> str:
    """Labels with the names of their classes."""
    names = [f"{classes[label - 1]} ({label})" for label in sorted(labels) if label <= len(classes)]
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "") or "no object"
