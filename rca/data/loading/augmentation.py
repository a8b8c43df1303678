"""Augmentation of a training image, and of the mask and the saliency map with it: resize, crop, mirror, recolour."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from rca.core.settings import Settings

Frame = tuple[float, float, float, float]
"""The position of an augmented image in its photograph, see `rca.data.loading.images.Sample.frame`."""


class AugmentationSettings(Settings):
    """How a training image is augmented.

    Attributes:
        scale: Range of the factor by which both sides are resized.
        crop: Side of the square that is cut out, in pixels; smaller images are padded. null uses whole images.
        flip: Mirror every second image.
        jitter: Strength of changes in brightness, contrast and saturation, 0..1.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    crop: int | None = Field(default=None, ge=32, le=1 << 14)
    flip: bool = True
    jitter: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> "AugmentationSettings":
        if not 1 / 16 <= self.scale[0] <= self.scale[1] <= 16:
            raise ValueError("scale must be two factors from 1/16 to 16, the smaller one first")
        return self


class Augmentation(NamedTuple):
    """The augmentation drawn for one image.

    Attributes:
        size: Width and height that the image is resized to.
        box: Left, top, right and bottom of the crop in the resized image.
        mirrored: Whether left and right are exchanged.
        colours: Factors of brightness, contrast and saturation; empty to leave the colours alone.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    mirrored: bool
    colours: tuple[float, ...]


def draw_augmentation(
    settings: AugmentationSettings, size: tuple[int, int], random: np.random.Generator
) -> Augmentation:
    """Draw the augmentation of one image.

    The only place that draws: scale, crop, mirror and colours, in this order.

    Args:
        settings: The ranges to draw from.
        size: Width and height of the photograph.
        random: The image's own generator.
    """
    factor = random.uniform(*settings.scale)
    width, height = (max(1, round(side * factor)) for side in size)
    left, top, right, bottom = 0, 0, width, height
    if settings.crop is not None:
        left = int(random.integers(0, max(0, width - settings.crop) + 1))
        top = int(random.integers(0, max(0, height - settings.crop) + 1))
        right, bottom = min(left + settings.crop, width), min(top + settings.crop, height)
    mirrored = settings.flip and bool(random.random() < 0.5)
    strength = settings.jitter
    colours = tuple(random.uniform(1 - strength, 1 + strength) for _ in range(3)) if strength else ()
    return Augmentation((width, height), (left, top, right, bottom), mirrored, colours)


def augment(
    image: Image.Image,
    mask: Image.Image,
    settings: AugmentationSettings,
    random: np.random.Generator,
    saliency: Image.Image | None = None,
) -> tuple[Image.Image, Image.Image, Frame, Image.Image | None]:
    """Augment an image, its mask and its saliency map alike.

    Returns:
        The image, the mask, the frame (see `rca.data.loading.images.Sample.frame`) and the saliency map.
    """
    drawn = draw_augmentation(settings, image.size, random)
    across, down = image.width / drawn.size[0], image.height / drawn.size[1]
    left, top, right, _ = drawn.box
    frame = (across, across * left, down, down * top)
    if drawn.mirrored:
        frame = (-across, across * right, down, down * top)
    image = _move(image, drawn, Image.Resampling.BILINEAR)
    mask = _move(mask, drawn, Image.Resampling.NEAREST)
    saliency = saliency and _move(saliency, drawn, Image.Resampling.BILINEAR)
    if drawn.colours:
        from torchvision.transforms import functional as colour

        adjustments = (colour.adjust_brightness, colour.adjust_contrast, colour.adjust_saturation)
        for adjust, factor in zip(adjustments, drawn.colours, strict=True):
            image = adjust(image, factor)
    return image, mask, frame, saliency


def _move(image: Image.Image, drawn: Augmentation, resampling: Image.Resampling) -> Image.Image:
    """Resize, crop and mirror."""
    if image.size != drawn.size:
        image = image.resize(drawn.size, resampling)
    if drawn.box != (0, 0, *drawn.size):
        image = image.crop(drawn.box)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawn.mirrored else image
