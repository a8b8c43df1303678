"""Resizing of images to another scale, and of maps to another size."""

from torch import Tensor
from torch.nn import functional


def rescale(images: Tensor, scale: float) -> Tensor:
    """Resize both sides by a factor, with antialiasing.

    Args:
        images: (B, 3, H, W).
        scale: Above 0; 1 returns the images unchanged.
    """
    if scale == 1:
        return images
    height, width = images.shape[2:]
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return functional.interpolate(images, size, mode="bilinear", antialias=True)


def size_of(maps: Tensor) -> tuple[int, int]:
    """Height and width of maps (B, C, h, w)."""
    return maps.shape[2], maps.shape[3]


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly; maps of this size are returned unchanged."""
    return maps if size_of(maps) == size else functional.interpolate(maps, size, mode="bilinear")
