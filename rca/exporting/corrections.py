"""Masks that were corrected by hand: read back from an annotation tool, and kept apart from what the pipeline makes."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, read_json, read_mask, write_mask
from rca.core.images import SUFFIXES
from rca.core.progress import track
from rca.data.faults import FaultError
from rca.data.formats.colours import LABEL_MAP, choose_classes, find_mask
from rca.data.manifest import ImageRecord, Manifest
from rca.exporting.label_studio import paint

MASKS = "SegmentationClass"
# What Label Studio puts before the name of an uploaded file.
PREFIX = re.compile(r"[0-9a-f]{8}-")


def read_corrections(source: Path, manifest: Manifest) -> Iterator[tuple[str, UInt8Array]]:
    """Yield the id and the mask (H, W), uint8, of each corrected image.

    Args:
        source: A folder of PNG masks of labels, or in the colours of the `labelmap.txt` beside them (CVAT's export
            "Segmentation mask"), or Label Studio's export "JSON" with brushed regions.
        manifest: The dataset.

    Raises:
        UserError: the source is missing or broken, or a mask belongs to no image, has another size than its image or
            holds an unknown label.
    """
    found = read_tasks(source, manifest) if source.is_file() else read_folder(source, manifest)
    for record, mask in found:
        if mask.shape != (record.height, record.width):
            raise UserError(
                f"The corrected mask of {record.id} in {source} is {mask.shape[1]}x{mask.shape[0]}, its photograph "
                f"{record.width}x{record.height}: export it in the photograph's size."
            )
        unknown = [int(label) for label in np.unique(mask) if len(manifest.classes) < label < IGNORE]
        if unknown:
            raise UserError(
                f"The corrected mask of {record.id} in {source} holds the label {unknown[0]}, but there are "
                f"{len(manifest.classes)} classes: export labels, or the label map beside colours."
            )
        yield record.id, mask


def read_folder(source: Path, manifest: Manifest) -> Iterator[tuple[ImageRecord, UInt8Array]]:
    """Yield the masks of a folder."""
    folder = source / MASKS if (source / MASKS).is_dir() else source
    root = next((place for place in (source, folder.parent) if (place / LABEL_MAP).is_file()), folder)
    choice = choose_classes(root, manifest.classes)
    for fault in choice.faults if choice else ():
        raise UserError(f"{fault.statement}: import masks of this project's classes.")
    files = sorted(folder.glob("*.png"))
    if not files:
        raise UserError(f"{folder} holds no PNG mask: name the folder of the corrected masks.")
    for file in files:
        (record,) = manifest.find([find_image(file.name, manifest, source)])
        _, decode = find_mask(folder, folder, record.id, file.name, choice.colours if choice else None)
        try:
            yield record, decode() if decode else read_mask(file)
        except FaultError as error:
            raise UserError(f"{error.fault.statement}: export it again.") from None


def read_tasks(source: Path, manifest: Manifest) -> Iterator[tuple[ImageRecord, UInt8Array]]:
    """Yield the masks of an export of Label Studio: of each task, those of its last annotation that was not skipped."""
    tasks = read_json(source)
    labels = {name: label for label, name in enumerate(manifest.classes, 1)} | {"ignore": IGNORE}
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        raise UserError(f'{source} is no list of annotated tasks: export it from Label Studio as "JSON".')
    for task in tasks:
        kept = [each for each in task["annotations"] if not each.get("was_cancelled")]
        if not kept:
            continue
        (record,) = manifest.find([find_image(str(task.get("data", {}).get("image", "")), manifest, source)])
        try:
            yield record, paint(kept[-1]["result"], labels, (record.height, record.width))
        except (KeyError, TypeError, ValueError) as error:
            statement = f"The annotation of {record.id} in {source} is broken ({error})"
            raise UserError(f"{statement}: export it again.") from None


def find_image(name: str, manifest: Manifest, source: Path) -> str:
    """The id of the image that a tool names by its file.

    Raises:
        UserError: there is none.
    """
    file = re.split(r"[/\\=]", name.partition("&")[0])[-1]
    stem = file[: -len(suffix)] if (suffix := Path(file).suffix).lower() in {*SUFFIXES, ".png"} else file
    for each in (stem, PREFIX.sub("", stem, count=1)):
        if each in manifest.index:
            return each
    raise UserError(
        f"{source} holds a mask of {name or 'an image without a name'}, which the dataset has not: leave it out."
    )


def keep_corrections(source: Path, manifest: Manifest, folder: Path) -> list[str]:
    """Write corrected masks into a folder, all of them or none, and never over one that is there.

    Args:
        source: As for `read_corrections`.
        manifest: The dataset.
        folder: The folder of the project's corrected masks.

    Returns:
        The ids of the images whose masks are new.

    Raises:
        UserError: as for `read_corrections`, or another corrected mask of an image is there.
    """
    masks: dict[str, UInt8Array] = {}
    for image_id, mask in track(read_corrections(source, manifest), "reading", len(manifest.images)):
        file = folder / f"{image_id}.png"
        if file.is_file() and not np.array_equal(read_mask(file), mask):
            raise UserError(
                f"{file} is another corrected mask, which is never overwritten: delete it first if the one in {source} "
                "is to take its place."
            )
        if not file.is_file():
            masks[image_id] = mask
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, mask in masks.items():
        write_mask(folder / f"{image_id}.png", mask)
    return list(masks)
