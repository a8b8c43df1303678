"""Segment images of any size, in overlapping tiles whose probabilities are blended.

An image that fits a tile is one tile, and the result is that of the pipeline. Along a longer side, tiles start at
multiples of `ALIGNMENT`, so that a tile's features lie on the same grid as those of the whole image.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rca.core.arrays import Float32Array, UInt8Array
from rca.core.progress import track
from rca.core.settings import Scales, Settings
from rca.data.loading.images import normalise
from rca.segmentation.network import Segmenter
from rca.segmentation.predict import sum_probabilities

# A multiple of each output stride, even after resizing by quarters.
ALIGNMENT = 32


class PredictionOptions(Settings):
    """How images of any size are segmented.

    Attributes:
        scales: Factors to resize a tile by; the probabilities of all are averaged.
        flip: Whether to predict the mirrored tile too.
        tile: The longest side of a tile at scale 1, in pixels. Peak memory grows with its square and with the number
            of classes.
        overlap: The overlap of neighbouring tiles, in pixels. Near its border, a tile has less context.
        batch_size: The number of tiles in a batch.
    """

    scales: Scales = (1.0,)
    flip: bool = True
    tile: int = Field(default=1024, ge=2 * ALIGNMENT, le=1 << 15, multiple_of=ALIGNMENT)
    overlap: int = Field(default=256, ge=0, multiple_of=ALIGNMENT)
    batch_size: int = Field(default=1, ge=1, le=4096)

    @model_validator(mode="after")
    def _tiles_move_on(self) -> "PredictionOptions":
        if self.overlap > self.tile // 2:
            raise ValueError(f"overlap is {self.overlap}: it may be at most half of the tile ({self.tile})")
        return self


@dataclass(frozen=True)
class Span:
    """The extent of a tile along one side of the image.

    Attributes:
        start: The first pixel.
        weights: (L,), float32: the tile's weight at each of its pixels; over all tiles, the weights sum to 1.
    """

    start: int
    weights: Tensor

    @property
    def slice(self) -> slice:
        """Its pixels."""
        return slice(self.start, self.start + len(self.weights))


def place_tiles(length: int, tile: int, overlap: int) -> list[Span]:
    """Cover one side of an image evenly.

    Args:
        length: The side's length in pixels.
        tile: The longest tile allowed, a multiple of `ALIGNMENT`.
        overlap: The least overlap of neighbours, a multiple of `ALIGNMENT`, at most half of `tile`.

    Returns:
        One span if the side fits a tile. Else ascending spans of `tile` pixels; the last ends at the next multiple of
        `ALIGNMENT` after the side.
    """
    if length <= tile:
        return [Span(0, torch.ones(length))]
    last = math.ceil(length / ALIGNMENT) * ALIGNMENT - tile
    steps = math.ceil(last / (tile - overlap))
    starts = [last * step // steps // ALIGNMENT * ALIGNMENT for step in range(steps + 1)]
    from_edge = torch.arange(1, tile + 1).minimum(torch.arange(tile, 0, -1))
    ramp = from_edge.clamp(max=overlap + 1).float() / (overlap + 1)
    total = torch.zeros(last + tile)
    for start in starts:
        total[start : start + tile] += ramp
    return [Span(start, ramp / total[start : start + tile]) for start in starts]


@torch.no_grad()
def segment(network: Segmenter, image: UInt8Array, options: PredictionOptions) -> tuple[UInt8Array, Float32Array]:
    """Segment an image of any size.

    Memory holds the probabilities of one row of tiles, never those of a whole large image.

    Args:
        network: The network, in evaluation mode.
        image: (H, W, 3), uint8, RGB.
        options: How to segment.

    Returns:
        The mask (H, W), uint8, 0 background and 1..C, and the probability of its label (H, W), float32, 0..1.
    """
    height, width = image.shape[:2]
    rows, columns = (place_tiles(side, options.tile, options.overlap) for side in (height, width))
    ends = [spans[-1].slice.stop for spans in (rows, columns)]
    if ends != [height, width]:
        image = np.pad(image, ((0, ends[0] - height), (0, ends[1] - width), (0, 0)), mode="reflect")
    mask, confidence = np.empty((height, width), np.uint8), np.empty((height, width), np.float32)
    rest: Tensor | None = None  # the share of earlier rows of tiles in pixels that this row also covers
    bounds = [row.start for row in rows] + ends[:1]
    steps = zip(rows, bounds[1:], strict=True)
    for row, end in track(steps, "rows of tiles", len(rows)) if len(rows) > 1 else steps:
        band = _segment_row(network, image, row, columns, options)
        if rest is not None:
            band[:, : rest.shape[1]] += rest
        done, rest = band[:, : end - row.start, :width], band[:, end - row.start :]
        best, labels = done[:, : height - row.start].max(0)
        mask[row.start : end] = labels.to(torch.uint8).numpy()
        confidence[row.start : end] = best.clamp_(max=1).numpy()
    return mask, confidence


def _segment_row(
    network: Segmenter, image: UInt8Array, row: Span, columns: list[Span], options: PredictionOptions
) -> Tensor:
    """The weighted probabilities (C+1, tile, W) of one row of tiles, on the CPU."""
    about, device = network.description, next(network.parameters()).device
    band = torch.zeros(len(about.classes) + 1, len(row.weights), image.shape[1])
    views = len(options.scales) * (2 if options.flip else 1)
    for batch in _split(columns, options.batch_size):
        tiles = [normalise(image[row.slice, column.slice], about.mean, about.std) for column in batch]
        sums = sum_probabilities(network, torch.stack(tiles).to(device), options.scales, options.flip).cpu()
        for probabilities, column in zip(sums, batch, strict=True):
            band[:, :, column.slice] += probabilities * (row.weights[:, None] * column.weights / views)
    return band


def _split(spans: list[Span], size: int) -> Iterator[list[Span]]:
    for start in range(0, len(spans), size):
        yield spans[start : start + size]
