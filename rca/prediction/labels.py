"""The labels in a mask, counted."""

from dataclasses import dataclass

import numpy as np

from rca.core.arrays import Float32Array, UInt8Array

# Rows to count at a time: counting takes 16 bytes a pixel.
COUNTED_ROWS = 256


@dataclass(frozen=True)
class LabelSummary:
    """A label of a mask.

    Attributes:
        label: 0 for the background, else 1..C.
        name: "background", or the class's name.
        pixels: The number of pixels with the label.
        share: Their share of the image, 0..1.
        confidence: The label's mean probability at these pixels, 0..1.
    """

    label: int
    name: str
    pixels: int
    share: float
    confidence: float


def count_labels(mask: UInt8Array, confidence: Float32Array, classes: tuple[str, ...]) -> tuple[LabelSummary, ...]:
    """Count the pixels of each label in a mask.

    Args:
        mask: (H, W), uint8, 0 background and 1..C.
        confidence: (H, W), float32, 0..1.
        classes: The C names.
    """
    names = ("background", *classes)
    pixels, sums = np.zeros(len(names), np.int64), np.zeros(len(names))
    for start in range(0, len(mask), COUNTED_ROWS):
        rows = slice(start, start + COUNTED_ROWS)
        labels = mask[rows].ravel()
        pixels += np.bincount(labels, minlength=len(names))
        sums += np.bincount(labels, confidence[rows].ravel(), len(names))
    return tuple(
        LabelSummary(label, names[label], count, count / mask.size, float(sums[label]) / count)
        for label, count in enumerate(pixels.tolist())
        if count
    )
