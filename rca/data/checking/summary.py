"""What was understood of a dataset: counts of each class by tags, masks, objects and pixels, and images to look at."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rca.core.files import IGNORE
from rca.data.checking.reading import Reading
from rca.data.listing import Entry, Listing

SAMPLES = 6


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs in a split.

    Attributes:
        name: The class.
        label: Its label in masks, 1..C.
        by_tag: Images that have it as a tag.
        by_mask: Images whose mask shows it.
        objects: Annotated objects, where the annotations tell them apart.
        pixels: Pixels of it in the masks.
    """

    name: str
    label: int
    by_tag: int
    by_mask: int
    objects: int
    pixels: int


@dataclass(frozen=True)
class SplitCount:
    """What a split holds, images with errors included.

    Attributes:
        name: The split, or an extra source.
        images: Its images.
        masks: Images with a mask that can be read.
        classes: The counts of each class, in the order of the labels.
        background: Pixels of label 0.
        undecided: Pixels of label 255.
    """

    name: str
    images: int
    masks: int
    classes: tuple[ClassCount, ...]
    background: int
    undecided: int

    @property
    def pixels(self) -> int:
        """All pixels of the masks with a known label, and the undecided ones."""
        return self.background + self.undecided + sum(one.pixels for one in self.classes)


def count_splits(listing: Listing, readings: Sequence[Reading]) -> tuple[SplitCount, ...]:
    """Count what each split and each extra source holds.

    Args:
        listing: The dataset as listed.
        readings: The reading of each image, in the order of the listing.
    """
    members: dict[str, list[tuple[Entry, Mapping[int, int]]]] = {split: [] for split in listing.lists}
    masks: Counter[str] = Counter()
    for entry, reading in zip(listing.entries, readings, strict=True):
        for split in entry.splits or (f"source {entry.source}",):
            members.setdefault(split, []).append((entry, reading.pixels or {}))
            masks[split] += reading.pixels is not None
    return tuple(_count_split(split, listing.classes, masks[split], members[split]) for split in members)


def _count_split(
    split: str, classes: Sequence[str], masks: int, members: Sequence[tuple[Entry, Mapping[int, int]]]
) -> SplitCount:
    by_tag: Counter[str] = Counter()
    by_mask: Counter[int] = Counter()
    objects: Counter[str] = Counter()
    pixels: Counter[int] = Counter()
    for entry, shown in members:
        by_tag.update(list_tags(entry, shown, classes))
        by_mask.update(shown.keys())
        objects.update(dict(entry.objects))
        pixels.update(shown)
    lines = (
        ClassCount(name, label, by_tag[name], by_mask[label], objects[name], pixels[label])
        for label, name in enumerate(classes, 1)
    )
    return SplitCount(split, len(members), masks, tuple(lines), pixels[0], pixels[IGNORE])


def list_tags(entry: Entry, shown: Mapping[int, int], classes: Sequence[str]) -> set[str]:
    """The tags of an image: those listed, else those of its mask and those kept besides."""
    if entry.tags is not None:
        return set(entry.tags)
    return {classes[label - 1] for label in shown if 0 < label <= len(classes)} | set(entry.kept)


def choose_samples(listing: Listing, readings: Sequence[Reading], number: int = SAMPLES) -> tuple[Entry, ...]:
    """Images with masks that together show many classes: each shows the most that those before it do not."""
    left: dict[frozenset[int], list[Entry]] = defaultdict(list)
    for entry, reading in zip(listing.entries, readings, strict=True):
        if reading.record is not None and reading.pixels is not None:
            left[frozenset(reading.pixels)].append(entry)
    chosen: list[Entry] = []
    seen: set[int] = {0}
    while left and len(chosen) < number:
        labels = max(left, key=lambda labels: (len(labels - seen), len(labels - {0}), sorted(labels)))
        chosen.append(left[labels].pop(0))
        seen |= labels
        if not left[labels]:
            del left[labels]
    return tuple(chosen)
