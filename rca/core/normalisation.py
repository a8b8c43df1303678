"""Bring maps to 0..1, each by its own range: the only place with the formula and its guard against division by 0."""

from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-5
Normalisation = Literal["max", "min_max"]
"""How a map is brought to 0..1: by its maximum, or by its minimum and maximum."""


def normalise_maps(
    maps: Tensor,
    valid: Tensor | None = None,
    by: Normalisation = "max",
    peak: Literal["damped", "exact"] = "damped",
) -> Tensor:
    """Divide each map by its maximum, after subtracting its minimum for "min_max".

    `peak` chooses how EPSILON guards the division:

    * "damped" divides by maximum + EPSILON: a map that is almost 0 everywhere stays almost 0, and a peak lies just
      below 1. Inference, HSC, the losses of SEAM and OAA, and the random walk use it, since their maps are scores.
    * "exact" divides by max(maximum, EPSILON): a peak is exactly 1. `rca.models.pooling.share_of_peak` uses it, since
      regions compare shares with a threshold and with each other.

    Args:
        maps: (..., h, w), at least 0. "exact" also takes values below 0, which stay below 0.
        valid: Of a shape that broadcasts to the maps, 0 on padding, where no range is measured; None without padding.
        by: "min_max" for maps that are nowhere 0, e.g. those that an attention has smoothed (SEAM).
        peak: The guard.

    Returns:
        (..., h, w), at most 1. With a `valid`, "damped" gives 0 on padding and "exact" any value.
    """
    if by == "min_max":
        maps = maps - _fill_padding(maps, valid, torch.inf).amin((-2, -1), keepdim=True)
    if peak == "exact":
        return maps / _fill_padding(maps, valid, -torch.inf).amax((-2, -1), keepdim=True).clamp(min=EPSILON)
    if valid is not None:
        maps = maps * (valid > 0)
    return maps / (maps.amax((-2, -1), keepdim=True) + EPSILON)


def _fill_padding(maps: Tensor, valid: Tensor | None, value: float) -> Tensor:
    return maps if valid is None else maps.masked_fill(valid == 0, value)
