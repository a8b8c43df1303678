"""Datasets of one's own: a folder of photographs, a table of tags, and masks if there are any.

images/cow_1.jpg, images/trip/day2.png, ...     photographs; without `images`, those of the only folder or of the root
tags.csv                                        tags of each (see `rca.data.formats.tables`), perhaps with a `split`
classes.txt                                     names of the classes in label order; by default the sorted tags
masks/cow_1.png, masks/trip/day2.png, ...       of any images: 0 background, n the n-th class, 255 ignore
labelmap.txt                                    the classes' colours, if masks hold colours
saliency/cow_1.png, ...                         of any images

In place of `tags.csv`, an export of CVAT or Label Studio may give the tags (see `rca.data.formats.tag_exports`).
Without either, a photograph's tag is the folder that it lies in: `cat/1.jpg` or `images/cat/1.jpg`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pydantic import Field

from rca.core.errors import UserError
from rca.data.base import BaseDatasetSettings
from rca.data.faults import Fault, count
from rca.data.formats.class_folders import find_class_folders
from rca.data.formats.colours import choose_classes, find_mask
from rca.data.formats.files import Index, check_folder, drop_suffix, find_pictures, index_pictures
from rca.data.formats.photographs import IMAGES, Photographs, find_photographs, note_unread
from rca.data.formats.splitting import is_held_out, propose_seed
from rca.data.formats.tables import TagRow, read_table
from rca.data.formats.tag_exports import list_exports, read_export
from rca.data.formats.tool_names import Matched, compare_masks, drop_ending, find_name
from rca.data.ids import compose
from rca.data.listing import DRAWN, Entry, Listing

TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
"""Suffixes of tables, one of which may be meant for `tags.csv`."""


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


class Rows(NamedTuple):
    """All images of a folder.

    Attributes:
        photographs: Where they lie.
        source: The table, or the folder of the class folders.
        images: What each line or photograph says.
        notes: What was left out, in sentences.
        faults: Names that mean two files.
    """

    photographs: Photographs
    source: Path
    images: list[Row]
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]


def list_folder(root: Path, settings: FolderSettings, drawn: Path = DRAWN) -> Listing:
    """List a folder of photographs.

    Args:
        root: The folder of `images` and `tags.csv`, or of class folders.
        settings: How it is split.
        drawn: The folder for masks that are decoded from colours.

    Raises:
        UserError: the table of tags is missing or broken.
    """
    names = choose_classes(root)
    found = _read_rows(root, settings, names.classes if names else ())
    rows, repeats = _drop_repeats(found.source, found.images)
    tags = sorted({tag for row in rows for tag in row.tags})
    saliency = settings.saliency and check_folder(root, settings.saliency, "dataset.saliency")
    stems = {row.stem for row in rows} | found.photographs.pictures.keys()
    masks = drop_ending(index_pictures(root / "masks"), stems)
    maps = drop_ending(index_pictures(root / (saliency or "saliency")), stems)
    entries, unused = [], []
    for row in sorted(rows, key=lambda row: row.id):
        splits = _choose_splits(row, settings)
        if not splits:
            unused.append(row)
            continue
        mask, draw = find_mask(
            root, drawn, row.id, _find_first("masks", masks.files, row.stem), names and names.colours
        )
        entries.append(
            Entry(
                id=row.id,
                image=row.file,
                mask=mask,
                saliency=_find_first(saliency or "saliency", maps.files, row.stem),
                tags=row.tags,
                splits=splits,
                draw=draw,
            )
        )
    return Listing(
        names.classes if names else tuple(tags),
        tuple(entries),
        (
            *(names.notes if names else _note_order(root, tags, masks.files)),
            *found.notes,
            *_list_notes(root, found, rows, unused, settings, masks),
        ),
        (*repeats, *found.faults, *(names.faults if names else ()), *compare_masks(root, masks.files, stems)),
        lists=dict.fromkeys(settings.splits, found.source),
        class_list=names.source if names else found.source,
        derived=names is None,
    )


def _find_first(folder: str, index: Index, stem: str) -> str | None:
    return f"{folder}/{index[stem][0]}" if stem in index else None


def _note_order(root: Path, tags: list[str], masks: Index) -> Iterator[str]:
    """Whoever draws masks without naming the classes must know which labels they are taken for."""
    if masks and tags:
        some = ", ".join(f"{label} {tag}" for label, tag in enumerate(tags[:3], 1)) + (", ..." if tags[3:] else "")
        yield f"{root / 'classes.txt'} does not exist, so the masks' labels are taken for the sorted tags: {some}."


def _drop_repeats(table: Path, rows: Iterable[Row]) -> tuple[list[Row], tuple[Fault, ...]]:
    """The first line of each image, and a fault for each further one."""
    first: dict[str, Row] = {}
    repeats = []
    for row in rows:
        if first.setdefault(row.id, row) is not row:
            repeats.append(Fault("repeated id", str(table), f"{table} names the image {row.id} twice", row.id))
    return list(first.values()), tuple(repeats)


def _read_rows(root: Path, settings: FolderSettings, classes: tuple[str, ...]) -> Rows:
    """Read `tags.csv` or, where there is none, an annotation tool's export or else the class folders.

    An image in a folder below `images` is named with that folder, and `--` replaces the slash in its id. Suffixes are
    optional.

    Raises:
        UserError: there is none, or what there is is broken.
    """
    path = root / "tags.csv"
    exports = list_exports(root)
    if path.exists() or exports:
        photographs = find_photographs(root, _list_others(settings))
        folder, index = photographs
    if path.exists():
        table = read_table(path, classes)
    elif exports:
        path, table = exports[0], read_export(exports, index)
    else:
        try:
            folders = find_class_folders(root, settings.splits, _list_others(settings))
            if folders is None:
                raise UserError(f"{path} does not exist, and no class folders (cat/1.jpg, ...): add one of the two.")
        except UserError:
            places = (one for place in (root, root / IMAGES) if place.is_dir() for one in sorted(place.iterdir()))
            other = next((one for one in places if one.suffix.lower() in TABLES), None)
            if other is None:
                _name_other_json(root)
                raise
            raise UserError(f"{path} does not exist, but {other} is there: save it as {path}.") from None
        rows = [_place(row, folders.folder, row.name) for row in folders.rows]
        return Rows(Photographs(folders.folder, {}), root / folders.folder, rows, (), ())
    images, faults, moved = [], list(table.faults), []
    for row in table.rows:
        name = PurePosixPath(row.name).as_posix()
        files = find_pictures(index, name)
        if not files:
            name = find_name(row.name, index)
            files = find_pictures(index, name)
            moved += [row.name] * bool(files)
        images.append(_place(row, folder, files[0] if files else _guess_file(path, row)))
        if len(files) > 1:
            statement = f"{path}, line {row.line}: {row.name} may be {' or '.join(files)}"
            faults.append(Fault("ambiguous name", str(path), statement, images[-1].id))
    if folder != IMAGES and not any((root / image.file).is_file() for image in images):
        raise UserError(
            f"{root / IMAGES} does not exist, and no image in {path} is elsewhere: put the photographs there."
        )
    unread = (f"{export} is not read, since there is {path.name}." for export in exports if export != path)
    notes = [*table.notes, *unread]
    if moved:
        notes.append(f"{path}: {count(len(moved), 'name')} found by less than is given ({moved[0]}).")
    return Rows(photographs, path, images, tuple(notes), tuple(faults))


def _name_other_json(root: Path) -> None:
    """Refuse an annotation tool's own JSON by its name, where nothing else gives tags.

    Raises:
        UserError: there is such a file in the root or beside the photographs.
    """
    places = (one for place in (root, root / IMAGES) if place.is_dir() for one in sorted(place.glob("*.json")))
    other = next((one for one in places if not one.name.startswith(".")), None)
    if other is not None:
        raise UserError(
            f"{root / 'tags.csv'} does not exist, and {other} is not read: export it as COCO, or as a table."
        )


def _place(row: TagRow, folder: str, file: str) -> Row:
    stem = compose(drop_suffix(file))
    return Row(stem.replace("/", "--"), stem, f"{folder}/{file}".removeprefix("/"), row.tags, row.splits)


def _list_others(settings: FolderSettings) -> set[str]:
    """The folders that hold no photographs of the dataset's own."""
    sources = (source.path or name for name, source in settings.sources.items())
    folders = {"masks", "saliency", *filter(None, (settings.saliency, settings.segments)), *sources}
    return {PurePosixPath(folder).parts[0] for folder in folders}


