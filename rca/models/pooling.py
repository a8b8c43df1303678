"""Means and ranges over positions that leave out the padding."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Normalisation = Literal["max", "min_max"]
"""How a map is brought to 0..1: by its maximum, or by its minimum and maximum."""


def pool_mean(maps: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid positions.

    Args:
        maps: (B, C, h, w).
        valid: (B, 1, h, w), weights of 0..1; not all 0 in any image.

    Returns:
        (B, C).
    """
    return (maps * valid).sum((2, 3)) / valid.sum((2, 3))


def pool_regions(features: Tensor, masks: Tensor) -> Tensor:
    """Masked average pooling (RCA, section 3.2): the mean feature of each region.

    Args:
        features: (B, D, h, w).
        masks: (B, C, h, w), 1 in the region and 0 outside.

    Returns:
        (B, C, D); 0 where a region is empty.
    """
    area = masks.flatten(2).sum(2).clamp(min=1)
    sums = masks.flatten(2) @ features.flatten(2).transpose(1, 2)
    return sums / area[..., None]


def share_of_peak(maps: Tensor, valid: Tensor, tags: Tensor) -> Tensor:
    """Each tagged map as a share of its maximum over the image (B, C, h, w), 0 for classes that are not tagged."""
    peaks = maps.masked_fill(valid == 0, -torch.inf).amax((2, 3), keepdim=True)
    return (maps / peaks.clamp(min=1e-5)).masked_fill(tags[..., None, None] == 0, 0)


def shrink_valid(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """What part of each feature's field lies on the image, from the same at full resolution.

    Args:
        valid: (B, 1, H, W), 1 on the image and 0 on padding.
        size: Height and width of the features.
    """
    return functional.adaptive_avg_pool2d(valid, size)


def normalise_range(maps: Tensor, valid: Tensor, by: Normalisation = "min_max") -> Tensor:
    """Bring each map to 0..1 by its minimum and maximum over the image, or its maximum alone, after ReLU.

    Args:
        maps: (B, C, h, w).
        valid: (B, 1, h, w), 0 on padding.
        by: "max" leaves the minimum where it is.

    Returns:
        (B, C, h, w), 0 on padding.
    """
    maps = maps.relu()
    if by == "min_max":
        maps = maps - maps.masked_fill(valid == 0, float("inf")).amin((2, 3), keepdim=True)
    maps = maps * (valid > 0)
    return maps / (maps.amax((2, 3), keepdim=True) + 1e-5)
