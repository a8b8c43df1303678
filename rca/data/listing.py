"""A dataset as its files list it, before any image is opened: all that a format has to provide.

Paths are as in a manifest (`rca.data.manifest.locate`).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rca.core.arrays import UInt8Array
from rca.data.faults import Fault
from rca.data.ids import is_id, make_id
from rca.data.manifest import MAIN

DRAWN = Path("drawn")
"""The folder for drawn masks, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image on the lists of a dataset.

    Attributes:
        id: Its name, unique in the dataset.
        image: The photograph's path.
        mask: The true mask's path; None if there is none.
        saliency: The saliency map's path; None if there is none.
        tags: Names of the classes that it shows; None to take them from the mask.
        kept: Names of the classes that it shows besides those in the mask, such as of a box without a shape.
        objects: How many objects of each class are annotated, if the annotations tell objects apart.
        splits: The splits that it belongs to.
        source: The source that it comes from.
        weight: Its weight in training, above 0; 1 for the dataset's own images.
        draw: Draws the mask (H, W), uint8, if the dataset does not store it as a picture; `mask` is then the file to
            write it to. Worker processes call it, so it must be small and picklable.
    """

    id: str
    image: str
    mask: str | None = None
    saliency: str | None = None
    tags: tuple[str, ...] | None = None
    splits: tuple[str, ...] = ()
    source: str = MAIN
    weight: float = 1.0
    draw: Callable[[], UInt8Array] | None = None
    kept: tuple[str, ...] = ()
    objects: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Listing:
    """A dataset as listed.

    Attributes:
        classes: Names of the C object classes; label 0 is the background, label n is `classes[n - 1]`.
        entries: The images, ordered by id.
        notes: What was left out and why, in sentences.
        faults: What is wrong with the lists. An image with an error there counts as one with a broken file.
        lists: The file that lists the images of each split, by split.
        class_list: The file that names the classes; None if the format defines them.
        derived: Whether the classes are the tags that occur, and no list names them.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    lists: Mapping[str, Path] = field(default_factory=dict)
    class_list: Path | None = None
    derived: bool = False


def name_drawn(folder: Path, image_id: str) -> str:
    """The path of a drawn mask, for a listed image.

    Args:
        folder: The folder for drawn masks, absolute or relative to the working directory.
        image_id: The image's id.
    """
    path = (folder / f"{image_id}.png").as_posix()
    return path if folder.is_absolute() else f"./{path}"


def rename_images(listing: Listing, drawn: Path) -> Listing:
    """Give images whose names cannot be ids one that can, with a note; names that would become the same are kept.

    Args:
        listing: The dataset as its files name it.
        drawn: The folder for drawn masks.
    """
    names = {entry.id: make_id(entry.id) for entry in listing.entries}
    uses = Counter(names.values())
    new = {name: made for name, made in names.items() if name != made and uses[made] == 1 and is_id(made)}
    if not new:
        return listing

    def rename(entry: Entry) -> Entry:
        name = new.get(entry.id, entry.id)
        return replace(entry, id=name, mask=name_drawn(drawn, name) if entry.draw else entry.mask)

    first = min(new)
    number = "1 image has a name" if len(new) == 1 else f"{len(new)} images have names"
    return replace(
        listing,
        entries=tuple(sorted(map(rename, listing.entries), key=lambda entry: entry.id)),
        notes=(*listing.notes, f"{number} of other characters than an id's: {first!r} is called {new[first]}."),
        faults=tuple(replace(fault, id=new.get(fault.id, fault.id)) for fault in listing.faults),
    )
