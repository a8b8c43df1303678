"""The shapes of COCO's annotations: polygons, run lengths and boxes, checked before pycocotools draws them.

Nothing is drawn that is not finite, near its image and of its size, since pycocotools does not check what it is given.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as run_lengths

CORNERS = 3


class ShapeError(ValueError):
    """A shape that cannot be drawn; its message continues a sentence about its annotation."""


class Shape(NamedTuple):
    """A drawn shape.

    Attributes:
        counts: Its pixels in COCO's compressed run lengths; None if it has no pixel.
        dropped: The number of pieces that are no area.
        is_given: Whether it is a shape at all, although perhaps too small for a pixel.
    """

    counts: bytes | None
    dropped: int = 0
    is_given: bool = False


def draw_shape(segmentation: Any, height: int, width: int) -> Shape:
    """Draw a `segmentation`.

    Args:
        segmentation: A list of polygons, one polygon, run lengths, or nothing.
        height: The image's height.
        width: The image's width.

    Raises:
        ShapeError: it is something else, or not of this image.
    """
    if not segmentation:
        return Shape(None)
    if isinstance(segmentation, dict):
        counts = _compress(segmentation, height, width)
        return Shape(counts if measure(counts, height, width) else None, is_given=True)
    if not isinstance(segmentation, list):
        raise ShapeError(f"has a segmentation that is a {type(segmentation).__name__}, not polygons or run lengths")
    polygons = [_check_polygon(polygon, height, width) for polygon in _list_polygons(segmentation)]
    whole = [polygon for polygon in polygons if len(polygon) >= 2 * CORNERS and len(polygon) % 2 == 0]
    if not whole:
        return Shape(None, len(polygons))
    drawn = run_lengths.merge(run_lengths.frPyObjects(whole, height, width))
    counts = bytes(drawn["counts"])
    return Shape(counts if measure(counts, height, width) else None, len(polygons) - len(whole), True)


def _list_polygons(segmentation: list[Any]) -> list[Any]:
    """The polygons of a list that holds polygons, the numbers of one, or the corners of one as pairs."""
    if not any(isinstance(part, list) for part in segmentation):
        return [segmentation]
    if len(segmentation) >= CORNERS and all(isinstance(part, list) and len(part) == 2 for part in segmentation):
        return [[value for part in segmentation for value in part]]
    return segmentation


def _check_polygon(polygon: Any, height: int, width: int) -> list[float]:
    if not isinstance(polygon, list) or not all(_is_number(value) for value in polygon):
        raise ShapeError("has a polygon that is no list of numbers")
    for place, value in enumerate(polygon):
        _check_near(value, height if place % 2 else width)
    return [float(value) for value in polygon]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_near(value: float, side: int) -> None:
    """A coordinate may lie outside of its image, but not by more than the image's side."""
    if not (math.isfinite(value) and -side <= value <= 2 * side):
        raise ShapeError(f"has the coordinate {float(value):g}, which is not near its image")


def _compress(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    """Run lengths, compressed or not, as compressed ones."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ShapeError(f"has run lengths of the size {size!r:.60}, its image is {[height, width]}")
    if isinstance(counts, str):
        counts = _decode_counts(counts)
    if not isinstance(counts, list) or not all(isinstance(one, int) and one >= 0 for one in counts):
        raise ShapeError("has run lengths that are no numbers from 0 on")
    if sum(counts) != height * width:
        raise ShapeError(f"has run lengths of {sum(counts)} pixels, its image has {height * width}")
    return bytes(run_lengths.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"])


def _decode_counts(text: str) -> list[int]:
    """COCO's compressed run lengths as numbers: 5 bits a letter from "0" on, the sixth says whether more follow.

    From the third on, a number is the difference to the one two before (cocoapi, maskApi.c).
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ShapeError("has run lengths that cannot be decoded")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ShapeError("has run lengths that end too soon")
    return counts


def draw_box(box: Any, height: int, width: int) -> bytes:
    """The pixels that a box (left, top, width, height) touches, as compressed run lengths.

    Raises:
        ShapeError: it is no box, or none of its pixels lies in the image.
    """
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise ShapeError("has neither a shape nor a box")
    for value, side in zip(box, (width, height, width, height), strict=True):
        _check_near(value, side)
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    mask = np.zeros((height, width), np.uint8, order="F")
    rows = slice(max(0, math.floor(top)), max(0, math.ceil(bottom)))
    mask[rows, max(0, math.floor(left)) : max(0, math.ceil(right))] = 1
    if not mask.any():
        raise ShapeError("has no shape, and a box without a pixel in its image")
    return bytes(run_lengths.encode(mask)["counts"])


def ends_outside(box: Any, height: int, width: int) -> bool:
    """Whether a box ends more than a pixel outside of its image, as one whose sides are taken for corners."""
    return bool(box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1)


def are_shares(shape: Any) -> bool:
    """Whether all numbers of polygons or a box lie between 0 and 1, as where they are shares of the image's sides."""
    parts = shape if isinstance(shape, list) else []
    values = [value for part in parts for value in (part if isinstance(part, list) else [part])]
    return bool(values) and all(_is_number(value) and 0 <= value <= 1 for value in values)


def measure(counts: bytes, height: int, width: int) -> int:
    """The number of pixels of compressed run lengths."""
    return int(run_lengths.area({"size": [height, width], "counts": counts}))
