"""A folder of class folders: `cat/1.jpg`, `dog/2.jpg`, or by split `train/cat/1.jpg`, `val/dog/2.jpg`."""

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rca.core.errors import UserError
from rca.data.formats.files import index_pictures
from rca.data.formats.tables import TagRow
from rca.data.names import are_splits, find_role


class ClassFolders(NamedTuple):
    """Photographs in class folders.

    Attributes:
        folder: The folder of the class folders, below the dataset's root; "" for the root itself.
        rows: A row for each photograph, tagged with the folder that it lies in.
    """

    folder: str
    rows: list[TagRow]


def find_class_folders(root: Path, splits: Collection[str], skipped: Collection[str]) -> ClassFolders | None:
    """Find class folders in `images`, or else in the root itself.

    A folder of the background or of nothing holds photographs without a tag.

    Args:
        root: The dataset's root.
        splits: The names of the splits. If one of them is a folder of folders, all folders beside it are splits too.
        skipped: Folders of the root that hold no classes: masks, maps, extra sources.

    Returns:
        None if there are no photographs.

    Raises:
        UserError: a photograph lies in no class folder, or the folders tell no classes apart.
    """
    folder = "images" if (root / "images").is_dir() else ""
    without = () if folder else skipped
    files = [
        PurePosixPath(file)
        for several in index_pictures(root / folder).values()
        for file in several
        if PurePosixPath(file).parts[0] not in without
    ]
    by_split = any(file.parts[0] in splits and len(file.parts) > 2 for file in files)
    place = 1 if by_split else 0
    loose = sorted(file.as_posix() for file in files if len(file.parts) <= place + 1)
    if loose:
        raise UserError(
            f"{root / 'tags.csv'} does not exist, and {root / folder / loose[0]} lies in no class folder: add the "
            "table, or put each photograph into the folder of its class."
        )
    names = sorted({file.parts[place] for file in files})
    if are_splits(names):
        raise UserError(
            f"{root / folder}: the folders {', '.join(names)} are named like splits, not classes: name them in "
            "dataset.splits, with a folder for each class in them, or add tags.csv."
        )
    if len(names) == 1:
        statement = f"{root / 'tags.csv'} does not exist, and all photographs lie in folders named {names[0]}"
        raise UserError(f"{statement}: add the table, or put them into a folder for each class.")
    rows = [
        TagRow(
            0,
            file.as_posix(),
            (file.parts[place],) if find_role(file.parts[place]) == "object" else (),
            file.parts[:place],
        )
        for file in sorted(files)
    ]
    return ClassFolders(folder, rows) if rows else None
