"""The manifest, the same for every dataset format: a dataset's images, their files, tags and splits.

On disk it is a directory: `manifest.csv` (a line for each image), `dataset.json` (root and class names),
`statistics.json` (counts), and parts of the table (see `rca.data.partition`).
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from rca.core.arrays import Float32Array
from rca.core.errors import UserError
from rca.core.files import read_json, write_file, write_json

MAIN = "main"
"""The source of a dataset's own images."""

COLUMNS = (
    *("id", "image", "mask", "saliency", "width", "height", "tags", "splits", "source", "weight"),
    *("sha256", "mask_sha256", "saliency_sha256"),
)


@dataclass(frozen=True, slots=True)  # a dataset may have a hundred thousand
class ImageRecord:
    """One photograph.

    Attributes:
        id: Its name, unique in the dataset.
        image: The photograph's path, as `locate` takes it, like the other paths.
        mask: The true mask's path; None if there is none.
        width: In pixels.
        height: In pixels.
        tags: Indices of the classes that it shows, ascending, 0..C-1.
        splits: The splits that it belongs to.
        source: Its source, "main" for the dataset's own images.
        sha256: Checksum of the photograph's file.
        saliency: The saliency map's path; None if there is none.
        weight: Its weight in the losses on tags, above 0: below 1 where the tags may be wrong.
        mask_sha256: Checksum of the mask's file; "" if there is none.
        saliency_sha256: Checksum of the saliency map's file; "" if there is none.
    """

    id: str
    image: str
    mask: str | None
    width: int
    height: int
    tags: tuple[int, ...]
    splits: tuple[str, ...]
    source: str
    sha256: str
    saliency: str | None = None
    weight: float = 1.0
    mask_sha256: str = ""
    saliency_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """A dataset.

    Attributes:
        root: The directory that the records' paths are relative to.
        classes: Names of the C object classes; label 0 is the background, label n is `classes[n - 1]`.
        images: The records, ordered by id.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageRecord, ...]

    def select(self, split: str) -> tuple[ImageRecord, ...]:
        """The images of a split.

        Raises:
            UserError: no image belongs to it.
        """
        chosen = tuple(record for record in self.images if split in record.splits)
        if not chosen:
            known = sorted({name for record in self.images for name in record.splits})
            raise UserError(f"No image belongs to the split {split}: the dataset's splits are {', '.join(known)}.")
        return chosen

    def select_any(self, splits: tuple[str, ...]) -> tuple[ImageRecord, ...]:
        """The images that belong to at least one of `splits`, each once, ordered by id."""
        wanted = {record.id for split in splits for record in self.select(split)}
        return tuple(record for record in self.images if record.id in wanted)

    def select_sources(self, sources: tuple[str, ...]) -> tuple[ImageRecord, ...]:
        """The images of the named sources, in the manifest's order.

        Raises:
            UserError: there is no such source.
        """
        known = sorted({record.source for record in self.images})
        for source in sources:
            if source not in known:
                raise UserError(f"There is no source {source}: the dataset's sources are {', '.join(known) or 'none'}.")
        return tuple(record for record in self.images if record.source in sources)

    @cached_property
    def index(self) -> dict[str, int]:
        """The position of each image id in `images`."""
        return {record.id: position for position, record in enumerate(self.images)}

    def find(self, image_ids: Iterable[str]) -> tuple[ImageRecord, ...]:
        """The records of the named images, in the order of the ids.

        Raises:
            UserError: the dataset lacks one of them.
        """
        image_ids = tuple(image_ids)
        for image_id in image_ids:
            if image_id not in self.index:
                raise UserError(f"The dataset has no image {image_id}, but there are results of it: make them again.")
        return tuple(self.images[self.index[image_id]] for image_id in image_ids)

    def photograph(self, record: ImageRecord) -> Path:
        """The path of a record's photograph."""
        return locate(self.root, record.image)

    def truth(self, record: ImageRecord) -> Path:
        """The path of a record's true mask.

        Raises:
            UserError: it has none.
        """
        if record.mask is None:
            raise UserError(f"The image {record.id} has no mask, so it cannot be scored: choose another split.")
        return locate(self.root, record.mask)

    def saliency(self, record: ImageRecord) -> Path:
        """The path of a record's saliency map.

        Raises:
            UserError: it has none.
        """
        if record.saliency is None:
            raise UserError(f"The image {record.id} has no saliency map: add it, or choose settings that need none.")
        return locate(self.root, record.saliency)

    def check_saliency(self, records: tuple[ImageRecord, ...], what: str) -> None:
        """Check that images have saliency maps.

        Args:
            records: The images.
            what: What uses the maps, for the message.

        Raises:
            UserError: some have none.
        """
        without = [record.id for record in records if record.saliency is None]
        if without:
            raise UserError(
                f"{what} uses saliency maps, but {len(without)} of its {len(records)} images ({without[0]}, ...) have"
                " none: put the maps into a folder of the dataset and name it in dataset.saliency."
            )

    def encode_tags(self, record: ImageRecord) -> Float32Array:
        """A record's tags as (C,) float32 of 0 and 1."""
        encoded = np.zeros(len(self.classes), dtype=np.float32)
        encoded[list(record.tags)] = 1
        return encoded


