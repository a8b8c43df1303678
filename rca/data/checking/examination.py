"""Examine a dataset for faults, image by image and as a whole."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rca.core.errors import UserError
from rca.core.names import is_name
from rca.data.checking.agreement import compare_tags, note_besides, pair_tags
from rca.data.checking.classes import examine_classes, group_by
from rca.data.checking.reading import Reading, read_listing
from rca.data.checking.summary import SplitCount, choose_samples, count_splits
from rca.data.faults import KINDS, Broken, Fault, count
from rca.data.listing import Entry, Listing
from rca.data.manifest import ImageRecord, Manifest, locate

MAX_NAMES = 5  # in a sentence


@dataclass(frozen=True)
class Examination:
    """The result of reading all files of a dataset.

    Attributes:
        manifest: The images without an error.
        faults: All faults, in the order of `KINDS`, and within a kind in that of the listing.
        notes: What was left out, drawn as undecided or renamed, in sentences.
        splits: What each split holds.
        samples: Images to look at.
    """

    manifest: Manifest
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    splits: tuple[SplitCount, ...] = ()
    samples: tuple[Entry, ...] = ()

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that stop the pipeline."""
        return tuple(fault for fault in self.faults if fault.severity == "error")

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The faults that do not."""
        return tuple(fault for fault in self.faults if fault.severity == "warning")

    @property
    def quarantine(self) -> tuple[Fault, ...]:
        """The errors that leave with their images."""
        return tuple(fault for fault in self.errors if fault.of_image)

    def find_stopping(self, broken: Broken) -> tuple[Fault, ...]:
        """The errors that remain after images are treated as `broken` says."""
        return tuple(fault for fault in self.errors if broken == "stop" or not fault.of_image)

    def accept(self, broken: Broken) -> Manifest:
        """The manifest, unless errors remain.

        Args:
            broken: What to do about images with errors.

        Raises:
            UserError: errors remain; it names the first and counts the others.
        """
        stopping = self.find_stopping(broken)
        if stopping:
            first, more = stopping[0].sentence, len(stopping) - 1
            rest = f" (and {count(more, 'more error')}: `rca check` lists them)." if more else "."
            raise UserError(first.removesuffix(".") + rest)
        return self.manifest


def examine(
    root: Path,
    listing: Listing,
    splits: tuple[str, ...],
    published: Mapping[str, int],
    workers: int = 1,
    draw_into: Path | None = None,
) -> Examination:
    """Read all files that a listing names and find everything that is wrong.

    Args:
        root: The dataset's root.
        listing: The dataset as listed.
        splits: The splits of the settings.
        published: The number of images of each split, if the dataset is a published one.
        workers: The number of processes; the result does not depend on it.
        draw_into: The folder to write drawn masks to; None checks them and writes none.
    """
    readings = read_listing(root, listing, workers, draw_into)
    pairs = list(pair_tags(listing, readings))
    against = compare_tags(root, listing, pairs)
    refused = {fault.id for fault in (*listing.faults, *against) if fault.severity == "error" and fault.of_image}
    images: dict[str, ImageRecord] = {}
    for reading in readings:
        if reading.record and reading.record.id not in refused:
            images.setdefault(reading.record.id, reading.record)  # a repeated id is an error
    manifest = Manifest(root, listing.classes, tuple(images.values()))
    faults = [
        *listing.faults,
        *(fault for reading in readings for fault in reading.faults),
        *against,
        *examine_classes(listing, root),
        *_examine_ids(listing, root),
        *_examine_splits(listing, manifest, splits, published),
        *_examine_tags(listing, manifest),
        *_examine_parts(listing, manifest),
        *_find_duplicates(listing, readings, root),
    ]
    order = {kind: position for position, kind in enumerate(KINDS)}
    return Examination(
        manifest,
        tuple(sorted(faults, key=lambda fault: order[fault.kind])),
        (*listing.notes, *note_besides(listing, pairs)),
        count_splits(listing, readings),
        choose_samples(listing, readings),
    )


def _examine_ids(listing: Listing, root: Path) -> Iterator[Fault]:
    """Ids of several images, and ids that some file systems do not tell apart."""
    entries = {entry.id: entry for entry in reversed(listing.entries)}
    for name, times in Counter(entry.id for entry in listing.entries).items():
        if times > 1:
            file = str(locate(root, entries[name].image))
            yield Fault("repeated id", file, f"The id {name} of {file} belongs to {times} images", name)
    for first, *others in group_by(sorted(entries), str.casefold):
        for other in others:
            file = str(locate(root, entries[other].image))
            yield Fault("similar ids", file, f"The id {other} of {file} differs from {first} only in case", other)


def _examine_splits(
    listing: Listing, manifest: Manifest, splits: tuple[str, ...], published: Mapping[str, int]
) -> Iterator[Fault]:
    """Splits that are empty, overlap, or differ from the published ones."""
    listed = {split: {entry.id for entry in listing.entries if split in entry.splits} for split in splits}
    for split, ids in listed.items():
        file = str(listing.lists.get(split, manifest.root))
        if not is_name("split", split):
            yield Fault("unusable split", file, f"{file}: the split {split!r} cannot be a file name")
        if not ids:
            yield Fault("empty split", file, f"No image belongs to the split {split} in {file}")
        elif not any(split in record.splits for record in manifest.images):
            yield Fault("exhausted split", file, f"Every image of the split {split} in {file} has an error")
        wanted = published.get(split, len(ids))
        if ids and len(ids) != wanted:
            statement = f"{file} lists {count(len(ids), 'image')} for the split {split}, the published one has {wanted}"
            yield Fault("unpublished count", file, statement)
    for (first, first_ids), (second, second_ids) in combinations(listed.items(), 2):
        shared = sorted(first_ids & second_ids)
        if shared and not first_ids <= second_ids and not second_ids <= first_ids:
            file = str(listing.lists.get(second, manifest.root))
            some = f"{count(len(shared), 'image')} ({_shorten(shared)})"
            statement = f"{file}: the splits {first} and {second} share {some}, and neither contains the other"
            yield Fault("overlapping splits", file, statement)


def _examine_tags(listing: Listing, manifest: Manifest) -> Iterator[Fault]:
    """Images without tags, splits without any tag, and classes that no image of a split shows."""
    if not manifest.classes:
        return  # reported already
    groups: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in manifest.images:
        for group in record.splits or (f"source {record.source}",):
            groups[group].append(record)
    untagged: dict[str, ImageRecord] = {}
    for group, records in groups.items():
        file = str(listing.lists.get(group, manifest.root))
        seen = {tag for record in records for tag in record.tags}
        if not seen:
            yield Fault("split without tags", file, f"No image of {group} in {file} has a tag")
            continue
        untagged.update((record.id, record) for record in records if not record.tags)
        absent = [name for position, name in enumerate(manifest.classes) if position not in seen]
        if absent and group in listing.lists:
            some = f"{len(absent)} of {len(manifest.classes)} classes ({_shorten(absent)})"
            yield Fault("class without image", file, f"{file}: no image of the split {group} shows {some}")
    for record in sorted(untagged.values(), key=lambda record: record.id):
        file = str(manifest.photograph(record))
        yield Fault("image without tags", file, f"The image {file} has no tag", record.id)


def _examine_parts(listing: Listing, manifest: Manifest) -> Iterator[Fault]:
    """Splits where only some images have a mask or a saliency map."""
    for split, file in listing.lists.items():
        records = [record for record in manifest.images if split in record.splits]
        without = {
            "masks": [record.id for record in records if record.mask is None],
            "saliency maps": [record.id for record in records if record.saliency is None],
        }
        for what, ids in without.items():
            if 0 < len(ids) < len(records):
                some = f"{len(ids)} of {len(records)} images of the split {split} have no {what} ({_shorten(ids)})"
                yield Fault(f"{what} for a part", str(file), f"{file}: {some}")


def _find_duplicates(listing: Listing, readings: Iterable[Reading], root: Path) -> Iterator[Fault]:
    """Photographs with the same bytes under several ids."""

    def describe(entry: Entry) -> str:
        return f"{locate(root, entry.image)} ({', '.join(entry.splits) or entry.source})"

    groups: dict[str, dict[str, Entry]] = defaultdict(dict)
    for entry, reading in zip(listing.entries, readings, strict=True):
        if reading.sha256:
            groups[reading.sha256].setdefault(entry.id, entry)
    for group in groups.values():
        earlier: list[Entry] = []
        for entry in group.values():
            splits, file = set(entry.splits), str(locate(root, entry.image))
            apart = [other for other in earlier if splits and other.splits and splits.isdisjoint(other.splits)]
            if apart:
                statement = f"The photographs {describe(entry)} and {describe(apart[0])} are the same, in two splits"
                yield Fault("leaked photograph", file, statement, entry.id)
            elif earlier:
                statement = f"The photographs {describe(entry)} and {describe(earlier[0])} are the same"
                yield Fault("duplicate photograph", file, statement, entry.id)
            earlier.append(entry)


def _shorten(names: Sequence[str]) -> str:
    """A few names, for a sentence."""
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
