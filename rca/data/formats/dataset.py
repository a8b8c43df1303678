"""The dataset formats: each is a settings class and a function that lists what a dataset holds."""

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
from rca.data.listing import Listing
from rca.data.manifest import Manifest

DatasetSettings = Annotated[VocSettings | CocoSettings | FolderSettings, Field(discriminator="format")]

DRAWN = Path("drawn")


class _Section(Settings):
    dataset: DatasetSettings


def build_dataset_settings(data: object, source: Path | str) -> VocSettings | CocoSettings | FolderSettings:
    """Turn the plain section `dataset` into the settings of its format.

    Args:
        data: What the params file holds for it.
        source: The params file, for the message.

    Raises:
        UserError: an unknown format or key, a missing key, a wrong type or a value out of range.
    """
    return build_settings(_Section, {"dataset": data}, "", source).dataset


def list_dataset(root: Path, settings: DatasetSettings, drawn: Path = DRAWN) -> Listing:
    """List a dataset and its further sources, without opening an image.

    Args:
        root: Where it lies.
        settings: Its format and parts.
        drawn: Where masks will lie that have to be drawn.

    Raises:
        UserError: the root is missing, or its lists are missing or broken.
    """
    if not root.is_dir():
        raise UserError(f"The dataset's root {root} does not exist: link it with `rca preset`, or put it there.")
    match settings:
        case VocSettings():
            listing = list_voc(root, settings, drawn)
        case CocoSettings():
            listing = list_coco(root, settings, drawn)
        case FolderSettings():
            listing = list_folder(root, settings)
    extra = [list_source(root, name, source) for name, source in settings.sources.items()]
    entries = sorted((entry for one in (listing, *extra) for entry in one.entries), key=lambda entry: entry.id)
    return replace(
        listing,
        entries=tuple(entries),
        notes=tuple(note for one in (listing, *extra) for note in one.notes),
        faults=tuple(fault for one in (listing, *extra) for fault in one.faults),
    )


def examine_dataset(
    root: Path, settings: DatasetSettings, workers: int = 1, *, drawn: Path = DRAWN, draw_into: Path | None = None
) -> Examination:
    """Read a dataset whole, and find everything that is wrong with it.

    Args:
        root: Where it lies.
        settings: Its format and parts.
        workers: How many processes decode; the result does not depend on it.
        drawn: Where masks will lie that have to be drawn.
        draw_into: The folder to write them to, which exists; None looks at them and keeps none.

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
    """Read a dataset that is to be used.

    Args:
        root: Where it lies.
        settings: Its format and parts.
        workers: How many processes decode; the result does not depend on it.
        drawn: Where masks will lie that have to be drawn.
        draw_into: The folder to write them to, which exists; None looks at them and keeps none.
        report: Takes sentences on what was left out.

    Raises:
        UserError: the root is missing, or an error in it is not left out with its image.
    """
    examination = examine_dataset(root, settings, workers, drawn=drawn, draw_into=draw_into)
    for note in examination.notes:
        report(note)
    return examination.accept(settings.broken)
