"""A random walk of score maps among cells that belong together.

PSA (Ahn & Kwak, CVPR 2018) was the first to let score maps walk by affinities, IRN (Ahn et al., CVPR 2019) lets them
walk between boundaries. Both compute with the matrix of all pairs of cells, which takes 10 GB for a photograph of
1024x768 at stride 4. Here a cell knows its neighbours alone, and the matrix of those is kept whole or in bands of rows.
"""

import math

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import dia_array

from rca.core.errors import UserError
from rca.core.normalisation import normalise_maps
from rca.core.settings import Settings
from rca.labels.affinity import list_offsets, list_windows
from rca.labels.score_maps import ScoreMaps

# What a walk leaves out of its sum, as a share of it; score maps are kept in half precision.
NEGLIGIBLE = 1e-6
MEGABYTE = 2**20


class WalkSettings(Settings):
    """A random walk; the defaults are IRN's.

    Attributes:
        radius: Cells that are closer than so many cells are neighbours.
        sharpness: The power to which affinities are raised (beta).
        steps: How far the scores walk.
        memory_mb: What the walk of one image may take up, in MB. Where a photograph's neighbourhoods exceed it they are
            computed anew for each step, a band of rows at a time; the result is the same.
    """

    radius: int = Field(default=5, ge=2)
    sharpness: float = Field(default=10, gt=0)
    steps: int = Field(default=256, ge=1, le=4096)
    memory_mb: int = Field(default=512, ge=1)


def build_affinity(openness: np.ndarray, radius: int) -> dia_array:
    """The affinities of all pairs of neighbours, and 1 of each cell to itself.

    Args:
        openness: (h, w), float, 0..1: how far a cell is from being a boundary.
        radius: As in `WalkSettings`.

    Returns:
        (h * w, h * w), symmetric, of the openness' type: the least openness on the line between two cells.
    """
    height, width = openness.shape
    pairs = []
    for windows in list_windows(height, width, radius):
        (rows, columns), (other_rows, other_columns) = windows[0], windows[-1]
        pairs.append(((other_rows.start - rows.start) * width + other_columns.start - columns.start, windows))
    # A set, since different neighbours share a diagonal where the map is narrower than a neighbourhood.
    offsets = sorted({0, *(sign * offset for offset, _ in pairs for sign in (-1, 1))})
    diagonals = np.zeros((len(offsets), height, width), openness.dtype)
    diagonals[offsets.index(0)] = 1
    for offset, windows in pairs:
        least = openness[windows[0]].copy()
        for window in windows[1:]:
            np.minimum(least, openness[window], out=least)
        # An entry lies on its diagonal at its column of the matrix.
        diagonals[offsets.index(offset)][windows[-1]] += least
        diagonals[offsets.index(-offset)][windows[0]] += least
    return dia_array((diagonals.reshape(len(offsets), -1), offsets), shape=(height * width, height * width))


def walk_maps(maps: ScoreMaps, boundary: np.ndarray, settings: WalkSettings) -> ScoreMaps:
    """An image's score maps after a walk, each divided by its maximum.

    Args:
        maps: As the network made them.
        boundary: As for `spread_scores`.
        settings: The walk.

    Raises:
        UserError: the memory does not suffice.
    """
    if len(maps.labels) == 0:
        return maps
    spread = spread_scores(maps.scores, boundary, settings)
    return maps._replace(scores=normalise_maps(torch.from_numpy(spread)).numpy().astype(np.float16))


