"""Which image stands beside which: partners in training, references at inference."""

from collections.abc import Sequence

import numpy as np


class Partners:
    """Draws for each image another one that shares a class with it.

    Each class of an image that some other image has too is drawn with the same probability, then each of those others.
    An image that is alone with all its classes, or that has none, is its own partner.

    Args:
        tags: The classes of each image.
    """

    def __init__(self, tags: Sequence[tuple[int, ...]]) -> None:
        self._images: dict[int, list[int]] = {}
        for number, own in enumerate(tags):
            for tag in own:
                self._images.setdefault(tag, []).append(number)
        self._shared = [[tag for tag in own if len(self._images[tag]) > 1] for own in tags]

    def draw(self, random: np.random.Generator) -> list[int]:
        """The number of each image's partner."""
        shares = random.random((len(self._shared), 2)).tolist()
        return [self._choose(number, *two) for number, two in enumerate(shares)]

    def _choose(self, number: int, of_class: float, of_image: float) -> int:
        """The partner of an image, by where two draws from 0..1 point among its classes and their images."""
        shared = self._shared[number]
        if not shared:
            return number
        images = self._images[shared[int(of_class * len(shared))]]
        place = int(of_image * (len(images) - 1))
        return images[place + (images[place] >= number)]  # ascending, so this leaves out the image itself
