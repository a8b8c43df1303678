"""What a dataset says it holds, before any image is opened: the one thing that a format has to tell.

Paths are as in a manifest (`rca.data.manifest.locate`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rca.core.arrays import UInt8Array
from rca.data.faults import Fault
from rca.data.manifest import MAIN


@dataclass(frozen=True, slots=True)
class Entry:
    """One image on the lists.

    Attributes:
        id: Its name, unique in the dataset.
        image: The photograph's path.
        mask: The true mask's path; None where there is none.
        saliency: The saliency map's path; None where there is none.
        tags: Names of the classes that it shows; None where the mask tells.
        splits: The splits that it belongs to; it may be several.
        source: Where it comes from.
        weight: What it counts in a training, above 0; 1 for the dataset's own images.
        draw: Makes the mask (H, W), uint8, where the dataset has it in another form than a picture; `mask` is then the
            file that it is to be written to. A worker process calls it, so it must be small and picklable.
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


@dataclass(frozen=True)
class Listing:
    """A dataset as listed.

    Attributes:
        classes: Names of the C object classes; label 0 is the background, label n is `classes[n - 1]`.
        entries: The images, ordered by id.
        notes: What was left out and why, in sentences.
        faults: What is wrong on the lists themselves. An image with an error there is as one whose file is broken.
        lists: The file that says which images belong to a split, by split.
        class_list: The file that names the classes; None where the format does.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    lists: Mapping[str, Path] = field(default_factory=dict)
    class_list: Path | None = None


def name_drawn(folder: Path, image_id: str) -> str:
    """The path of a mask that is drawn, as an entry has it.

    Args:
        folder: Where drawn masks will lie, absolute or relative to the working directory.
        image_id: The image's.
    """
    path = (folder / f"{image_id}.png").as_posix()
    return path if folder.is_absolute() else f"./{path}"