def spread_scores(scores: np.ndarray, boundary: np.ndarray, settings: WalkSettings) -> np.ndarray:
    """Let scores walk at random among cells that belong together, as IRN does.

    A score starts lower on a boundary: as scores * (1 - boundary). A step gives each cell the mean of its neighbours'
    scores and its own, weighed by affinities.

    Args:
        scores: (K, h, w), float, 0..1.
        boundary: (h, w), float, 0..1: how probably a cell lies between different objects.
        settings: The walk.

    Returns:
        (K, h, w), float32, or float64 where the scores are: the scores after all steps, 0..1.

    Raises:
        UserError: the memory does not suffice.
    """
    kind = np.result_type(scores, np.float32)
    open_cells = 1 - boundary.astype(kind)
    started = (scores * open_cells).reshape(len(scores), boundary.size)
    neighbours = _Neighbours(open_cells**settings.sharpness, len(scores), settings)
    # All n steps at once are the power T ** n of the matrix of one. As cos(x) ** n is the mean of cos(j x) over the
    # places j where a walk of n steps to the left or right may end, T ** n is the mean of Chebyshev's polynomials of T,
    # and few of them count: 78 for n = 256 (Sachdeva & Vishnoi, Faster Algorithms via Approximation Theory, 2014).
    chances = list_chances(settings.steps)
    before, now = started, neighbours.average(started)
    total = chances[0] * before + chances[1] * now
    for chance in chances[2:]:
        following = neighbours.average(now)
        following *= 2
        following -= before
        before, now = now, following
        total += chance * now
    return np.clip(total, 0, 1, out=total).reshape(scores.shape)


def list_chances(steps: int) -> list[float]:
    """Chances that a walk of so many steps of 1 to the left or right ends 0, 1, 2, ... away from its start.

    The list has two entries at least and ends where all further ones together are negligible.
    """
    chances: list[float] = []
    while len(chances) < 2 or 1 - sum(chances) > NEGLIGIBLE:
        place = len(chances)
        ways = math.comb(steps, (steps + place) // 2) if (steps + place) % 2 == 0 else 0
        chances.append(ways / 2**steps * (1 if place == 0 else 2))
    return chances


class _Neighbours:
    """The affinities of a map, whole or in bands of rows, and the means that they give.

    Args:
        openness: (h, w), as for `build_affinity`.
        channels: How many maps walk at once.
        settings: The walk.

    Raises:
        UserError: the memory does not suffice for a single row.
    """

    def __init__(self, openness: np.ndarray, channels: int, settings: WalkSettings) -> None:
        self.openness, self.radius = openness, settings.radius
        self.rows = self._count_rows(channels, settings)
        self._whole = build_affinity(openness, self.radius) if self.rows == len(openness) else None
        self.degree = self._multiply(np.ones((1, openness.size), openness.dtype))

    def average(self, maps: np.ndarray) -> np.ndarray:
        """The mean of each cell's neighbourhood in maps (K, h * w)."""
        found = self._multiply(maps)
        found /= self.degree
        return found

    def _multiply(self, maps: np.ndarray) -> np.ndarray:
        found = np.empty_like(maps)
        for top in range(0, len(self.openness), self.rows):
            self._multiply_band(maps, found, top)
        return found

    def _multiply_band(self, maps: np.ndarray, found: np.ndarray, top: int) -> None:
        """Multiply for the rows from `top` on; what it takes up is free again when it returns."""
        height, width = self.openness.shape
        bottom = min(top + self.rows, height)
        # All neighbours of a row, and all lines to them, lie within this many rows of it.
        first, last = max(0, top - self.radius + 1), min(height, bottom + self.radius - 1)
        matrix = self._whole if self._whole is not None else build_affinity(self.openness[first:last], self.radius)
        for one, result in zip(maps, found, strict=True):
            product = matrix @ one[first * width : last * width]
            result[top * width : bottom * width] = product[(top - first) * width : (bottom - first) * width]

    def _count_rows(self, channels: int, settings: WalkSettings) -> int:
        """How many rows of the map's affinities fit into the memory at once, beside the maps."""
        height, width = self.openness.shape
        kept = self.openness.nbytes * (6 * channels + 4)
        row = width * self.openness.itemsize * (2 * len(list_offsets(self.radius)) + 4)
        rows = (settings.memory_mb * MEGABYTE - kept) // row
        if rows >= height:
            return height
        rows -= 2 * (self.radius - 1)
        if rows < 1:
            needed = math.ceil((kept + row * (2 * self.radius - 1)) / MEGABYTE)
            raise UserError(
                f"A random walk of {channels} maps of {width}x{height} cells needs {needed} MB: raise walk.memory_mb."
            )
        return rows
