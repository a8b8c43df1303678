import math

import numpy as np
import pytest

from rca.core.files import IGNORE
from rca.evaluation.mask_counts import BoundaryCounts, MaskCounts, Truth, mark_boundary

CLASSES = 5
SIZES = [(13, 17), (7, 29), (1, 31)]
MODES = ["count_as_error", "exclude"]


def draw_regions(random: np.random.Generator, size: tuple[int, int], ignored: bool = True) -> np.ndarray:
    """Boxes over one another, some of them 255, and some single pixels."""
    mask = np.zeros(size, np.uint8)
    for label in random.permutation([1, 2, 3, 5, 3, *([IGNORE] if ignored else [])]):
        top, left = (int(random.integers(0, side)) for side in size)
        mask[top : top + random.integers(3, 17), left : left + random.integers(3, 17)] = label
    mask[random.random(size) < 0.01] = 4
    return mask


def erode_slowly(mask: np.ndarray, times: int) -> np.ndarray:
    """Erosion by a square of 3x3 pixels, over and over, the outside of the image being background."""
    for _ in range(times):
        mask = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 1), (3, 3)).all((2, 3))
    return mask


def find_boundary_slowly(mask: np.ndarray, label: int, times: int) -> np.ndarray:
    """What erosion takes from a label's region: the published definition."""
    region = mask == label
    return region & ~erode_slowly(region, times)


@pytest.mark.parametrize(("size", "reach"), [((23, 31), 1), ((23, 31), 3), ((9, 40), 6), ((5, 4), 7)])
def test_pixels_near_contours_are_what_erosion_takes(size: tuple[int, int], reach: int) -> None:
    mask = draw_regions(np.random.default_rng(reach), size)
    expected = np.zeros(size, bool)
    for label in np.unique(mask):
        expected |= find_boundary_slowly(mask, label, reach)
    np.testing.assert_array_equal(mark_boundary(mask, reach), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("distance", [0.02, 0.07])
def test_boundary_iou_agrees_with_its_definition(distance: float, mode: str) -> None:
    random = np.random.default_rng(7)
    counts = BoundaryCounts(CLASSES)
    both, either = np.zeros(CLASSES + 1), np.zeros(CLASSES + 1)
    for size in [(37, 41), (29, 53), (44, 30)]:
        truth, prediction = draw_regions(random, size), draw_regions(random, size)
        truth[5:9, 5:9], prediction[3:11, 12:15] = IGNORE, IGNORE
        counts.add(Truth(truth, distance), prediction)
        reach = round(distance * math.sqrt(size[0] ** 2 + size[1] ** 2))
        assert reach >= 1
        counted = (truth != IGNORE) & ((prediction != IGNORE) | (mode == "count_as_error"))
        seen = np.where(truth == IGNORE, IGNORE, prediction)
        for label in range(CLASSES + 1):
            one = find_boundary_slowly(truth, label, reach) & counted
            other = find_boundary_slowly(seen, label, reach) & counted
            both[label] += (one & other).sum()
            either[label] += (one | other).sum()
    np.testing.assert_allclose(counts.iou(mode), np.divide(both, either, where=either > 0, out=both * np.nan))
    assert 0 < counts.iou(mode)[0] < 1


def test_boundary_iou_without_ignore_is_that_of_the_published_formula_by_hand() -> None:
    truth, prediction = np.zeros((2, 12, 12), np.uint8)
    truth[2:10, 2:10] = 1  # its outermost ring, 28 pixels, is its boundary at a distance of one pixel
    prediction[3:11, 2:10] = 1  # one row lower: the rings share the two sides' six rows and one row of six pixels
    counts = BoundaryCounts(1)
    counts.add(Truth(truth, 0.06), prediction)
    ring = {(y, x) for y in range(2, 10) for x in range(2, 10) if y in (2, 9) or x in (2, 9)}
    lower = {(y + 1, x) for y, x in ring}
    assert counts.iou()[1] == pytest.approx(len(ring & lower) / len(ring | lower))


def test_a_mask_that_is_right_wherever_the_truth_is_known_has_a_boundary_iou_of_one() -> None:
    random = np.random.default_rng(1)
    truth, prediction = draw_regions(random, (31, 43)), draw_regions(random, (31, 43))
    prediction[truth != IGNORE] = truth[truth != IGNORE]
    assert (prediction != truth).any()
    counts = BoundaryCounts(CLASSES)
    counts.add(Truth(truth), prediction)
    assert np.nanmin(counts.iou()) == 1


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    random = np.random.default_rng(2)
    whole, parts = MaskCounts(CLASSES), MaskCounts(CLASSES)
    for size in SIZES:
        truth, prediction = Truth(draw_regions(random, size)), draw_regions(random, size)
        part = MaskCounts(CLASSES)
        for counts in (whole, part):
            counts.add(truth, prediction)
        parts += part
    for mode in MODES:
        np.testing.assert_array_equal(whole.list_labels(mode), parts.list_labels(mode))
        assert whole.summarise(mode) == parts.summarise(mode)
    assert whole.images == len(SIZES)


def test_both_treatments_of_undecided_pixels_are_reported() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    prediction = np.array([[0, IGNORE, 1, 0]], np.uint8)
    counts = MaskCounts(1)
    counts.add(Truth(truth), prediction)
    error, left_out = (1 / 3 + 1 / 2) / 2, (1 / 2 + 1 / 2) / 2
    for mode, headline in (("count_as_error", error), ("exclude", left_out)):
        found = counts.summarise(mode)
        assert found["miou"] == pytest.approx(headline)
        assert found["miou_count_as_error"] == pytest.approx(error)
        assert found["miou_exclude"] == pytest.approx(left_out)
        assert found["coverage"] == pytest.approx(3 / 4)


def test_trimmed_counts_are_those_of_the_classes_that_occur() -> None:
    random = np.random.default_rng(3)
    many, few = MaskCounts(254), MaskCounts(CLASSES)
    for size in SIZES:
        truth, prediction = Truth(draw_regions(random, size)), draw_regions(random, size)
        prediction[0] = CLASSES  # the highest label need not be in the truth
        many.add(truth, prediction)
        few.add(truth, prediction)
    trimmed = many.trim()
    assert (trimmed.images, trimmed.confusion.classes) == (len(SIZES), CLASSES)
    for mode in MODES:
        np.testing.assert_array_equal(trimmed.list_labels(mode), few.list_labels(mode))
        np.testing.assert_array_equal(many.summarise(mode)["miou"], few.summarise(mode)["miou"])
