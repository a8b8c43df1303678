"""Datasets in the layout of PASCAL VOC 2012: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/*.txt`.

Tags are the classes present in the masks, as the field derives them (methods that say otherwise name their source).
"""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from rca.artifacts import IGNORE, hash_file, read_mask, read_photograph
from rca.data.manifest import ImageRecord, Manifest
from rca.errors import UserError
from rca.progress import track
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


@dataclass(frozen=True)
class _Entry:
    """An image on the lists, before its files were looked at."""

    id: str
    image: str
    mask: str
    splits: tuple[str, ...]


def read_voc(root: Path, settings: VocSettings, workers: int = 1) -> Manifest:
    """Read and check a dataset in VOC layout; every photograph and mask is decoded once.

    Args:
        root: The directory that holds `JPEGImages`.
        settings: Which lists, masks and classes to read.
        workers: How many processes decode.

    Raises:
        UserError: a folder, list, photograph or mask is missing or broken, or a mask is of another size than its
            photograph or holds an unknown label.
    """
    if not (root / "JPEGImages").is_dir():
        raise UserError(f"{root} is no dataset in VOC layout (it has no folder JPEGImages): link the dataset there.")
    classes = VOC_CLASSES if settings.classes == "voc" else _read_lines(root / "classes.txt")
    entries = _find_entries(root, settings)
    read = partial(_read_entry, root, len(classes))
    if workers == 1:
        records = tuple(track(map(read, entries), "reading images", len(entries)))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
            records = tuple(track(pool.map(read, entries, chunksize=16), "reading images", len(entries)))
    return Manifest(root, tuple(classes), records)


def _read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: add it, or take it out of the settings of the dataset.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from None


def _find_entries(root: Path, settings: VocSettings) -> list[_Entry]:
    """All images on the lists, ordered by id."""
    splits: dict[str, list[str]] = {}
    for split in settings.splits:
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        names = _read_lines(path)
        if not names:
            raise UserError(f"{path} is empty: list at least one image, or take {split} out of dataset.splits.")
        for name in dict.fromkeys(names):  # a name that is listed twice is one image
            splits.setdefault(name, []).append(split)
    return [
        _Entry(
            name,
            _find_file(root, ("JPEGImages",), name, (".jpg", ".png", ".jpeg")),
            _find_file(root, settings.masks, name, (".png",)),
            tuple(splits[name]),
        )
        for name in sorted(splits)
    ]


def _find_file(root: Path, folders: Iterable[str], name: str, suffixes: Iterable[str]) -> str:
    candidates = [f"{folder}/{name}{suffix}" for folder in folders for suffix in suffixes]
    for candidate in candidates:
        if (root / candidate).is_file():
            return candidate
    raise UserError(f"{root / candidates[0]} does not exist: restore it or take {name} off the lists.")


def _read_entry(root: Path, classes: int, entry: _Entry) -> ImageRecord:
    photograph = read_photograph(root / entry.image)
    mask = read_mask(root / entry.mask)
    if mask.shape != photograph.shape[:2]:
        sizes = f"{mask.shape[1]}x{mask.shape[0]}, its photograph {photograph.shape[1]}x{photograph.shape[0]}"
        raise UserError(f"The mask {root / entry.mask} is {sizes}: make them the same size.")
    labels = np.unique(mask)
    unknown = labels[(labels > classes) & (labels != IGNORE)]
    if len(unknown):
        raise UserError(
            f"The mask {root / entry.mask} holds the label {unknown[0]}, but there are {classes} classes: "
            "mend the mask or add the class."
        )
    tags = tuple(int(label) - 1 for label in labels if label not in (0, IGNORE))
    height, width = mask.shape
    return ImageRecord(
        entry.id, entry.image, entry.mask, width, height, tags, entry.splits, "main", hash_file(root / entry.image)
    )
