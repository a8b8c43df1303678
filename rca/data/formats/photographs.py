"""Where the photographs of a folder lie: in `images`, or where else its pictures are."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from rca.data.faults import count
from rca.data.formats.files import Index, index_pictures

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
    if (root / IMAGES).is_dir():
        return Photographs(IMAGES, index_pictures(root / IMAGES))
    found = {name: files for name, files in index_pictures(root).items() if _find_folder(files[0]) not in others}
    folders = {_find_folder(files[0]) for files in found.values()} or {IMAGES}
    if len(folders) > 1 or "" in folders:
        return Photographs("", found)
    (folder,) = folders
    return Photographs(folder, index_pictures(root / folder))


def _find_folder(file: str) -> str:
    head, slash, _ = file.partition("/")
    return head if slash else ""


def note_unread(root: Path, known: Collection[str]) -> Iterator[str]:
    """Yield a sentence on each folder of pictures that nothing reads."""
    for place in sorted(root.iterdir()):
        number = 0
        if place.is_dir() and place.name not in known and not place.name.startswith("."):
            number = sum(map(len, index_pictures(place).values()))
        if number:
            pictures = count(number, "picture")
            yield f"{place} has {pictures} and is not read: masks belong in masks, saliency maps in saliency."