def locate(root: Path, path: str) -> Path:
    """Resolve a path of a manifest.

    Args:
        root: The dataset's root.
        path: Relative to the root or, if it begins with `./` as drawn masks do, to the working directory.
    """
    return Path(path) if path.startswith("./") else root / path


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a manifest into a directory that exists."""
    write_table(directory / "manifest.csv", manifest.classes, manifest.images)
    write_json(directory / "dataset.json", {"root": manifest.root.as_posix(), "classes": list(manifest.classes)})
    write_json(directory / "statistics.json", summarise(manifest))


def write_table(path: Path, classes: tuple[str, ...], records: Iterable[ImageRecord]) -> None:
    """Write a line for each image, whole or not at all."""
    with write_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in records:
            joined = {"tags": ";".join(classes[tag] for tag in record.tags), "splits": ";".join(record.splits)}
            row = (joined[column] if column in joined else getattr(record, column) for column in COLUMNS)
            writer.writerow("" if value is None else value for value in row)


def read_manifest(directory: Path, *parts: str) -> Manifest:
    """Read a manifest, or parts of it.

    Args:
        directory: The manifest's directory.
        parts: The tables to read, e.g. `splits/train`; none for all images.

    Raises:
        UserError: a file is missing or corrupt.
    """
    dataset = read_json(directory / "dataset.json")
    classes = tuple(dataset["classes"])
    tables = [_read_table(directory / f"{part}.csv", classes) for part in parts or ("manifest",)]
    return Manifest(Path(dataset["root"]), classes, tuple(record for table in tables for record in table))


def _read_table(path: Path, classes: tuple[str, ...]) -> tuple[ImageRecord, ...]:
    position = {name: index for index, name in enumerate(classes)}

    # Shared values are kept once: without that, a large manifest takes half as much memory again.
    @cache
    def split(text: str) -> tuple[str, ...]:
        return tuple(map(sys.intern, text.split(";"))) if text else ()

    @cache
    def find(text: str) -> tuple[int, ...]:
        return tuple(position[tag] for tag in split(text))

    number = cache(float)

    try:
        with open(path, newline="", encoding="utf-8") as file:
            return tuple(
                ImageRecord(
                    id=row["id"],
                    image=row["image"],
                    mask=row["mask"] or None,
                    width=int(row["width"]),
                    height=int(row["height"]),
                    tags=find(row["tags"]),
                    splits=split(row["splits"]),
                    source=sys.intern(row["source"]),
                    sha256=row["sha256"],
                    saliency=row["saliency"] or None,
                    weight=number(row["weight"]),
                    mask_sha256=row["mask_sha256"],
                    saliency_sha256=row["saliency_sha256"],
                )
                for row in csv.DictReader(file)
            )
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run prepare_data first.") from None
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} is corrupt: run prepare_data again.") from None


class SplitStatistics(TypedDict):
    """Counts of a split's images: of all, of those with a true mask, by class, and by number of tags."""

    images: int
    with_mask: int
    images_per_class: dict[str, int]
    images_per_number_of_tags: dict[str, int]


class Statistics(TypedDict):
    """Counts of a dataset's images: of all, by split, and by extra source where there is one."""

    images: int
    splits: dict[str, SplitStatistics]
    sources: NotRequired[dict[str, int]]


def summarise(manifest: Manifest) -> Statistics:
    """Count a dataset's images, to tell whether it is what one thinks it is."""
    sources = Counter(record.source for record in manifest.images if record.source != MAIN)
    splits = sorted({split for record in manifest.images for split in record.splits})
    statistics: Statistics = {
        "images": len(manifest.images),
        "splits": {split: _summarise_split(manifest, split) for split in splits},
    }
    if sources:
        statistics["sources"] = {source: sources[source] for source in sorted(sources)}
    return statistics


def _summarise_split(manifest: Manifest, split: str) -> SplitStatistics:
    records = manifest.select(split)
    per_class = Counter(tag for record in records for tag in record.tags)
    per_count = Counter(len(record.tags) for record in records)
    return {
        "images": len(records),
        "with_mask": sum(record.mask is not None for record in records),
        "images_per_class": {name: per_class[index] for index, name in enumerate(manifest.classes)},
        "images_per_number_of_tags": {str(count): per_count[count] for count in sorted(per_count)},
    }
