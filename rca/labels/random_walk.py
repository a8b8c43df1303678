"""Random walks of score maps between cells with a high affinity.

PSA (Ahn & Kwak, CVPR 2018) introduced walks by affinities; IRN (Ahn et al., CVPR 2019) derives the affinities from
boundaries. Both use the matrix of all pairs of cells, which takes 10 GB for a photograph of 1024x768 at stride 4. Here
the matrix holds pairs of neighbours only, whole or in bands of rows.
"""

import math

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import dia_array

from rca.core.arrays import FloatArray
from rca.core.errors import UserError
from rca.core.normalisation import normalise_maps
from rca.core.settings import Settings
from rca.labels.affinity import list_offsets, list_windows
from rca.labels.score_maps import Float16Array, ScoreMaps

NEGLIGIBLE = 1e-6
"""The share of the chances that a walk leaves out; score maps are stored in half precision."""
MEGABYTE = 2**20


class WalkSettings(Settings):
    """A random walk; the defaults are IRN's.

    Attributes:
        radius: Cells less than this many cells apart are neighbours.
        sharpness: The exponent of the affinities (beta).
        steps: Number of steps of the walk.
        memory_mb: Maximum memory of the walk of one image, in MB. If the affinities of a photograph need more, they are
            computed again in each step, in bands of rows; the result is the same.
    """

    radius: int = Field(default=5, ge=2, le=64)
    sharpness: float = Field(default=10, gt=0)
    steps: int = Field(default=256, ge=1, le=4096)
    memory_mb: int = Field(default=512, ge=1)


def build_affinity(openness: FloatArray, radius: int) -> dia_array:
    """The affinities of all pairs of neighbours, and 1 from each cell to itself.

    Args:
        openness: (h, w), 0..1: 1 minus the boundary of each cell.
        radius: As in `WalkSettings`.

    Returns:
        (h * w, h * w), symmetric, of the type of `openness`: the smallest openness on the line between two cells.
    """
    height, width = openness.shape
    pairs = []
    for windows in list_windows(height, width, radius):
        (rows, columns), (other_rows, other_columns) = windows[0], windows[-1]
        pairs.append(((other_rows.start - rows.start) * width + other_columns.start - columns.start, windows))
    # A set, since different neighbours share a diagonal if the map is narrower than a neighbourhood.
    offsets = sorted({0, *(sign * offset for offset, _ in pairs for sign in (-1, 1))})
    diagonals = np.zeros((len(offsets), height, width), openness.dtype)
    diagonals[offsets.index(0)] = 1
    for offset, windows in pairs:
        least = openness[windows[0]].copy()
        for window in windows[1:]:
            np.minimum(least, openness[window], out=least)
        # On a diagonal, an entry is stored at its column of the matrix.
        diagonals[offsets.index(offset)][windows[-1]] += least
        diagonals[offsets.index(-offset)][windows[0]] += least
    return dia_array((diagonals.reshape(len(offsets), -1), offsets), shape=(height * width, height * width))


def walk_maps(maps: ScoreMaps, boundary: FloatArray, settings: WalkSettings) -> ScoreMaps:
    """The score maps of an image after a walk, each divided by its maximum.

    Args:
        maps: The network's maps.
        boundary: As for `spread_scores`.
        settings: The walk.

    Raises:
        UserError: the walk needs more memory.
    """
    if len(maps.labels) == 0:
        return maps
    spread = spread_scores(maps.scores, boundary, settings)
    return maps._replace(scores=normalise_maps(torch.from_numpy(spread)).numpy().astype(np.float16))


