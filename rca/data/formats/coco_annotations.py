"""COCO's `instances_*.json`: each image's file, its categories, and a mask drawn from its instances.

Several incompatible sets of COCO masks circulate. These follow the annotations: objects that are drawn with more pixels
lie below those with fewer, and crowds, unless they are wanted as objects, lie below all and are undecided (255). What
has a box but no shape is undecided there, and a fault of one annotation is a fault of its image.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools.mask import decode

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.core.images import MAX_PIXELS
from rca.data.faults import Fault
from rca.data.formats.coco_shapes import ShapeError, are_shares, draw_box, draw_shape, ends_outside, measure
from rca.data.formats.files import drop_suffix, read_text
from rca.data.ids import compose

Crowds = Literal["undecided", "objects"]


class Instance(NamedTuple):
    """An annotated object.

    Attributes:
        label: 1..C, or 255 for what is undecided.
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
        """The mask (H, W), uint8: 0 background, 1..C classes, 255 undecided."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for label, counts in self.instances:
            mask[decode({"size": [self.height, self.width], "counts": counts}) > 0] = label
        return mask


class Drawn(NamedTuple):
    """An annotation that can be drawn.

    Attributes:
        category: The id of its category.
        counts: Its pixels, as in `Instance`.
        pixels: Their number.
        form: A "shape", a "box" without a shape, or a "crowd".
    """

    category: int | str
    counts: bytes
    pixels: int
    form: Literal["shape", "box", "crowd"]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of an annotation file.

    Attributes:
        id: Its id in the file.
        file: Its path as the file gives it, with `/` between folders.
        height: In pixels.
        width: In pixels.
        objects: Its annotations, in the order of the file.
    """

    id: int | str
    file: str
    height: int
    width: int
    objects: list[Drawn] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The image's id in the dataset."""
        return drop_suffix(self.file).lstrip("/").replace("/", "--")


class Category(NamedTuple):
    """A category of an annotation file."""

    id: int | str
    name: str
    parent: str


@dataclass
class Annotations:
    """The content of an annotation file.

    Attributes:
        path: The file.
        categories: Its categories in the order of their ids.
        images: Its images, also those without an annotation.
        faults: What is wrong with annotations, each a fault of its image.
        counts: How many annotations were read in an unusual way, by what was done.
        examples: The first annotation of each of these.
    """

    path: Path
    categories: tuple[Category, ...]
    images: tuple[AnnotatedImage, ...]
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, example: str) -> None:
        """Count something that was dropped or read in an unusual way."""
        self.counts[what] += 1
        self.examples.setdefault(what, example)

    def tell(self, what: str, sentence: str) -> tuple[str, ...]:
        """A sentence on what was counted, with "{}" for the number, and its first example; none if nothing was."""
        return (f"{sentence.format(self.counts[what])} ({self.examples[what]}).",) if self.counts[what] else ()


