"""Pseudo regions: where the map of a class is high, and where that lies in the photograph."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rca.models.pooling import pool_mean, share_of_peak

GRID = 16
"""Cells per side of the grid that stores the shape of a region."""


class Regions(NamedTuple):
    """The regions of a batch, R of them.

    Attributes:
        embedding: (R, D), the mean feature.
        row: (R,), int64: the row of the memory, i.e. the class.
        image: (R,), int64: the position of the image in the manifest.
        confidence: (R,), the classifier's probability of the class, 0..1.
        box: (R, 4), float32: left, top, right and bottom in pixels of the photograph.
        region: (R, GRID, GRID), uint8: the share of each cell of a grid over the box that belongs to the region,
            0..255.
    """

    embedding: Tensor
    row: Tensor
    image: Tensor
    confidence: Tensor
    box: Tensor
    region: Tensor

    def select(self, chosen: Tensor) -> "Regions":
        """The regions that a mask or a list of indices chooses."""
        return Regions(*(part[chosen] for part in self))


def find_regions(maps: Tensor, valid: Tensor, tags: Tensor, threshold: Literal["mean"] | float) -> Tensor:
    """Pseudo regions: where the map of a class is high.

    Args:
        maps: (B, C, h, w), before ReLU, or their softmax over the classes.
        valid: (B, 1, h, w), 0 on padding.
        tags: (B, C) of 0 and 1.
        threshold: "mean" for the mean of the map (RCA, section 3.2; regions may overlap). A number for that share of
            the map's maximum, where no other tagged map reaches a larger share of its own maximum; otherwise two
            classes that occur together, such as face and body, would share one region and one prototype.

    Returns:
        (B, C, h, w), 1 in the region and 0 outside. A constant map has an empty region.
    """
    if threshold == "mean":
        return ((maps > pool_mean(maps, valid)[..., None, None]) & (valid > 0)).to(maps.dtype)
    share = share_of_peak(maps, valid, tags)
    return ((share > threshold) & (share == share.amax(1, keepdim=True)) & (valid > 0)).to(maps.dtype)


def locate_regions(masks: Tensor, frame: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The position of regions in their photographs.

    Args:
        masks: (R, h, w) of 0 and 1, at the resolution of the features; no mask is empty.
        frame: (R, 4), the `rca.data.loading.images.Sample.frame` of each region's image.
        size: Height and width of the batch's images, padding included.

    Returns:
        `Regions.box` (R, 4) and `Regions.region` (R, GRID, GRID).
    """
    masks = masks.float()
    ends = []
    for axis, pixels, (factor, offset) in ((2, size[1], frame.T[:2]), (1, size[0], frame.T[2:])):
        cells = masks.shape[axis]
        occupied = masks.amax(3 - axis)
        first, last = occupied.argmax(1), cells - occupied.flip(1).argmax(1)
        edges = torch.stack([first, last], 1)
        # On a mirrored axis the first cell is the last one in the photograph.
        edges = torch.where(factor[:, None] < 0, edges.flip(1), edges)
        ends.append((edges / cells, edges * (pixels / cells) * factor[:, None] + offset[:, None]))
    (across, horizontal), (down, vertical) = ends
    box = torch.stack([horizontal[:, 0], vertical[:, 0], horizontal[:, 1], vertical[:, 1]], 1)
    centres = (torch.arange(GRID, device=masks.device) + 0.5) / GRID
    x, y = (part[:, :1] + (part[:, 1:] - part[:, :1]) * centres for part in (across, down))
    points = torch.stack([x[:, None].expand(-1, GRID, -1), y[:, :, None].expand(-1, -1, GRID)], 3)
    shape = functional.grid_sample(masks[:, None], 2 * points - 1, mode="nearest", align_corners=False)[:, 0]
    return box, (255 * shape).to(torch.uint8)
