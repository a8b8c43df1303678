"""Masks as COCO annotations: run lengths, areas and boxes (Lin et al., Microsoft COCO, ECCV 2014; cocoapi)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocotools import mask as run_lengths
from scipy import ndimage

from rca.core.arrays import BoolArray, UInt8Array
from rca.core.files import IGNORE, write_text
from rca.core.progress import track
from rca.exporting.masks import MaskSet

# Pixels that touch at a corner are one region.
NEIGHBOURS = np.ones((3, 3), int)


def export_coco(masks: MaskSet, out: Path, components: bool = False) -> int:
    """Write masks as one JSON file that pycocotools reads.

    An image's file name is the photograph's path below the folder that all photographs share. A category's id is its
    label; ignored pixels, if there are any, get the category 255, "ignore".

    Args:
        masks: The masks to write.
        out: The file.
        components: Whether to write an annotation for each connected region, not one for each class of an image.

    Returns:
        The number of annotations.

    Raises:
        UserError: a mask or a photograph is bad. Then nothing is written.
    """
    shared = os.path.commonpath([os.path.abspath(image.photograph.parent) for image in masks.images])
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image in track(masks.images, "encoding", len(masks.images)):
        mask = masks.read(image)
        name = Path(os.path.abspath(image.photograph)).relative_to(shared).as_posix()
        number = len(images) + 1
        images.append({"id": number, "file_name": name, "height": mask.shape[0], "width": mask.shape[1]})
        for label, region in split_mask(mask, components):
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": label}
            annotations.append({**place, **encode_region(region)})
    names = dict(enumerate(masks.classes, 1))
    if any(annotation["category_id"] == IGNORE for annotation in annotations):
        names[IGNORE] = "ignore"
    data = {
        "info": {"description": "exported by rca"},
        "licenses": [],
        "categories": [{"id": label, "name": name, "supercategory": ""} for label, name in names.items()],
        "images": images,
        "annotations": annotations,
    }
    write_text(out, json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")
    return len(annotations)


def split_mask(mask: UInt8Array, components: bool) -> Iterator[tuple[int, BoolArray]]:
    """Yield the label and the pixels (H, W), bool, of each region of a mask (H, W), uint8, without the background."""
    for label in np.unique(mask[mask > 0]).tolist():
        region = mask == label
        if not components:
            yield label, region
            continue
        numbered, count = ndimage.label(region, NEIGHBOURS)
        for number in range(1, count + 1):
            yield label, numbered == number


def encode_region(region: BoolArray) -> dict[str, object]:
    """A region (H, W), bool, as run lengths with its area and its box (left, top, width, height) in pixels."""
    encoded = run_lengths.encode(np.asfortranarray(region, dtype=np.uint8))
    return {
        "segmentation": {"size": list(region.shape), "counts": encoded["counts"].decode("ascii")},
        "area": int(run_lengths.area(encoded)),
        "bbox": [int(value) for value in run_lengths.toBbox(encoded)],
        "iscrowd": 0,
    }