def read_annotations(path: Path, annotated: bool = True) -> Annotations:
    """Read an annotation file.

    Reading that of train2014 (450 MB) takes about 3 GB of memory.

    Args:
        path: The file.
        annotated: Whether it must hold annotations; COCO's `image_info_*.json` hold none.

    Raises:
        UserError: the file is missing or is no annotation file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: put it there, or correct dataset.annotations.")
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not valid JSON: replace it.") from None
    parts = {key: data.get(key) for key in ("images", "annotations", "categories")} if isinstance(data, dict) else {}
    if not annotated:
        parts["annotations"] = []
    for key in ("images", "annotations", "categories"):
        if not isinstance(parts.get(key), list) or not all(isinstance(item, dict) for item in parts[key] or ()):
            raise UserError(f"{path} is not a COCO annotation file (it has no list of {key}): replace it.")
    if any("segments_info" in annotation for annotation in parts["annotations"] or ()):
        raise UserError(f"{path} holds panoptic segments: name the file of instances in dataset.annotations.")
    categories = _read_categories(path, parts["categories"] or [])
    found = Annotations(path, categories, ())
    images = _read_images(found, parts["images"] or [])
    known = {category.id for category in categories}
    for position, annotation in enumerate(parts["annotations"] or [], 1):
        _read_annotation(found, images, known, position, annotation)
    found.images = tuple(images.values())
    return found


def _read_categories(path: Path, items: Iterable[Mapping[str, Any]]) -> tuple[Category, ...]:
    categories: dict[int | str, Category] = {}
    for position, item in enumerate(items, 1):
        identity, name = read_id(item.get("id")), item.get("name")
        if identity is None or not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: category {position} lacks an id or a name: correct it.")
        if identity in categories:
            raise UserError(f"{path}: two categories have the id {identity}: give each its own.")
        categories[identity] = Category(identity, compose(name.strip()), str(item.get("supercategory") or "").strip())
    return tuple(categories[key] for key in sorted(categories, key=lambda key: (isinstance(key, str), key)))


def _read_images(found: Annotations, items: Iterable[Mapping[str, Any]]) -> dict[int | str, AnnotatedImage]:
    images: dict[int | str, AnnotatedImage] = {}
    for position, item in enumerate(items, 1):
        identity, file = read_id(item.get("id")), item.get("file_name")
        if identity is None or not isinstance(file, str) or not drop_suffix(file).strip("/\\ "):
            raise UserError(f"{found.path}: image {position} lacks an id or a file_name: correct it.")
        if identity in images:
            raise UserError(f"{found.path}: two images have the id {identity}: give each its own.")
        height, width = (_read_integer(item.get(key)) or 0 for key in ("height", "width"))
        is_size = height > 0 and width > 0 and height * width <= MAX_PIXELS
        # Without a size nothing is drawn.
        shape = (height, width) if is_size else (0, 0)
        image = images[identity] = AnnotatedImage(identity, compose(file.strip().replace("\\", "/")), *shape)
        if not is_size:
            size = f"the width {item.get('width')!r} and the height {item.get('height')!r}"
            _blame(found, image, f"{found.path}: the image {file} has {size[:120]}")
    return images


def read_id(value: object) -> int | str | None:
    """An id as files write it: a number, or its digits as a text; None if it is none."""
    number = _read_integer(value)
    if number is not None:
        return number
    return value.strip() if isinstance(value, str) and value.strip() else None


def _read_integer(value: object) -> int | None:
    if isinstance(value, str) and value.strip().isascii() and value.strip().lstrip("-").isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _blame(found: Annotations, image: AnnotatedImage, statement: str) -> None:
    found.faults.append(Fault("bad annotation", str(found.path), statement, image.name))


def _read_annotation(
    found: Annotations,
    images: Mapping[int | str, AnnotatedImage],
    known: set[int | str],
    position: int,
    annotation: Mapping[str, Any],
) -> None:
    """Add an annotation to its image, or to the faults."""
    identity = annotation.get("id")
    name = f"annotation {identity}" if read_id(identity) is not None else f"the annotation at place {position}"
    owner = read_id(annotation.get("image_id"))
    image = images.get(owner) if owner is not None else None
    if image is None:
        found.note("stray", f"{name}, image_id {annotation.get('image_id')!r}"[:120])
        return
    where = f"{found.path}: {name} of {image.file}"
    category, crowd = read_id(annotation.get("category_id")), annotation.get("iscrowd", 0)
    crowd = int(crowd) if isinstance(crowd, bool) else _read_integer(0 if crowd is None else crowd)
    if category is None or category not in known:
        shown = repr(annotation.get("category_id"))[:80]
        _blame(found, image, f"{where} has the category_id {shown}, which no category has")
    elif crowd not in (0, 1):
        _blame(found, image, f"{where} has the iscrowd {annotation.get('iscrowd')!r:.80}, which is neither 0 nor 1")
    elif image.height > 0 and image.width > 0 and image.height * image.width <= MAX_PIXELS:
        try:
            drawn = _draw(found, image, name, annotation)
        except ShapeError as error:
            _blame(found, image, f"{where} {error}")
            return
        if drawn is not None:
            form: Literal["shape", "box", "crowd"] = "crowd" if crowd else "box" if drawn[1] else "shape"
            image.objects.append(Drawn(category, drawn[0], measure(drawn[0], image.height, image.width), form))


def _draw(
    found: Annotations, image: AnnotatedImage, name: str, annotation: Mapping[str, Any]
) -> tuple[bytes, bool] | None:
    """An annotation's pixels, and whether they are those of its box, since its shape has none; None if neither has any.

    Raises:
        ShapeError: its shape is broken, or it has neither a shape nor a box.
    """
    segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
    shape = draw_shape(segmentation, image.height, image.width)
    found.note("shares" if are_shares(segmentation or box) else "pixels", name)
    if shape.dropped:
        found.note("pieces", f"{name} of {image.file}")
    if shape.counts is not None:
        return shape.counts, False
    try:
        drawn = draw_box(box, image.height, image.width)
    except ShapeError:
        if not shape.is_given:
            raise
        found.note("unseen", f"{name} of {image.file}")
        return None
    found.note("boxes", f"{name} of {image.file}")
    if ends_outside(box, image.height, image.width):
        found.note("beyond", f"{name} of {image.file}")
    return drawn, True


def order_instances(objects: Sequence[Drawn], labels: Mapping[int | str, int], crowds: Crowds) -> tuple[Instance, ...]:
    """The order in which objects are painted: crowds that are undecided, then all others from the largest down.

    Args:
        objects: An image's objects.
        labels: The label of each category: 0 is not drawn, 255 is undecided.
        crowds: What crowds are.
    """
    ordered = []
    for place, one in enumerate(objects):
        label, below = labels[one.category], False
        if one.form == "box" or (one.form == "crowd" and crowds == "undecided"):
            label, below = IGNORE if label else 0, one.form == "crowd"
        if label:
            ordered.append((not below, -one.pixels, place, Instance(label, one.counts)))
    return tuple(instance for *_, instance in sorted(ordered, key=lambda item: item[:3]))
