"""Datasets of one's own: a folder of photographs, a table of tags, and masks if there are any.

images/cow_1.jpg, images/trip/day2.png, ...     photographs
tags.csv                                        columns `id`, `tags` (separated by `;`) and optionally `split`
classes.txt                                     names of the classes in label order; by default the sorted tags
masks/cow_1.png, masks/trip/day2.png, ...       of any images: 0 background, n the n-th class, 255 ignore
saliency/cow_1.png, ...                         of any images
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from rca.core.errors import UserError
from rca.data.base import BaseDatasetSettings
from rca.data.faults import Fault
from rca.data.formats.files import MAPS, PHOTOGRAPHS, check_folder, find_file, read_lines, read_text
from rca.data.formats.splitting import is_held_out, propose_seed
from rca.data.listing import Entry, Listing


class FolderSettings(BaseDatasetSettings):
    """How a folder of photographs is split.

    Attributes:
        format: The layout.
        splits: The splits. An image without a split in `tags.csv` goes to the second one by chance, else to the first.
        held_out: The share of those images that go to the second split, 0..1.
        seed: The seed of that choice; `rca check` proposes the one that splits the classes most evenly.
    """

    format: Literal["folder"]
    splits: tuple[str, ...] = Field(default=("train", "val"), min_length=1)
    held_out: float = Field(default=0.2, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Row:
    """A line of `tags.csv`.

    Attributes:
        id: The image's id.
        stem: Its file in `images`, without the suffix.
        file: Its file, relative to the root.
        tags: Its tags.
        splits: Its splits; empty if the table gives none.
    """

    id: str
    stem: str
    file: str
    tags: tuple[str, ...]
    splits: tuple[str, ...]


def list_folder(root: Path, settings: FolderSettings) -> Listing:
    """List a folder of photographs.

    Args:
        root: The folder of `images` and `tags.csv`.
        settings: How it is split.

    Raises:
        UserError: the table of tags is missing or broken.
    """
    table = root / "tags.csv"
    rows, repeats = _drop_repeats(table, read_rows(table))
    class_list = root / "classes.txt"
    tags = sorted({tag for row in rows for tag in row.tags})
    classes = tuple(read_lines(class_list) if class_list.exists() else tags)
    saliency = settings.saliency and check_folder(root, settings.saliency, "dataset.saliency")
    entries, unused = [], 0
    for row in sorted(rows, key=lambda row: row.id):
        splits = _choose_splits(row, settings)
        if not splits:
            unused += 1
            continue
        entries.append(
            Entry(
                id=row.id,
                image=row.file,
                mask=find_file(root, ("masks",), row.stem, MAPS),
                saliency=find_file(root, (saliency or "saliency",), row.stem, MAPS),
                tags=row.tags,
                splits=splits,
            )
        )
    return Listing(
        classes,
        tuple(entries),
        tuple(_list_notes(root, rows, unused, settings)),
        repeats,
        lists=dict.fromkeys(settings.splits, table),
        class_list=class_list if class_list.exists() else table,
    )


def _drop_repeats(table: Path, rows: Iterable[Row]) -> tuple[list[Row], tuple[Fault, ...]]:
    """The first line of each image, and a fault for each further one."""
    first: dict[str, Row] = {}
    repeats = []
    for row in rows:
        if first.setdefault(row.id, row) is not row:
            repeats.append(Fault("repeated id", str(table), f"{table} names the image {row.id} twice", row.id))
    return list(first.values()), tuple(repeats)


def read_rows(path: Path) -> list[Row]:
    """Read `tags.csv`, which lies in the dataset's root.

    An image in a folder below `images` is named with that folder, and `--` replaces the slash in its id. Suffixes are
    optional.

    Raises:
        UserError: the table is missing or broken.
    """
    try:
        table = list(csv.DictReader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV ({error}): correct it.") from None
    if not table:
        raise UserError(f"{path} is empty: give it the columns id and tags, and a line for each image.")
    for column in ("id", "tags"):
        if column not in table[0]:
            known = ", ".join(str(name) for name in table[0])
            raise UserError(f"{path} lacks the column {column} (it has {known}): name the columns in its first line.")
    return [_read_row(path.parent, path, number, line) for number, line in enumerate(table, 2)]


def _read_row(root: Path, path: Path, number: int, line: dict[str, str | None]) -> Row:
    if None in line or None in line.values():
        raise UserError(f"{path}, line {number}, has another number of cells than the first line: correct it.")
    name = str(line["id"]).strip()
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise UserError(f"{path}, line {number}: {name!r} is no file below images: correct the id.")
    if name.endswith(PHOTOGRAPHS) and (root / "images" / name).is_file():
        name, file = name.rpartition(".")[0], f"images/{name}"
    else:
        file = find_file(root, ("images",), name, PHOTOGRAPHS) or f"images/{name}{PHOTOGRAPHS[0]}"
    return Row(name.replace("/", "--"), name, file, _split(line["tags"]), _split(line.get("split")))


def _split(cell: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (cell or "").split(";") if part.strip())


def _choose_splits(row: Row, settings: FolderSettings) -> tuple[str, ...]:
    if row.splits:
        return tuple(split for split in settings.splits if split in row.splits)
    held_out = len(settings.splits) > 1 and is_held_out(row.id, settings.held_out, settings.seed)
    return (settings.splits[held_out],)


def _list_notes(root: Path, rows: list[Row], unused: int, settings: FolderSettings) -> Iterator[str]:
    if unused:
        yield f"{unused} images belong to no split in dataset.splits and are left out."
    listed = {row.file for row in rows}
    photographs = [path for path in (root / "images").rglob("*") if path.suffix in PHOTOGRAPHS]
    extra = [path for path in photographs if path.relative_to(root).as_posix() not in listed]
    if extra:
        yield f"{len(extra)} photographs ({min(extra)}, ...) are not in tags.csv and are left out."
    drawn = {row.id: row.tags for row in rows if not row.splits}
    if drawn and len(settings.splits) > 1:
        better = propose_seed(drawn, settings.held_out, settings.seed)
        if better is not None:
            yield f"Splits are drawn by chance: dataset.seed {better} splits the classes more evenly."
