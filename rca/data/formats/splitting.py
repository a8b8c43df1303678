"""Splits for a dataset that has none. Each image is drawn by itself, so adding images never changes the others' split.

A draw depends only on the seed and the image's id. Tags play no part, so every class and every combination of classes
is split in the same proportion, up to chance; `find_stratified_seed` finds the seed that splits them best.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from rca.core.arrays import Float64Array

TRIES = 200


def draw_number(image_id: str, seed: int) -> float:
    """A pseudo-random number in [0, 1) that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image_id}".encode()).digest()[:6], "big") / 2**48


def is_held_out(image_id: str, share: float, seed: int) -> bool:
    """Whether an image is held out from training; a `share` of all images is."""
    return draw_number(image_id, seed) < share


def find_stratified_seed(tags: Mapping[str, Sequence[str]], share: float, tries: int = TRIES) -> int:
    """The seed below `tries` that splits the classes most evenly.

    Args:
        tags: Each image's tags, by its id.
        share: The share of images to hold out, 0..1.
        tries: The number of seeds to try.

    Returns:
        The first seed with the least `measure_imbalance`.
    """
    return min(range(tries), key=lambda seed: measure_imbalance(tags, share, seed))


def propose_seed(tags: Mapping[str, Sequence[str]], share: float, seed: int) -> int | None:
    """A better seed, if this one splits the classes worse than seeds do on average; else None."""
    if measure_imbalance(tags, share, seed) <= 1:
        return None
    best = find_stratified_seed(tags, share)
    return None if measure_imbalance(tags, share, best) > 1 else best


def measure_imbalance(tags: Mapping[str, Sequence[str]], share: float, seed: int) -> float:
    """How far a seed is from holding out the same share of each class, and of all images.

    Returns:
        For each class and the whole, the number of held-out images deviates from the wanted one by some multiple of its
        standard deviation under chance. This is the root mean square of those multiples; 1 is expected.
    """
    counts: dict[str | None, Float64Array] = {}
    for image_id, image_tags in tags.items():
        held_out = is_held_out(image_id, share, seed)
        for tag in (None, *set(image_tags)):
            counts.setdefault(tag, np.zeros(2))[:] += (1, held_out)
    total, held = np.stack(list(counts.values())).T
    deviation = (held - share * total) / np.sqrt(total * share * (1 - share))
    return float(np.sqrt(np.mean(deviation**2)))
