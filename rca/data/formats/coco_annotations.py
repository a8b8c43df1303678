"""COCO's `instances_*.json`: each image's file, its categories, and a mask drawn from its instances.

Several incompatible sets of COCO masks circulate. These follow the annotations: larger instances lie below smaller
ones, and crowds are ignored (255).
"""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypedDict

import numpy as np
from pycocotools.coco import COCO
from pycocotools.mask import decode

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE


class _Image(TypedDict):
    id: int
    file_name: str
    height: int
    width: int


class Instance(NamedTuple):
    """An annotated object.

    Attributes:
        label: 1..C, or 255 for a crowd.
        counts: Its pixels in COCO's compressed run lengths, which are much smaller than its polygons.
    """

    label: int
    counts: bytes


@dataclass(frozen=True)
class CocoMask:
    """Draws an image's mask.

    Attributes:
        height: In pixels.
        width: In pixels.
        instances: The objects, in the order of painting.
    """

    height: int
    width: int
    instances: tuple[Instance, ...]

    def __call__(self) -> UInt8Array:
        """The mask (H, W), uint8: 0 background, 1..C classes, 255 crowds."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for label, counts in self.instances:
            mask[decode({"size": [self.height, self.width], "counts": counts}) > 0] = label
        return mask


class AnnotatedImage(NamedTuple):
    """An image that has at least one annotation.

    Attributes:
        file: Its path in the folder of its split.
        classes: Names of the categories of all its annotations, in label order.
        mask: Draws its mask.
    """

    file: PurePosixPath
    classes: tuple[str, ...]
    mask: CocoMask


class Annotations(NamedTuple):
    """The content of an annotation file.

    Attributes:
        classes: Names of the categories in the order of their ids. (An id is no label: COCO's 80 ids run to 90, with
            gaps.)
        images: The images with an annotation.
        dropped: The number of images without one.
    """

    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    dropped: int


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file.

    Reading that of train2014 (450 MB) takes about 3 GB of memory.

    Raises:
        UserError: the file is missing or broken, or is no annotation file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: put it there, or correct dataset.annotations.")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            data = COCO(str(path))
        images = tuple(_describe(data, image) for image in data.imgs.values() if data.imgToAnns.get(image["id"]))
        classes = tuple(str(data.cats[category]["name"]) for category in sorted(data.cats))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is not valid JSON: replace it.") from None
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path} is not a COCO annotation file ({reason}): repair or replace it.") from None
    if not images or not classes:
        raise UserError(f"{path} names no category or no annotated image: correct dataset.annotations.")
    return Annotations(classes, images, len(data.imgs) - len(images))


def _describe(data: COCO, image: _Image) -> AnnotatedImage:
    file = PurePosixPath(image["file_name"])
    if file.is_absolute() or ".." in file.parts:
        raise ValueError(f"the file name {file} leads out of the folder")
    categories = {annotation["category_id"] for annotation in data.imgToAnns[image["id"]]}
    classes = tuple(str(data.cats[category]["name"]) for category in sorted(categories))
    return AnnotatedImage(file, classes, CocoMask(image["height"], image["width"], tuple(_order(data, image))))


def _order(data: COCO, image: _Image) -> Iterator[Instance]:
    """An image's crowds, then its instances from the largest area to the smallest."""
    labels = {category: number for number, category in enumerate(sorted(data.cats), 1)}
    annotations = data.imgToAnns[image["id"]]
    for annotation in sorted(annotations, key=lambda each: (not each.get("iscrowd", 0), -each["area"], each["id"])):
        shape = annotation["segmentation"]
        if isinstance(shape, list) and any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
            raise ValueError(f"annotation {annotation['id']} has a polygon of fewer than three corners")
        if not shape:
            continue
        lengths = data.annToRLE(annotation)
        if list(lengths["size"]) != [image["height"], image["width"]]:
            raise ValueError(f"annotation {annotation['id']} has another size than its image")
        label = IGNORE if annotation.get("iscrowd", 0) else labels[annotation["category_id"]]
        yield Instance(label, lengths["counts"])
