"""What is done to a training image: it is resized, cropped, mirrored and recoloured, and what lies on it with it."""

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from rca.core.settings import Settings

Frame = tuple[float, float, float, float]


class AugmentationSettings(Settings):
    """What is done to a training image.

    Attributes:
        scale: Range of the factor by which both sides are resized.
        crop: Side of the square that is cut out, in pixels; smaller images are padded. null takes whole images.
        flip: Mirror every second image.
        jitter: Strength of changes in brightness, contrast and saturation, 0..1.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    crop: int | None = Field(default=None, ge=32)
    flip: bool = True
    jitter: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> "AugmentationSettings":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be two positive factors, the smaller one first")
        return self


def augment(
    image: Image.Image,
    mask: Image.Image,
    settings: AugmentationSettings,
    random: np.random.Generator,
    saliency: Image.Image | None = None,
) -> tuple[Image.Image, Image.Image, Frame, Image.Image | None]:
    """Resize, crop, mirror and recolour an image, its mask and its saliency map with it; the frame is `Sample`'s."""
    across, down, left, top = 1.0, 1.0, 0, 0
    low, high = settings.scale
    factor = random.uniform(low, high)
    if factor != 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        across, down = image.width / size[0], image.height / size[1]
        image, mask = image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)
        saliency = saliency and saliency.resize(size, Image.Resampling.BILINEAR)
    if settings.crop is not None:
        left = int(random.integers(0, max(0, image.width - settings.crop) + 1))
        top = int(random.integers(0, max(0, image.height - settings.crop) + 1))
        box = (left, top, min(left + settings.crop, image.width), min(top + settings.crop, image.height))
        image, mask, saliency = image.crop(box), mask.crop(box), saliency and saliency.crop(box)
    frame = (across, across * left, down, down * top)
    if settings.flip and random.random() < 0.5:
        frame = (-across, across * (left + image.width), down, down * top)
        mirror = Image.Transpose.FLIP_LEFT_RIGHT
        image, mask = image.transpose(mirror), mask.transpose(mirror)
        saliency = saliency and saliency.transpose(mirror)
    if settings.jitter:
        from torchvision.transforms import functional as colour

        for adjust in (colour.adjust_brightness, colour.adjust_contrast, colour.adjust_saturation):
            image = adjust(image, random.uniform(1 - settings.jitter, 1 + settings.jitter))
    return image, mask, frame, saliency
