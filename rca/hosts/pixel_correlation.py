"""The pixel correlation module: maps spread to the positions that look alike (Wang et al., SEAM, CVPR 2020)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.hosts.base import Levels

COLUMNS = 4096
"""Positions whose affinities are held at once: at inference a large image has tens of thousands."""


class PixelCorrelation(nn.Module):
    """Refines maps by the affinity of positions in the image and in two earlier levels of the backbone.

    Gradients reach the module's own three layers and stop there: not the levels, nor what the maps come from.

    Args:
        level_channels: Of the two levels.
    """

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
    """Each position's mean of the maps over all positions, weighted by how alike they are.

    The weight of two positions is the cosine of their embeddings where it is above 0.

    Args:
        maps: (B, C, h, w).
        embedding: (B, D, h, w).
        valid: (B, 1, h, w), 0 on padding, which takes no part.

    Returns:
        (B, C, h, w), 0 on padding.
    """
    inside = (valid > 0).flatten(2)
    unit = functional.normalize(embedding.flatten(2), dim=1, eps=1e-5)
    source = unit.transpose(1, 2) * inside.transpose(1, 2)
    flat = maps.flatten(2).to(unit.dtype)
    refined = []
    for column in unit.split(COLUMNS, dim=2):
        affinity = (source @ column).relu()
        refined.append(flat @ affinity / affinity.sum(1, keepdim=True).clamp(min=1e-5))
    return (torch.cat(refined, 2) * inside).unflatten(2, maps.shape[2:])
