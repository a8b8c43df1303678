"""Extra sources of images to train on, such as single objects or web images. They belong to no split."""

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
        root: The dataset's root.
        name: The source's name.
        settings: Its folder, weight and limit.

    Returns:
        Its images, without masks and splits, their ids prefixed by the source's name; no classes.

    Raises:
        UserError: its folder or its table of tags is missing or broken.
    """
    folder = check_folder(root, settings.path or name, f"dataset.sources.{name}.path")
    listing = list_folder(root / folder, FolderSettings(name=name, format="folder", splits=("all",)))

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

    entries, notes = tuple(map(adopt, listing.entries)), [f"source {name}: {note}" for note in listing.notes]
    if settings.limit is not None and len(entries) > settings.limit:
        # In the order of a hash, so that new images displace few others.
        entries = tuple(sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest()))
        entries = entries[: settings.limit]
        notes.append(f"source {name}: {len(entries)} of {len(listing.entries)} images are taken, as its limit says.")
    faults = tuple(replace(fault, id=fault.id and f"{name}.{fault.id}") for fault in listing.faults)
    return Listing((), entries, tuple(notes), faults)
