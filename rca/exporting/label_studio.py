"""Masks as tasks of Label Studio, whose brush keeps a region as packed run lengths.

Source of the packing: the format that Label Studio's converter and thi.ng/rle-pack read. A stream of bits: 32 for the
number of words, 5 for the bits of a word less 1, and four times 4 for the bits of a length less 1. Then chunks: 1 bit
that says whether one word is repeated, 2 bits that choose the length's size, the length less 1, and the words. The
words are the red, green, blue and alpha of each pixel, row by row; the region is where alpha is not 0.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rca.core.arrays import BoolArray, UInt8Array
from rca.core.files import IGNORE, write_text
from rca.core.progress import track
from rca.exporting.coco import split_mask
from rca.exporting.masks import MaskSet

CHANNELS, WORD = 4, 8
# The bits of the four sizes of a length, as Label Studio writes them.
SIZES = (3, 4, 8, 16)
# The names of the parts of a labelling configuration: <Image name="image"/>, <BrushLabels name="brush" toName="image">.
IMAGE, BRUSH = "image", "brush"


def export_label_studio(masks: MaskSet, out: Path, prefix: str) -> int:
    """Write masks as tasks with predictions, which Label Studio shows for correction, in the order of the masks.

    Args:
        masks: The masks to write.
        out: The JSON file.
        prefix: What stands before a photograph's file name in the task, e.g. "/data/local-files/?d=photos/".

    Returns:
        The number of regions.

    Raises:
        UserError: a mask or a photograph is bad. Then nothing is written.
    """
    tasks, regions = [], 0
    for image in track(masks.images, "encoding", len(masks.images)):
        mask = masks.read(image)
        results = [
            describe_region(region, "ignore" if label == IGNORE else masks.classes[label - 1], f"{image.name}-{label}")
            for label, region in split_mask(mask, components=False)
        ]
        regions += len(results)
        predictions = [{"model_version": "rca", "result": results}]
        tasks.append({"data": {"image": prefix + image.photograph.name}, "predictions": predictions})
    write_text(out, json.dumps(tasks, ensure_ascii=False) + "\n")
    return regions


def describe_region(region: BoolArray, name: str, identifier: str) -> dict[str, Any]:
    """A class's region (H, W), bool, as a result of Label Studio."""
    height, width = region.shape
    return {
        "id": identifier,
        "type": "brushlabels",
        "from_name": BRUSH,
        "to_name": IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": pack(region), "brushlabels": [name]},
    }


def pack(region: BoolArray) -> list[int]:
    """Pack a region (H, W), bool, into bytes 0..255."""
    flat = np.repeat(np.asarray(region, np.uint8).ravel() * 255, CHANNELS)
    ends = np.append(np.flatnonzero(np.diff(flat)) + 1, flat.size)
    starts = np.concatenate([[0], ends[:-1]])
    bits = [f"{flat.size:032b}", f"{WORD - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        value, left = f"{flat[start]:0{WORD}b}", end - start
        while left:
            length = min(left, 1 << SIZES[-1])
            number = next(place for place, size in enumerate(SIZES) if length <= 1 << size)
            bits.append(f"1{number:02b}{length - 1:0{SIZES[number]}b}{value}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def unpack(packed: list[int], height: int, width: int) -> BoolArray:
    """Unpack bytes into a region (H, W), bool.

    Raises:
        ValueError: they are not packed pixels of this size.
    """
    bits = "".join(f"{byte:08b}" for byte in bytes(packed))
    place = 0

    def read(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("the packed region ends too early")
        place += count
        return int(bits[place - count : place], 2)

    words, size = read(32), read(5) + 1
    if words != height * width * CHANNELS:
        raise ValueError(f"the packed region has {words} words, not {CHANNELS} for each of {width}x{height} pixels")
    sizes = [read(4) + 1 for _ in SIZES]
    values = np.zeros(words, np.uint8)
    start = 0
    while start < words:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        found = read(size) if repeated else [read(size) for _ in range(length)]
        values[start : start + length] = np.minimum(found, 255)
        start += length
    return values.reshape(height, width, CHANNELS)[..., -1] > 0


def paint(results: list[dict[str, Any]], labels: dict[str, int], size: tuple[int, int]) -> UInt8Array:
    """Paint the brushed regions of an annotation over one another, the last one on top.

    Args:
        results: The annotation's results; those without a brush are left out.
        labels: The label of each name.
        size: Height and width of the image.

    Returns:
        (H, W), uint8.

    Raises:
        ValueError: a region is broken or has another size, or its name has no label.
    """
    mask = np.zeros(size, np.uint8)
    for result in results:
        value = result.get("value", {})
        if result.get("type") != "brushlabels" or value.get("format") != "rle":
            continue
        shape = (result.get("original_height"), result.get("original_width"))
        if shape != size:
            raise ValueError(f"a region is {shape[1]}x{shape[0]}, its photograph {size[1]}x{size[0]}")
        name = value["brushlabels"][0]
        if name not in labels:
            raise ValueError(f"the name {name} is no class")
        mask[unpack(value["rle"], *size)] = labels[name]
    return mask
