"""Partners of training images: other images that share a class."""

from collections.abc import Sequence

import numpy as np


class Partners:
    """Draws for each image a partner that shares a class with it.

    First one of the image's classes that other images show too is drawn, then one of those other images, both with
    equal probabilities. An image that shares no class with another is its own partner.

    Args:
        tags: The classes of each image.
    """

    def __init__(self, tags: Sequence[tuple[int, ...]]) -> None:
        self._images: dict[int, list[int]] = {}
        for number, of_image in enumerate(tags):
            for tag in of_image:
                self._images.setdefault(tag, []).append(number)
        self._shared = [[tag for tag in of_image if len(self._images[tag]) > 1] for of_image in tags]

    def draw(self, random: np.random.Generator) -> list[int]:
        """The index of each image's partner."""
        shares = random.random((len(self._shared), 2)).tolist()
        return [self._choose(number, *two) for number, two in enumerate(shares)]

    def _choose(self, number: int, of_class: float, of_image: float) -> int:
        """The partner of an image, from two draws in 0..1: one for the class and one for the image."""
        shared = self._shared[number]
        if not shared:
            return number
        images = self._images[shared[int(of_class * len(shared))]]
        place = int(of_image * (len(images) - 1))
        return images[place + (images[place] >= number)]  # skips the image itself, as they ascend
