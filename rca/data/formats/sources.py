"""Further images to train on: of one object each, or found in the web. They belong to no split."""

import hashlib
from dataclasses import replace
from pathlib import Path

from rca.data.base import SourceSettings
from rca.data.formats.files import check_folder
from rca.data.formats.folder import FolderSettings, list_folder
from rca.data.listing import Entry, Listing


def list_source(root: Path, name: str, settings: SourceSettings) -> Listing:
    """List the images of a source, a folder of photographs with its own `tags.csv`.

    Args:
        root: The dataset's.
        name: The source's.
        settings: Where it lies, and how much of it counts how much.

    Returns:
        Its images, with the name before their ids, and without masks or splits; the classes are the dataset's.

    Raises:
        UserError: its folder or its table of tags is missing or broken.
    """
    folder = check_folder(root, settings.path or name, f"dataset.sources.{name}.path")
    found = list_folder(root / folder, FolderSettings(name=name, format="folder", splits=("all",)))

    def adopt(entry: Entry) -> Entry:
        return replace(
            entry,
            id=f"{name}.{entry.id}",
            image=f"{folder}/{entry.image}",
            mask=None,
            saliency=entry.saliency and f"{folder}/{entry.saliency}",
            splits=(),
            source=name,
            weight=settings.weight,
        )

    entries, notes = tuple(map(adopt, found.entries)), [f"source {name}: {note}" for note in found.notes]
    if settings.limit is not None and len(entries) > settings.limit:
        # By a hash, so that images that are added push out few others.
        entries = tuple(sorted(entries, key=lambda one: hashlib.sha256(one.id.encode()).digest())[: settings.limit])
        notes.append(f"source {name}: {settings.limit} of {len(found.entries)} images are taken, as its limit says.")
    faults = tuple(replace(fault, id=fault.id and f"{name}.{fault.id}") for fault in found.faults)
    return Listing((), entries, tuple(notes), faults)
