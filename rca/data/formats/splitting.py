"""Splits for a dataset that has none: each image draws its own, so that a new image never moves another.

A draw hangs on the seed and the image's id alone. It looks at no tag, so every class and every combination of classes
is divided in the same proportion, up to chance; `find_stratified_seed` finds the seed by which chance does best.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from rca.core.arrays import Float64Array

TRIES = 200


def draw_number(image_id: str, seed: int) -> float:
    """A number in [0, 1) that looks random and is the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image_id}".encode()).digest()[:6], "big") / 2**48


def is_held_out(image_id: str, share: float, seed: int) -> bool:
    """Whether an image is held out from training, as a share of all are."""
    return draw_number(image_id, seed) < share


def find_stratified_seed(tags: Mapping[str, Sequence[str]], share: float, tries: int = TRIES) -> int:
    """The seed below `tries` that divides the classes most evenly.

    Args:
        tags: Each image's tags, by its id.
        share: Of the images that are to be held out, 0..1.
        tries: How many seeds are looked at.

    Returns:
        The seed with the least `measure_imbalance`; the first of several.
    """
    return min(range(tries), key=lambda seed: measure_imbalance(tags, share, seed))


def propose_seed(tags: Mapping[str, Sequence[str]], share: float, seed: int) -> int | None:
    """Another seed, where the one given divides the classes worse than seeds do on average."""
    if measure_imbalance(tags, share, seed) <= 1:
        return None
    best = find_stratified_seed(tags, share)
    return None if measure_imbalance(tags, share, best) > 1 else best


def measure_imbalance(tags: Mapping[str, Sequence[str]], share: float, seed: int) -> float:
    """How far a seed is from dividing each class, and all images, by the same share.

    Returns:
        The root of the mean square, over the classes and the whole, of the difference between the share of its images
        that are held out and the one wanted, in units of its standard deviation under chance: 1 is what one expects.
    """
    counts: dict[str | None, Float64Array] = {}
    for image_id, of_image in tags.items():
        held_out = is_held_out(image_id, share, seed)
        for tag in (None, *set(of_image)):
            counts.setdefault(tag, np.zeros(2))[:] += (1, held_out)
    number, held = np.stack(list(counts.values())).T
    deviation = (held - share * number) / np.sqrt(number * share * (1 - share))
    return float(np.sqrt(np.mean(deviation**2)))
