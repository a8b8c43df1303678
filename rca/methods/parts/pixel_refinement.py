"""Pixel-adaptive refinement: scores drawn to the neighbours of like colour, a few steps on the device.

Source: Ru, Zhan, Yu and Du, Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation with
Transformers (AFA), CVPR 2022. It takes the place of a dense CRF where a training step needs one.
"""

import torch
from torch import Tensor
from torch.nn import functional

COLOUR_WIDTH = 0.3
POSITION_SHARE = 0.01
"""w1 and w2 of the paper: how fast the affinity falls with the difference in colour, and what distance adds to it."""


def refine_by_pixels(
    scores: Tensor, images: Tensor, valid: Tensor, dilations: tuple[int, ...], iterations: int
) -> Tensor:
    """Replace each position's scores by the mean of its neighbours', weighted by affinity, time and again.

    Args:
        scores: (B, K, h, w).
        images: (B, 3, h, w), on any scale: differences are counted in standard deviations of the neighbourhood.
        valid: (B, 1, h, w), 0 on padding, which has no affinity.
        dilations: The neighbourhood: eight positions at each of these distances.
        iterations: How often.

    Returns:
        (B, K, h, w), each score between the smallest and the largest of its neighbours'.
    """
    neighbours = _find_neighbours(images, dilations)
    difference = (neighbours - images[:, :, None]).abs() / (neighbours.std(2, keepdim=True) + 1e-8)
    alike = -(difference / COLOUR_WIDTH).square().mean(1)
    reach = torch.tensor([2**0.5, 1, 2**0.5, 1, 1, 2**0.5, 1, 2**0.5]).to(images)
    distance = torch.cat([dilation * reach for dilation in dilations])
    near = -(distance / (distance.std() + 1e-8) / COLOUR_WIDTH).square()[None, :, None, None]
    inside = _find_neighbours((valid > 0).to(images.dtype), dilations)[:, 0] > 0
    parts = [one.masked_fill(~inside, -1e4).softmax(1) for one in (alike, near.expand_as(alike))]
    affinity = (parts[0] + POSITION_SHARE * parts[1]) / (1 + POSITION_SHARE)
    for _ in range(iterations):
        scores = (_find_neighbours(scores, dilations) * affinity[:, None]).sum(2)
    return scores


def _find_neighbours(maps: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The neighbours (B, C, 8 for each dilation, h, w) of each position; beyond the border stands the border itself."""
    found = []
    for dilation in dilations:
        padded = functional.pad(maps, (dilation,) * 4, mode="replicate")
        windows = functional.unfold(padded, 3, dilation).unflatten(1, (maps.shape[1], 9))
        found.append(torch.cat([windows[:, :, :4], windows[:, :, 5:]], 2))
    return torch.cat(found, 2).unflatten(3, maps.shape[2:])
