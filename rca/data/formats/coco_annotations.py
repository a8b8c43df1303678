"""What COCO's `instances_*.json` say of each image: its file, its categories, and a mask drawn from its instances.

Several incompatible sets of COCO masks circulate; these follow the annotations: the larger instance lies below the
smaller one, and what is annotated as a crowd is undecided.
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
    """One annotated object.

    Attributes:
        label: 1..C, or 255 for a crowd.
        counts: Its pixels as COCO's compressed run lengths, a fraction of what its polygons take.
    """

    label: int
    counts: bytes


@dataclass(frozen=True)
class CocoMask:
    """Draws an image's mask.

    Attributes:
        height: In pixels.
        width: In pixels.
        instances: In the order in which they are painted.
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
        file: Its file's name in the folder of its split.
        classes: Names of the categories of all its annotations, in label order.
        mask: Draws its mask.
    """

    file: PurePosixPath
    classes: tuple[str, ...]
    mask: CocoMask


class Annotations(NamedTuple):
    """What a file of annotations holds.

    Attributes:
        classes: Names of the categories in the order of their ids. (COCO's 80 ids run to 90 and leave gaps: an id is no
            label.)
        images: Those that have an annotation.
        dropped: How many have none.
    """

    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    dropped: int


def read_annotations(path: Path) -> Annotations:
    """Read a file of annotations.

    That of train2014, of 450 MB, takes some 3 GB of memory while it is read.

    Raises:
        UserError: the file is missing or broken, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: put it there, or mend dataset.annotations.")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its own progress
            data = COCO(str(path))
        images = tuple(_describe(data, image) for image in data.imgs.values() if data.imgToAnns.get(image["id"]))
        classes = tuple(str(data.cats[one]["name"]) for one in sorted(data.cats))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is not valid JSON: replace it.") from None
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path} is not as COCO's annotations are ({reason}): mend or replace it.") from None
    if not images or not classes:
        raise UserError(f"{path} names no category or no annotated image: mend dataset.annotations.")
    return Annotations(classes, images, len(data.imgs) - len(images))


def _describe(data: COCO, image: _Image) -> AnnotatedImage:
    file = PurePosixPath(image["file_name"])
    if file.is_absolute() or ".." in file.parts:
        raise ValueError(f"the file name {file} leads out of the folder")
    found = {one["category_id"] for one in data.imgToAnns[image["id"]]}
    classes = tuple(str(data.cats[one]["name"]) for one in sorted(found))
    return AnnotatedImage(file, classes, CocoMask(image["height"], image["width"], tuple(_order(data, image))))


def _order(data: COCO, image: _Image) -> Iterator[Instance]:
    """An image's crowds, then its instances from the largest area to the smallest."""
    labels = {category: number for number, category in enumerate(sorted(data.cats), 1)}
    instances = data.imgToAnns[image["id"]]
    for one in sorted(instances, key=lambda one: (not one.get("iscrowd", 0), -one["area"], one["id"])):
        shape = one["segmentation"]
        if isinstance(shape, list) and any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
            raise ValueError(f"annotation {one['id']} has a polygon of fewer than three corners")
        if not shape:
            continue
        lengths = data.annToRLE(one)
        if list(lengths["size"]) != [image["height"], image["width"]]:
            raise ValueError(f"annotation {one['id']} is of another size than its image")
        yield Instance(IGNORE if one.get("iscrowd", 0) else labels[one["category_id"]], lengths["counts"])
