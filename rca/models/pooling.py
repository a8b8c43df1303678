"""Means and peaks over positions that leave out the padding."""

from torch import Tensor
from torch.nn import functional

from rca.core.normalisation import normalise_maps


def pool_mean(maps: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid positions.

    Args:
        maps: (B, C, h, w).
        valid: (B, 1, h, w), weights 0..1; in no image all 0.

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
    return normalise_maps(maps, valid, peak="exact").masked_fill(tags[..., None, None] == 0, 0)


def shrink_valid(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of each feature's field that lies on the image (B, 1, h, w), 0..1.

    Args:
        valid: (B, 1, H, W), 1 on the image and 0 on padding.
        size: Height and width of the features.
    """
    return functional.adaptive_avg_pool2d(valid, size)
