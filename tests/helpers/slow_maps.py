"""What the published losses share, written out position by position on arrays in double precision.

Formulas are read literally, with one exception: positions on padding, which the papers do not have, are left out.
Array shapes: maps (K, h, w), a mask of what lies on the image (h, w).
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float64]
GUARD = 1e-5  # of each division by a maximum or a range


def list_places(inside: Maps) -> Iterator[tuple[int, int]]:
    """The positions that lie on the image."""
    for y in range(inside.shape[0]):
        for x in range(inside.shape[1]):
            if inside[y, x] > 0:
                yield y, x


def soft_margin(scores: list[float], tags: list[float]) -> float:
    """The mean over classes of -[t log s(x) + (1 - t) log(1 - s(x))] with the sigmoid s."""
    terms = []
    for score, tag in zip(scores, tags, strict=True):
        probability = 1 / (1 + math.exp(-score))
        terms.append(-math.log(probability) if tag else -math.log(1 - probability))
    return math.fsum(terms) / len(terms)


def pool(maps: Maps, inside: Maps) -> list[float]:
    """The mean of each map over the image."""
    places = list(list_places(inside))
    return [math.fsum(one[place] for place in places) / len(places) for one in maps]


def spread_range(maps: Maps, inside: Maps) -> Maps:
    """(x - min) / (max - min) of each map after ReLU."""
    found = np.zeros_like(maps)
    places = list(list_places(inside))
    for number, one in enumerate(maps):
        values = [max(0.0, float(one[place])) for place in places]
        low, high = min(values), max(values)
        for place, value in zip(places, values, strict=True):
            found[(number, *place)] = (value - low) / (high - low + GUARD)
    return found


def resize(maps: Maps, size: tuple[int, int]) -> Maps:
    """Bilinear interpolation between the centres of positions."""
    height, width = maps.shape[1:]
    found = np.zeros((len(maps), *size))
    for row in range(size[0]):
        for column in range(size[1]):
            y = max(0.0, (row + 0.5) * height / size[0] - 0.5)
            x = max(0.0, (column + 0.5) * width / size[1] - 0.5)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = y - top, x - left
            found[:, row, column] = (
                (1 - down) * (1 - across) * maps[:, top, left]
                + (1 - down) * across * maps[:, top, right]
                + down * (1 - across) * maps[:, bottom, left]
                + down * across * maps[:, bottom, right]
            )
    return found


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vector divided by its length."""
    return vector / math.sqrt(math.fsum(float(value) ** 2 for value in vector))


def softmax(values: list[float]) -> list[float]:
    """exp(x) / sum of exp(x)."""
    powers = [math.exp(value) for value in values]
    return [power / math.fsum(powers) for power in powers]


def mean(values: list[float]) -> float:
    """The mean of a list."""
    return math.fsum(values) / len(values)
