"""Where the photographs of a folder lie: in `images`, or where else its pictures are."""

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rca.core.images import SUFFIXES
from rca.data.formats.files import Index, index_pictures, list_files

IMAGES = "images"


class Photographs(NamedTuple):
    """The photographs of a dataset.

    Attributes:
        folder: Their folder, relative to the root; "" is the root itself.
        pictures: The pictures below it.
    """

    folder: str
    pictures: Index


def find_photographs(root: Path, others: Collection[str]) -> Photographs:
    """Find the folder of photographs: `images` where it exists, else the only folder with pictures, else the root.

    Args:
        root: The dataset's root.
        others: The folders of the root that hold something else.
    """
    folders = {IMAGES} if (root / IMAGES).is_dir() else {*list_folders(root)} - {*others} or {IMAGES}
    if len(folders) == 1:
        (folder,) = folders
        return Photographs(folder, index_pictures(root / folder))
    index = index_pictures(root)
    return Photographs("", {name: files for name, files in index.items() if _find_folder(files[0]) not in others})


def list_folders(root: Path) -> dict[str, int]:
    """The number of pictures below each folder of the root; "" for those in the root itself."""
    numbers: dict[str, int] = {}
    for file in list_files(root):
        if PurePosixPath(file).suffix.lower() in SUFFIXES:
            folder = _find_folder(file)
            numbers[folder] = numbers.get(folder, 0) + 1
    return numbers


def _find_folder(file: str) -> str:
    head, slash, _ = file.partition("/")
    return head if slash else ""


def note_unread(root: Path, known: Collection[str]) -> Iterator[str]:
    """Yield a sentence on each folder of pictures that nothing reads."""
    for folder, number in sorted(list_folders(root).items()):
        if folder and folder not in known:
            pictures = "1 picture" if number == 1 else f"{number} pictures"
            yield f"{root / folder} has {pictures} and is not read: masks belong in masks, saliency maps in saliency."
