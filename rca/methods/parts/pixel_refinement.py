"""Pixel-adaptive refinement: a few steps that average scores over neighbours of similar colour, on the GPU.

Source: Ru, Zhan, Yu and Du, Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation with
Transformers (AFA), CVPR 2022. It replaces a dense CRF within a training step.
"""

import torch
from torch import Tensor
from torch.nn import functional

COLOUR_WIDTH = 0.3
POSITION_SHARE = 0.01
"""w1 and w2 of the paper: how fast the affinity falls with the colour difference, and the weight of distance."""


def refine_by_pixels(
    scores: Tensor, images: Tensor, valid: Tensor, dilations: tuple[int, ...], iterations: int
) -> Tensor:
    """Replace each position's scores by the affinity-weighted mean of its neighbours' scores, several times.

    Args:
        scores: (B, K, h, w).
        images: (B, 3, h, w), in any range: differences are measured in standard deviations of the neighbourhood.
        valid: (B, 1, h, w), 0 on padding, which has no affinity.
        dilations: The neighbourhood: eight positions at each of these distances.
        iterations: Number of steps.

    Returns:
        (B, K, h, w), each score between the smallest and the largest score of its neighbours.
    """
    neighbours = _find_neighbours(images, dilations)
    difference = (neighbours - images[:, :, None]).abs() / (neighbours.std(2, keepdim=True) + 1e-8)
    alike = -(difference / COLOUR_WIDTH).square().mean(1)
    reach = torch.tensor([2**0.5, 1, 2**0.5, 1, 1, 2**0.5, 1, 2**0.5]).to(images)
    distance = torch.cat([dilation * reach for dilation in dilations])
    near = -(distance / (distance.std() + 1e-8) / COLOUR_WIDTH).square()[None, :, None, None]
    inside = _find_neighbours((valid > 0).to(images.dtype), dilations)[:, 0] > 0
    parts = [logits.masked_fill(~inside, -1e4).softmax(1) for logits in (alike, near.expand_as(alike))]
    affinity = (parts[0] + POSITION_SHARE * parts[1]) / (1 + POSITION_SHARE)
    for _ in range(iterations):
        scores = (_find_neighbours(scores, dilations) * affinity[:, None]).sum(2)
    return scores


def _find_neighbours(maps: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The neighbours of each position, eight per dilation, (B, C, 8 x dilations, h, w); the border is replicated."""
    neighbours = []
    for dilation in dilations:
        padded = functional.pad(maps, (dilation,) * 4, mode="replicate")
        windows = torch.unflatten(functional.unfold(padded, 3, dilation), 1, (maps.shape[1], 9))
        neighbours.append(torch.cat([windows[:, :, :4], windows[:, :, 5:]], 2))
    return torch.unflatten(torch.cat(neighbours, 2), 3, maps.shape[2:])