def _guess_file(path: Path, row: TagRow) -> str:
    """The file that the check will report missing.

    Raises:
        UserError: it would lie outside of the photographs' folder.
    """
    name = PurePosixPath(row.name).as_posix()
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{path}, line {row.line}: {row.name!r} is no file below images: correct the id.")
    return name if drop_suffix(name) != name else f"{name}.jpg"


def _choose_splits(row: Row, settings: FolderSettings) -> tuple[str, ...]:
    if row.splits:
        return tuple(split for split in settings.splits if split in row.splits)
    held_out = len(settings.splits) > 1 and is_held_out(row.id, settings.held_out, settings.seed)
    return (settings.splits[held_out],)


def _list_notes(
    root: Path, found: Rows, rows: list[Row], unused: list[Row], settings: FolderSettings, masks: Matched
) -> Iterator[str]:
    folder, index = found.photographs
    if unused:
        others = ", ".join(sorted({split for row in unused for split in row.splits})[:5])
        yield f"{count(len(unused), 'image')} of no split in dataset.splits, but of {others}, left out."
    listed = {row.file for row in rows}
    extra = [file for files in index.values() for one in files if (file := f"{folder}/{one}".lstrip("/")) not in listed]
    if extra:
        yield f"{len(extra)} photographs ({root / min(extra)}, ...) are not in {found.source.name} and are left out."
    drawn = {row.id: row.tags for row in rows if not row.splits}
    if folder:
        yield from note_unread(root, {folder, *_list_others(settings)})
    for split in settings.splits if drawn else ():
        if (root / f"{split}.txt").is_file():
            yield f"{root / f'{split}.txt'} is not read: give {found.source.name} a column named split."
    if masks.ending:
        yield f"{root / 'masks'}: masks have the names of their images with {masks.ending!r} behind."
    without = sorted(masks.files.keys() - {row.stem for row in rows})
    if without:
        first = root / "masks" / masks.files[without[0]][0]
        yield f"{len(without)} masks ({first}, ...) belong to no image and are left out."
    if drawn and len(settings.splits) > 1:
        better = propose_seed(drawn, settings.held_out, settings.seed)
        if better is not None:
            yield f"Splits are drawn by chance: dataset.seed {better} splits the classes more evenly."
