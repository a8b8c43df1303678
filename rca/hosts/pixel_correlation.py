"""The pixel correlation module: spread maps to positions that look alike (Wang et al., SEAM, CVPR 2020)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.hosts.base import Levels

COLUMNS = 4096
"""Positions whose affinities are in memory at once; at inference a large image has tens of thousands."""


class PixelCorrelation(nn.Module):
    """Refine maps by the affinities of positions in the image and in two earlier levels of the backbone.

    Gradients reach the module's own three layers only, neither the levels nor the source of the maps.

    Args:
        level_channels: Channels of the two levels.
    """

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    def __init__(self, level_channels: tuple[int, ...]) -> None:
        super().__init__()
        earlier, later = level_channels
        self.earlier = nn.Conv2d(earlier, 64, 1, bias=False)
        self.later = nn.Conv2d(later, 128, 1, bias=False)
        self.embedding = nn.Conv2d(3 + 64 + 128, 192, 1, bias=False)
        nn.init.kaiming_normal_(self.earlier.weight)
        nn.init.kaiming_normal_(self.later.weight)
        nn.init.xavier_uniform_(self.embedding.weight, gain=4)

    def forward(self, maps: Tensor, levels: Levels, valid: Tensor) -> Tensor:
        """Refine maps (B, C, h, w).

        Args:
            maps: At least 0.
            levels: The images and the features of the two levels, no smaller than the maps.
            valid: (B, 1, h, w), 0 on padding.
        """
        size = (maps.shape[2], maps.shape[3])
        image, earlier, later = (functional.adaptive_avg_pool2d(level.detach(), size) for level in levels)
        parts = [image, self.earlier(earlier).relu(), self.later(later).relu()]
        return propagate(maps.detach(), self.embedding(torch.cat(parts, 1)), valid)


def propagate(maps: Tensor, embedding: Tensor, valid: Tensor) -> Tensor:
    """Replace the maps at each position by their mean over all positions, weighted by similarity.

    The weight of two positions is the cosine of their embeddings, or 0 if that is negative.

    Args:
        maps: (B, C, h, w).
        embedding: (B, D, h, w).
        valid: (B, 1, h, w), 0 on padding, which has no weight.

    Returns:
        (B, C, h, w), 0 on padding.
    """
    inside = (valid > 0).flatten(2)
    unit = functional.normalize(embedding.flatten(2), dim=1, eps=1e-5)
    source = unit.transpose(1, 2) * inside.transpose(1, 2)
    flat = maps.flatten(2).to(unit.dtype)
    refined = []
    for column in torch.split(unit, COLUMNS, dim=2):
        affinity = (source @ column).relu()
        refined.append(flat @ affinity / affinity.sum(1, keepdim=True).clamp(min=1e-5))
    return torch.unflatten(torch.cat(refined, 2) * inside, 2, maps.shape[2:])
