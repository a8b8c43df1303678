"""Datasets in COCO layout: `annotations/instances_*.json` and a folder of photographs for each split."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from rca.core.errors import UserError
from rca.data.base import BaseDatasetSettings
from rca.data.formats.coco_annotations import AnnotatedImage, read_annotations
from rca.data.formats.files import MAPS, check_folder, find_file
from rca.data.listing import Entry, Listing, name_drawn


class CocoSettings(BaseDatasetSettings):
    """The files of a dataset in COCO layout.

    Attributes:
        format: The layout.
        splits: The splits to read.
        annotations: Each split's annotation file, relative to the root; `{split}` stands for its name.
        images: Each split's folder of photographs, in the same form.
        tags: The source of an image's tags: "masks" (the classes visible in the mask) or "annotations" (all of them,
            including crowds and hidden instances).
    """

    format: Literal["coco"]
    splits: tuple[str, ...] = Field(default=("train", "val"), min_length=1)
    annotations: str = "annotations/instances_{split}2014.json"
    images: str = "{split}2014"
    tags: Literal["masks", "annotations"] = "masks"


def list_coco(root: Path, settings: CocoSettings, drawn: Path) -> Listing:
    """List a dataset in COCO layout, with the annotations of one split in memory at a time.

    Args:
        root: The folder of annotations and photographs.
        settings: The splits and their files.
        drawn: The folder for drawn masks.

    Raises:
        UserError: an annotation file is missing or broken, or the splits differ in their categories.
    """
    if settings.saliency is not None:
        check_folder(root, settings.saliency, "dataset.saliency")
    classes: tuple[str, ...] = ()
    entries: dict[str, Entry] = {}
    notes = []
    lists = {split: root / settings.annotations.replace("{split}", split) for split in settings.splits}
    for split, path in lists.items():
        annotations = read_annotations(path)
        if classes and annotations.classes != classes:
            raise UserError(f"{path} has other categories than {settings.splits[0]}: give all splits the same.")
        classes = annotations.classes
        for image in annotations.images:
            entry = _make_entry(root, settings, drawn, split, image)
            known = entries.get(entry.id, entry)
            if replace(known, splits=()) != entry:
                raise UserError(f"{path}: the image {entry.id} differs from that in {known.splits[0]}: rename it.")
            entries[entry.id] = replace(entry, splits=(*known.splits, split))
        if annotations.dropped:
            total = annotations.dropped + len(annotations.images)
            notes.append(f"{split}: {annotations.dropped} of {total} images have no annotation and are left out.")
    return Listing(
        classes,
        tuple(entries[name] for name in sorted(entries)),
        tuple(notes),
        lists=lists,
        class_list=lists[settings.splits[0]],
    )


def _make_entry(root: Path, settings: CocoSettings, drawn: Path, split: str, image: AnnotatedImage) -> Entry:
    """List an image, as yet without its splits."""
    name = image.file.stem
    return Entry(
        id=name,
        image=f"{settings.images.replace('{split}', split)}/{image.file}",
        mask=name_drawn(drawn, name),
        saliency=settings.saliency and find_file(root, (settings.saliency,), name, MAPS),
        tags=image.classes if settings.tags == "annotations" else None,
        draw=image.mask,
    )