def spread_scores(scores: FloatArray | Float16Array, boundary: FloatArray, settings: WalkSettings) -> FloatArray:
    """The random walk of IRN.

    The walk starts from scores * (1 - boundary). In each step a cell gets the mean of its neighbours' scores and its
    own, weighted by the affinities.

    Args:
        scores: (K, h, w), 0..1.
        boundary: (h, w), 0..1: the probability that a cell lies between different objects.
        settings: The walk.

    Returns:
        (K, h, w), 0..1, the scores after all steps; float64 if the scores are, else float32.

    Raises:
        UserError: the walk needs more memory.
    """
    kind = np.result_type(scores, np.float32)
    open_cells = 1 - boundary.astype(kind)
    started = (scores * open_cells).reshape(len(scores), boundary.size)
    neighbours = _Neighbours(open_cells**settings.sharpness, len(scores), settings)
    # n steps are the power T ** n of the matrix T of one step. As cos(x) ** n is the mean of cos(j x) over the places j
    # where a walk of n steps left or right can end, T ** n is the mean of the Chebyshev polynomials of T, of which few
    # matter: 78 for n = 256 (Sachdeva & Vishnoi, Faster Algorithms via Approximation Theory, 2014).
    chances = list_chances(settings.steps)
    before, now = started, neighbours.average(started)
    total = chances[0] * before + chances[1] * now
    for chance in chances[2:]:
        following = neighbours.average(now)
        following *= 2
        following -= before
        before, now = now, following
        total += chance * now
    spread: FloatArray = np.clip(total, 0, 1, out=total).reshape(scores.shape)
    return spread


def list_chances(steps: int) -> list[float]:
    """The probabilities that a walk of so many unit steps left or right ends 0, 1, 2, ... away from its start.

    The list has at least two entries and ends where all further ones together are negligible.
    """
    chances: list[float] = []
    while len(chances) < 2 or 1 - sum(chances) > NEGLIGIBLE:
        place = len(chances)
        ways = math.comb(steps, (steps + place) // 2) if (steps + place) % 2 == 0 else 0
        chances.append(ways / 2**steps * (1 if place == 0 else 2))
    return chances


class _Neighbours:
    """The affinities of a map, whole or in bands of rows, and means over neighbourhoods.

    Args:
        openness: (h, w), as for `build_affinity`.
        channels: Number of maps that walk at once.
        settings: The walk.

    Raises:
        UserError: a single row needs more memory.
    """

    def __init__(self, openness: FloatArray, channels: int, settings: WalkSettings) -> None:
        self.openness, self.radius = openness, settings.radius
        self.rows = self._count_rows(channels, settings)
        self._whole = build_affinity(openness, self.radius) if self.rows == len(openness) else None
        self.degree = self._multiply(np.ones((1, openness.size), openness.dtype))

    def average(self, maps: FloatArray) -> FloatArray:
        """The mean over each cell's neighbourhood in maps (K, h * w)."""
        means = self._multiply(maps)
        means /= self.degree
        return means

    def _multiply(self, maps: FloatArray) -> FloatArray:
        products = np.empty_like(maps)
        for top in range(0, len(self.openness), self.rows):
            self._multiply_band(maps, products, top)
        return products

    def _multiply_band(self, maps: FloatArray, products: FloatArray, top: int) -> None:
        """Multiply the rows from `top` on; a function, so that the band's matrix is freed on return."""
        height, width = self.openness.shape
        bottom = min(top + self.rows, height)
        # The rows that hold all neighbours of the band and all lines to them.
        first, last = max(0, top - self.radius + 1), min(height, bottom + self.radius - 1)
        matrix = self._whole if self._whole is not None else build_affinity(self.openness[first:last], self.radius)
        for scores, result in zip(maps, products, strict=True):
            product = matrix @ scores[first * width : last * width]
            result[top * width : bottom * width] = product[(top - first) * width : (bottom - first) * width]

    def _count_rows(self, channels: int, settings: WalkSettings) -> int:
        """The number of rows of affinities that fit into the memory beside the maps."""
        height, width = self.openness.shape
        of_maps = self.openness.nbytes * (6 * channels + 4)
        row = width * self.openness.itemsize * (2 * len(list_offsets(self.radius)) + 4)
        whole = int((settings.memory_mb * MEGABYTE - of_maps) // row)
        if whole >= height:
            return int(height)
        rows = whole - 2 * (self.radius - 1)
        if rows < 1:
            needed = math.ceil((of_maps + row * (2 * self.radius - 1)) / MEGABYTE)
            raise UserError(
                f"A random walk of {channels} maps of {width}x{height} cells needs {needed} MB: raise walk.memory_mb."
            )
        return rows
