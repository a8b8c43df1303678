"""Resizing of a batch of images to another scale."""

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
