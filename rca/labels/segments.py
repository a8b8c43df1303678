"""Refinement of masks by segments that are there: each takes the label that most of it supports.

Segments are superpixels of the photograph, or come with the dataset (`dataset.segments`), such as those of SAM. 0 is no
segment. Sources of the superpixels, which scikit-image finds: Achanta et al., SLIC Superpixels Compared to
State-of-the-art Superpixel Methods, TPAMI 2012; Felzenszwalb & Huttenlocher, Efficient Graph-Based Image Segmentation,
IJCV 2004.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from rca.core.arrays import FloatArray, Int64Array, UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.core.settings import Settings


class VoteSettings(Settings):
    """How the pixels of a segment vote.

    Attributes:
        votes: "labels" counts the pixels of each label, undecided ones aside; "scores" sums the scores of each label.
        majority: The share of a segment's votes above which it takes a label; a segment without such a label is
            undecided.
    """

    votes: Literal["scores", "labels"] = "labels"
    majority: float = Field(default=0.5, ge=0, lt=1)


class SlicSettings(VoteSettings):
    """Superpixels of much the same size (SLIC).

    Attributes:
        number: About how many there are in a photograph.
        compactness: The higher, the more they are squares, the lower, the more they follow colours.
    """

    kind: Literal["slic"]
    number: int = Field(default=400, ge=2, le=1_000_000)
    compactness: float = Field(default=10, gt=0, le=10_000)


class FelzenszwalbSettings(VoteSettings):
    """Superpixels that are as large as their surroundings are even (Felzenszwalb & Huttenlocher).

    Attributes:
        scale: The higher, the larger they are.
        smoothing: Width of the Gaussian that smooths the photograph first, in pixels.
        smallest: The pixels of the smallest one.
    """

    kind: Literal["felzenszwalb"]
    scale: float = Field(default=100, gt=0, le=1e6)
    smoothing: float = Field(default=0.8, ge=0, le=100)
    smallest: int = Field(default=50, ge=1, le=1_000_000)


class StoredSettings(VoteSettings):
    """Segments that come with the dataset, in the folder `dataset.segments`."""

    kind: Literal["stored"]


Superpixels = SlicSettings | FelzenszwalbSettings
SegmentSettings = Annotated[Superpixels | StoredSettings, Field(discriminator="kind")]


def find_superpixels(photograph: UInt8Array, settings: Superpixels) -> Int64Array:
    """Divide a photograph into superpixels.

    Args:
        photograph: (H, W, 3), RGB.
        settings: Their kind.

    Returns:
        (H, W), the number of each pixel's superpixel, from 1.

    Raises:
        UserError: scikit-image is not installed.
    """
    try:
        from skimage import segmentation  # here, since only some runs need it
    except ModuleNotFoundError:
        raise UserError(
            "Superpixels need scikit-image, which is not installed: run `pip install 'rca[segments]'`, or set"
            " refine_crf.segments to null."
        ) from None
    if isinstance(settings, SlicSettings):
        found = segmentation.slic(
            photograph, n_segments=settings.number, compactness=settings.compactness, start_label=1
        )
    else:
        found = 1 + segmentation.felzenszwalb(
            photograph, scale=settings.scale, sigma=settings.smoothing, min_size=settings.smallest
        )
    superpixels: Int64Array = found.astype(np.int64)
    return superpixels


def vote(
    segments: Int64Array, mask: UInt8Array, weights: FloatArray, labels: UInt8Array, majority: float
) -> UInt8Array:
    """Give each segment the label that its pixels support most.

    Args:
        segments: (H, W), the number of each pixel's segment, from 1; 0 for none.
        mask: (H, W), whose labels stay where there is no segment.
        weights: (L, H, W), how much a pixel supports each label, at least 0; a pixel of zeros does not vote.
        labels: (L,), the labels.
        majority: The share of a segment's weight that its label must exceed, 0..1.

    Returns:
        (H, W): of values in `labels`, or 255 where no label of a segment exceeds the majority.
    """
    places = segments.ravel()
    sums = np.stack([np.bincount(places, weight.ravel()) for weight in weights])
    best = sums.argmax(0)
    decided = sums.max(0) > majority * sums.sum(0)  # never where nothing votes
    taken = np.where(decided, labels[best], IGNORE).astype(np.uint8)[segments]
    refined: UInt8Array = np.where(segments == 0, mask, taken)
    return refined


def weigh_labels(mask: UInt8Array, labels: UInt8Array) -> FloatArray:
    """Weights (L, H, W) of a mask's labels: 1 for each pixel's own, none for undecided pixels."""
    weights: FloatArray = (mask[None] == labels[:, None, None]).astype(np.float64)
    return weights


def weigh_scores(scores: FloatArray) -> FloatArray:
    """Weights (L, H, W) of scores, at least 0, that sum to 1 at each pixel."""
    shares: FloatArray = scores / np.maximum(scores.sum(0), 1e-8)
    return shares
