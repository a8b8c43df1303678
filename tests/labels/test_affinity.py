import math
from itertools import pairwise

import numpy as np
import pytest

from rca.core.files import IGNORE
from rca.labels.affinity import AffinityLabelSettings, label_sure_cells, list_offsets, list_windows, trace_line
from rca.labels.crf import CrfSettings
from rca.labels.score_maps import ScoreMaps

PLAIN = AffinityLabelSettings(low=0.2, high=0.6, crf=None)
LOGITS = np.zeros(3, np.float32)


@pytest.mark.parametrize("radius", [2, 3, 5, 8])
def test_each_pair_of_neighbours_is_listed_once(radius: int) -> None:
    offsets = list_offsets(radius)
    both = {*offsets, *((-down, -across) for down, across in offsets)}
    near = {
        (down, across)
        for down in range(-radius, radius + 1)
        for across in range(-radius, radius + 1)
        if 0 < math.hypot(down, across) < radius
    }
    assert both == near
    assert len(both) == 2 * len(offsets)


@pytest.mark.parametrize("offset", list_offsets(7))
def test_a_line_is_straight_and_has_no_gap(offset: tuple[int, int]) -> None:
    line = trace_line(*offset)
    assert line[0] == (0, 0)
    assert line[-1] == offset
    for one, two in pairwise(line):
        assert max(abs(two[0] - one[0]), abs(two[1] - one[1])) == 1
    for down, across in line:  # the distance from the line through both ends
        assert abs(down * offset[1] - across * offset[0]) / math.hypot(*offset) <= 0.5


@pytest.mark.parametrize("size", [(9, 13), (1, 7), (7, 1), (2, 3), (1, 1)])
def test_windows_hold_the_cells_of_every_pair_that_fits(size: tuple[int, int]) -> None:
    radius = 4
    numbers = np.arange(size[0] * size[1]).reshape(size)
    found = set()
    for windows in list_windows(*size, radius):
        cells = np.stack([numbers[window].ravel() for window in windows], 1)
        found |= {tuple(path) for path in cells.tolist()}
    expected = set()
    for y, x in np.ndindex(*size):
        for down, across in list_offsets(radius):
            if y + down < size[0] and 0 <= x + across < size[1]:
                expected.add(tuple(int(numbers[y + one, x + two]) for one, two in trace_line(down, across)))
    assert found == expected


def test_cells_between_the_thresholds_are_left_open() -> None:
    scores = np.array([[[0.1, 0.3, 0.7], [0.2, 0.61, 0.0]], [[0.0, 0.1, 0.65], [0.5, 0.7, 0.0]]], np.float16)
    maps = ScoreMaps(np.array([2, 5], np.uint8), scores, LOGITS)
    found = label_sure_cells(np.zeros((8, 12, 3), np.uint8), maps, PLAIN)
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, IGNORE, 2], [IGNORE, 5, 0]]


def test_without_a_tag_all_cells_are_background() -> None:
    maps = ScoreMaps(np.zeros(0, np.uint8), np.zeros((0, 3, 4), np.float16), LOGITS)
    assert not label_sure_cells(np.zeros((12, 16, 3), np.uint8), maps, AffinityLabelSettings()).any()


def test_a_crf_moves_sure_cells_to_the_edges_of_the_photograph() -> None:
    """An object of one colour whose score map is a blur: without the CRF its rim is left open."""
    height, width, stride = 24, 32, 4
    true = np.zeros((height, width), np.uint8)
    true[6:18, 8:25] = 3
    photograph = np.where(true[..., None] == 3, [210, 170, 40], [40, 70, 130]).astype(np.uint8)
    photograph = photograph.repeat(stride, 0).repeat(stride, 1)
    rows, columns = np.mgrid[:height, :width]
    blur = np.exp(-(((rows - 11.5) / 8) ** 2) - ((columns - 16) / 11) ** 2)
    maps = ScoreMaps(np.array([3], np.uint8), blur[None].astype(np.float16), LOGITS)
    bare = AffinityLabelSettings(low=0.3, high=0.6, crf=None)
    crf = CrfSettings(unary="labels", bilateral_sxy=50, bilateral_srgb=5)
    shares = []
    for settings in (bare, bare.model_copy(update={"crf": crf})):
        found = label_sure_cells(photograph, maps, settings)
        known = found != IGNORE
        shares.append((known.mean(), (found == true)[known].mean()))
    assert shares[0][0] < 0.9
    assert min(shares[1]) > 0.99


def test_thresholds_and_crf_must_fit() -> None:
    with pytest.raises(ValueError, match="low must not exceed high"):
        AffinityLabelSettings(low=0.4, high=0.3)
    with pytest.raises(ValueError, match=r"crf\.unary must be labels"):
        AffinityLabelSettings(crf=CrfSettings())
