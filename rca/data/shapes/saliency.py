"""Saliency maps for the embedded dataset, with the errors of a saliency model: blur, missed and false objects."""

import numpy as np
from PIL import Image, ImageFilter
from pydantic import Field

from rca.core.arrays import UInt8Array
from rca.core.files import IGNORE
from rca.core.settings import Settings

STRENGTH = (0.6, 1.0)  # saliency of true and false objects
BLOB = (0.06, 0.16)  # half axes of a false object, as shares of the picture's side


class ShapesSaliencySettings(Settings):
    """How wrong the maps are.

    Attributes:
        missed: The probability that the map misses an object.
        false: The mean number of false objects in a picture.
        blur: Standard deviation of the blur, as a share of the picture's side.
    """

    missed: float = Field(default=0.15, ge=0, le=1)
    false: float = Field(default=0.5, ge=0)
    blur: float = Field(default=0.02, ge=0, le=1)


def draw_saliency(mask: UInt8Array, settings: ShapesSaliencySettings, rng: np.random.Generator) -> UInt8Array:
    """Draw the saliency map of a picture.

    Args:
        mask: (H, W), uint8: 0 for the ground, the classes, and 255 at the borders of objects.
        settings: How wrong it is.
        rng: The random generator; the number of draws does not depend on `missed` and `blur`.

    Returns:
        (H, W), uint8, 0..255.
    """
    height, width = mask.shape
    salient = np.zeros(mask.shape)
    for label in sorted(set(np.unique(mask).tolist()) - {0, IGNORE}):
        missed, strength = rng.random() < settings.missed, rng.uniform(*STRENGTH)
        if not missed:
            body = Image.fromarray((mask == label).astype(np.uint8))
            # The border has no label, so the object grows into it.
            grown = np.asarray(body.filter(ImageFilter.MaxFilter(3))) * np.isin(mask, (label, IGNORE))
            salient = np.maximum(salient, strength * grown)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(rng.poisson(settings.false)):
        centre_y, centre_x = rng.uniform(0, (height, width))
        axes = rng.uniform(*BLOB, 2) * (height, width)
        inside = ((rows - centre_y) / axes[0]) ** 2 + ((columns - centre_x) / axes[1]) ** 2 <= 1
        salient = np.maximum(salient, rng.uniform(*STRENGTH) * inside)
    picture = Image.fromarray((255 * salient).round().astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(settings.blur * max(height, width))))
