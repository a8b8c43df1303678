"""The dataset formats: each has a settings class and a function that lists a dataset's images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rca.core.errors import UserError
from rca.core.settings import Settings, build_settings
from rca.data.checking.examination import Examination, examine
from rca.data.formats.coco import CocoSettings, list_coco
from rca.data.formats.folder import FolderSettings, list_folder
from rca.data.formats.published import get_published_counts
from rca.data.formats.sources import list_source
from rca.data.formats.voc import VocSettings, list_voc
from rca.data.listing import DRAWN, Listing, rename_images
from rca.data.manifest import Manifest

DatasetSettings = Annotated[VocSettings | CocoSettings | FolderSettings, Field(discriminator="format")]


class _Section(Settings):
    dataset: DatasetSettings


def build_dataset_settings(data: object, source: Path | str) -> VocSettings | CocoSettings | FolderSettings:
    """Turn the plain section `dataset` into the settings of its format.

    Args:
        data: The plain data.
        source: The params file, for the message.

    Raises:
        UserError: an unknown format or key, a missing key, a wrong type or a value out of range.
    """
    return build_settings(_Section, {"dataset": data}, "", source).dataset


def list_dataset(root: Path, settings: DatasetSettings, drawn: Path = DRAWN) -> Listing:
    """List a dataset and its extra sources, without opening an image.

    Args:
        root: The dataset's root.
        settings: Its format and files.
        drawn: The folder for drawn masks, as paths in the manifest name it.

    Raises:
        UserError: the root is missing, or its lists are missing or broken.
    """
    if not root.is_dir():
        raise UserError(f"The dataset's root {root} does not exist: link it with `rca preset`, or put the data there.")
    match settings:
        case VocSettings():
            listing = list_voc(root, settings, drawn)
        case CocoSettings():
            listing = list_coco(root, settings, drawn)
        case FolderSettings():
            listing = list_folder(root, settings, drawn)

    listings = [listing, *(list_source(root, name, source) for name, source in settings.sources.items())]
    whole = replace(
        listing,
        entries=tuple(sorted((entry for part in listings for entry in part.entries), key=lambda entry: entry.id)),
        notes=tuple(note for part in listings for note in part.notes),
        faults=tuple(fault for part in listings for fault in part.faults),
    )
    return rename_images(whole, drawn)


def examine_dataset(
    root: Path, settings: DatasetSettings, workers: int = 1, *, drawn: Path = DRAWN, draw_into: Path | None = None
) -> Examination:
    """Read every file of a dataset and find everything that is wrong.

    Args:
        root: The dataset's root.
        settings: Its format and files.
        workers: The number of processes; the result does not depend on it.
        drawn: The folder for drawn masks, as paths in the manifest name it.
        draw_into: The folder to write drawn masks to, which must exist; None checks them and writes none.

    Raises:
        UserError: the root is missing, or its lists are missing or broken.
    """
    listing = list_dataset(root, settings, drawn)
    return examine(root, listing, settings.splits, get_published_counts(settings), workers, draw_into)


def read_dataset(
    root: Path,
    settings: DatasetSettings,
    workers: int = 1,
    *,
    drawn: Path = DRAWN,
    draw_into: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Read a dataset for use.

    Args:
        root: The dataset's root.
        settings: Its format and files.
        workers: The number of processes; the result does not depend on it.
        drawn: The folder for drawn masks, as paths in the manifest name it.
        draw_into: The folder to write drawn masks to, which must exist; None checks them and writes none.
        report: Takes a sentence on each thing that was left out.

    Raises:
        UserError: the root is missing, or errors remain that cannot be left out with an image.
    """
    examination = examine_dataset(root, settings, workers, drawn=drawn, draw_into=draw_into)
    for note in examination.notes:
        report(note)
    return examination.accept(settings.broken)
