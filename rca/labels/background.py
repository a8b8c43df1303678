"""What counts as background in a score map, and the masks that follow.

Two kinds are offered. "constant": the background scores t everywhere. "power": it scores (1 - m) ** alpha where m is
the largest score of any class (PSA, Ahn & Kwak, CVPR 2018). As masks the two are one: (1 - m) ** alpha falls and m
rises, so they cross at one threshold t with (1 - t) ** alpha = t. A mask is therefore always described by t; what
differs is how sure a CRF takes the background to be.
"""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from rca.settings import Settings


class ConstantBackground(Settings):
    """The background scores `threshold` everywhere."""

    kind: Literal["constant"]
    threshold: float = Field(gt=0, lt=1)


class PowerBackground(Settings):
    """The background scores (1 - largest score) ** alpha."""

    kind: Literal["power"]
    alpha: float = Field(gt=0)


Background = Annotated[ConstantBackground | PowerBackground, Field(discriminator="kind")]


def find_threshold(background: ConstantBackground | PowerBackground) -> float:
    """The score t above which a pixel is foreground, 0..1."""
    if isinstance(background, ConstantBackground):
        return background.threshold
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection: (1 - t) ** alpha - t falls from 1 to -1
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) ** background.alpha > middle else (low, middle)
    return (low + high) / 2


def score_background(scores: np.ndarray, kind: Literal["constant", "power"], threshold: float) -> np.ndarray:
    """The background's score, such that the foreground begins at `threshold`.

    Args:
        scores: (K, H, W), float, 0..1.
        kind: Which background.
        threshold: 0..1, exclusive.

    Returns:
        (H, W), float32, 0..1.
    """
    if kind == "constant" or len(scores) == 0:
        return np.full(scores.shape[1:], threshold if kind == "constant" else 1.0, np.float32)
    alpha = math.log(threshold) / math.log1p(-threshold)
    return ((1 - scores.max(0)) ** alpha).astype(np.float32)


def label_pixels(scores: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """The mask: each pixel's highest label where that exceeds the threshold, else background.

    Args:
        scores: (K, H, W), float, 0..1.
        labels: (K,), uint8, the labels that were scored.
        threshold: 0..1.

    Returns:
        (H, W), uint8.
    """
    if len(labels) == 0:
        return np.zeros(scores.shape[1:], np.uint8)
    # In double precision, as ThresholdSweep counts: a float would be rounded to the scores' own type.
    return np.where(scores.max(0) > np.float64(threshold), labels[scores.argmax(0)], 0).astype(np.uint8)
