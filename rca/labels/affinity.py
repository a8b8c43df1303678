"""Affinities between cells of a map: pairs of neighbours, and labels of cells to learn affinities from.

The affinity of two cells is 1 minus the highest boundary on the line between them (IRN, Ahn et al., CVPR 2019).
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from rca.core.arrays import UInt8Array
from rca.core.files import IGNORE
from rca.core.settings import Settings
from rca.labels.background import label_pixels
from rca.labels.crf import CrfSettings, score_labels
from rca.labels.crf_fast import refine_masks
from rca.labels.score_maps import ScoreMaps

Window = tuple[slice, slice]


class AffinityLabelSettings(Settings):
    """The thresholds between sure and unsure cells; the defaults are IRN's.

    Attributes:
        low: A cell is sure background up to this score.
        high: A cell is sure foreground above this score.
        crf: The CRF over both masks, with ranges in pixels of the photograph; null for none.
    """

    low: float = Field(default=0.05, gt=0, lt=1)
    high: float = Field(default=0.30, gt=0, lt=1)
    crf: CrfSettings | None = CrfSettings(unary="labels", bilateral_sxy=50, bilateral_srgb=5)

    @model_validator(mode="after")
    def _low_is_lower(self) -> "AffinityLabelSettings":
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        if self.crf is not None and self.crf.unary != "labels":
            raise ValueError("crf.unary must be labels, since the CRF refines masks")
        return self


def label_sure_cells(photograph: UInt8Array, maps: ScoreMaps, settings: AffinityLabelSettings) -> UInt8Array:
    """Label the cells of score maps that are sure of their label.

    A cell is foreground if it is foreground at the high threshold, and background if it is background even at the low
    threshold. A CRF refines both masks first.

    Args:
        photograph: (H, W, 3), RGB.
        maps: The photograph's score maps (K, h, w).
        settings: The thresholds and the CRF.

    Returns:
        (h, w), 255 if not sure.
    """
    masks = [label_pixels(maps.scores, maps.labels, threshold) for threshold in (settings.high, settings.low)]
    crf = settings.crf
    if crf is not None and len(maps.labels):
        # At the resolution of the maps, where a CRF costs little.
        height, width = maps.scores.shape[1:]
        small = np.array(Image.fromarray(photograph).resize((width, height), Image.Resampling.BOX))
        share = width / photograph.shape[1]
        ranges = {key: getattr(crf, key) * share for key in ("gaussian_sxy", "bilateral_sxy")}
        labels = np.array([0, *maps.labels], np.uint8)
        unaries = [score_labels(mask, labels, crf.label_confidence) for mask in masks]
        masks = refine_masks(small, unaries, labels, crf.model_copy(update=ranges))
    sure, possible = masks
    return np.where((sure == 0) & (possible != 0), IGNORE, sure).astype(np.uint8)


def list_offsets(radius: int) -> list[tuple[int, int]]:
    """The neighbours of a cell as (down, across), one of each opposite pair."""
    return [
        (down, across)
        for down in range(radius)
        for across in range(-radius + 1, radius)
        if 0 < down**2 + across**2 < radius**2 and (down > 0 or across > 0)
    ]


def trace_line(down: int, across: int) -> list[tuple[int, int]]:
    """The cells on the straight line from (0, 0) to (down, across), both ends included."""
    steps = max(abs(down), abs(across))
    return [(round(step * down / steps), round(step * across / steps)) for step in range(steps + 1)]


def list_windows(height: int, width: int, radius: int) -> Iterator[list[Window]]:
    """Windows on a map for all pairs of neighbours.

    Yields:
        For each offset of `list_offsets` that fits into the map, windows of one size. The first window holds the first
        cell of all pairs with this offset, the last window the second cell, and the windows between them the cells on
        the line between the two.
    """
    for down, across in list_offsets(radius):
        if down < height and abs(across) < width:
            left = max(0, -across)
            rows, columns = height - down, width - abs(across)
            yield [(slice(y, y + rows), slice(left + x, left + x + columns)) for y, x in trace_line(down, across)]
