"""What a dataset says it holds, before any image is opened: the one thing that a format has to tell.

Paths are relative to the dataset's root. Those that begin with `./` are relative to the working directory: there lie
extra sources and masks that were drawn.
"""

from dataclasses import dataclass
from pathlib import Path

MAIN = "main"
"""The source of a dataset's own images."""


@dataclass(frozen=True)
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
    """

    id: str
    image: str
    mask: str | None = None
    saliency: str | None = None
    tags: tuple[str, ...] | None = None
    splits: tuple[str, ...] = ()
    source: str = MAIN
    weight: float = 1.0


@dataclass(frozen=True)
class Listing:
    """A dataset as listed.

    Attributes:
        classes: Names of the C object classes; label 0 is the background, label n is `classes[n - 1]`.
        entries: The images, ordered by id.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]


def locate(root: Path, path: str) -> Path:
    """Where a path of an entry leads."""
    return Path(path) if path.startswith("./") else root / path
