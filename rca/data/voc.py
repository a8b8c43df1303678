"""Datasets in the layout of PASCAL VOC 2012: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/*.txt`.

Tags are the classes present in the masks, as the field derives them (methods that say otherwise name their source).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from rca.data.listing import Entry, Listing
from rca.errors import UserError
from rca.settings import Settings

# Everingham et al., The PASCAL Visual Object Classes Challenge 2012, development kit, in label order.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VocSettings(Settings):
    """Where a dataset in VOC layout keeps its parts.

    Attributes:
        name: The dataset's name; it lies at `data/<name>`.
        format: The layout.
        splits: The lists in `ImageSets/Segmentation` to read.
        masks: Folders of masks, in the order in which they are looked in. (VOC's own masks go before SBD's: scores
            on `train` are published on VOC's own.)
        classes: "file" for the lines of `classes.txt`, "voc" for VOC's 20.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    format: Literal["voc"]
    splits: tuple[str, ...] = Field(min_length=1)
    masks: tuple[str, ...] = Field(default=("SegmentationClass",), min_length=1)
    classes: Literal["file", "voc"] = "file"


def list_voc(root: Path, settings: VocSettings) -> Listing:
    """List a dataset in VOC layout.

    Args:
        root: The directory that holds `JPEGImages`.
        settings: Which lists, masks and classes to read.

    Raises:
        UserError: the folder of photographs, a list or the names of the classes are missing or broken.
    """
    if not (root / "JPEGImages").is_dir():
        raise UserError(f"{root} is no dataset in VOC layout (it has no folder JPEGImages): link the dataset there.")
    classes = VOC_CLASSES if settings.classes == "voc" else tuple(read_lines(root / "classes.txt"))
    splits = _read_splits(root, settings)
    entries = tuple(
        Entry(
            id=name,
            image=_find_file(root, ("JPEGImages",), name, (".jpg", ".png", ".jpeg")),
            mask=_find_file(root, settings.masks, name, (".png",)),
            splits=splits[name],
        )
        for name in sorted(splits)
    )
    return Listing(classes, entries)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without spaces around them.

    Raises:
        UserError: the file is missing or no UTF-8.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: add it, or take it out of the settings of the dataset.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from None


def _read_splits(root: Path, settings: VocSettings) -> dict[str, tuple[str, ...]]:
    """The splits of each image on the lists."""
    splits: dict[str, tuple[str, ...]] = {}
    for split in settings.splits:
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        names = read_lines(path)
        if not names:
            raise UserError(f"{path} is empty: list at least one image, or take {split} out of dataset.splits.")
        for name in dict.fromkeys(names):  # a name that is listed twice is one image
            splits[name] = (*splits.get(name, ()), split)
    return splits


def _find_file(root: Path, folders: Iterable[str], name: str, suffixes: Iterable[str]) -> str:
    """The first of an image's possible files that is there; the first of all if none is, so that it is missed."""
    candidates = [f"{folder}/{name}{suffix}" for folder in folders for suffix in suffixes]
    return next((candidate for candidate in candidates if (root / candidate).is_file()), candidates[0])
