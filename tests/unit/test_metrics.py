import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_jaccard_index

from rca.artifacts import IGNORE
from rca.labels.background import label_pixels
from rca.metrics import BoundaryCounts, Confusion, MaskCounts, ThresholdSweep, Truth, average_precision, mark_boundary

CLASSES = 5
SIZES = [(13, 17), (7, 29), (1, 31)]
MODES = ["count_as_error", "exclude"]


def draw_mask(random: np.random.Generator, size: tuple[int, int], ignored: float, highest: int = CLASSES) -> np.ndarray:
    mask = random.integers(0, highest + 1, size).astype(np.uint8)
    mask[random.random(size) < ignored] = IGNORE
    return mask


def draw_pairs(seed: int, ignored: float = 0.2) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [(draw_mask(random, size, 0.15), draw_mask(random, size, ignored)) for size in SIZES]


def count(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int = CLASSES) -> Confusion:
    confusion = Confusion(classes)
    for truth, prediction in pairs:
        confusion.add(truth, prediction)
    return confusion


def score_slowly(pairs: list[tuple[np.ndarray, np.ndarray]], mode: str) -> dict[str, np.ndarray]:
    """IoU, precision and recall of every label, pixel by pixel."""
    figures = np.full((3, CLASSES + 1), np.nan)
    for label in range(CLASSES + 1):
        both = missed = wrong = 0
        for truth, prediction in pairs:
            for true, predicted in zip(truth.flat, prediction.flat, strict=True):
                if true == IGNORE or (predicted == IGNORE and mode == "exclude"):
                    continue
                both += true == label == predicted
                missed += true == label != predicted
                wrong += predicted == label != true
        for row, bottom in enumerate((both + missed + wrong, both + wrong, both + missed)):
            if bottom:
                figures[row, label] = both / bottom
    return dict(zip(("iou", "precision", "recall"), figures, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_iou_precision_and_recall_agree_with_a_count_pixel_by_pixel(seed: int, mode: str) -> None:
    pairs = draw_pairs(seed)
    confusion, expected = count(pairs), score_slowly(pairs, mode)
    np.testing.assert_allclose(confusion.iou(mode), expected["iou"])
    np.testing.assert_allclose(confusion.recall(mode), expected["recall"])
    np.testing.assert_allclose(confusion.precision(), expected["precision"])
    summary = confusion.summarise(mode)
    for name, key in (("miou", "iou"), ("precision", "precision"), ("recall", "recall")):
        assert summary[name] == pytest.approx(np.nanmean(expected[key]))


def test_counts_agree_with_scikit_learn() -> None:
    pairs = draw_pairs(3)
    truth, prediction = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    known = truth != IGNORE
    expected = confusion_matrix(truth[known], prediction[known], labels=[*range(CLASSES + 1), IGNORE])
    np.testing.assert_array_equal(count(pairs).counts, expected[:-1])


def test_iou_agrees_with_torchmetrics() -> None:
    pairs = draw_pairs(4, ignored=0)
    truth, prediction = (torch.from_numpy(np.concatenate([pair[side].ravel() for pair in pairs])) for side in (0, 1))
    expected = multiclass_jaccard_index(
        prediction.long(), truth.long(), CLASSES + 1, average="none", ignore_index=IGNORE
    )
    for mode in MODES:
        np.testing.assert_allclose(count(pairs).iou(mode), expected.numpy(), rtol=1e-6)


def test_a_label_that_never_occurs_is_nan_and_left_out_of_the_mean() -> None:
    truth = np.array([[0, 0, 1], [1, 2, IGNORE]], np.uint8)
    prediction = np.array([[0, 1, 1], [1, 2, 4]], np.uint8)
    confusion = count([(truth, prediction)])
    np.testing.assert_allclose(confusion.iou(), [1 / 2, 2 / 3, 1, np.nan, np.nan, np.nan])
    assert confusion.summarise()["miou"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)


def test_a_label_that_is_only_predicted_has_an_iou_of_zero() -> None:
    confusion = count([(np.zeros((2, 3), np.uint8), np.full((2, 3), 3, np.uint8))])
    assert confusion.iou()[3] == 0
    assert math.isnan(confusion.recall()[3])


def test_coverage_is_the_part_of_known_pixels_that_got_a_label() -> None:
    truth = np.array([[0, 1, 2, IGNORE, IGNORE]], np.uint8)
    prediction = np.array([[0, IGNORE, 1, IGNORE, 1]], np.uint8)
    assert count([(truth, prediction)]).coverage() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        (np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint8)),
        (np.full((3, 4), CLASSES + 1, np.uint8), np.zeros((3, 4), np.uint8)),
        (np.zeros((3, 4), np.uint8), np.full((3, 4), 254, np.uint8)),
    ],
)
def test_masks_that_do_not_fit_are_refused(truth: np.ndarray, prediction: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must agree|there are 5 classes"):
        Confusion(CLASSES).add(truth, prediction)


# --- boundary IoU


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


def test_both_ways_to_take_undecided_pixels_are_reported_whichever_is_the_headline() -> None:
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


@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_equals_a_confusion_at_each_threshold(seed: int) -> None:
    random = np.random.default_rng(seed)
    thresholds = np.array([0.1, 0.125, 0.3, 0.5, 0.7, 0.75, 0.9])  # some are exact in the scores' type, some are not
    sweep = ThresholdSweep(CLASSES, thresholds)
    confusions = [Confusion(CLASSES) for _ in thresholds]
    for size, present in zip(SIZES, ([2, 4, 5], [], [3]), strict=True):
        labels = np.array(present, np.uint8)
        scores = random.random((len(labels), *size)).astype(np.float32)
        near = random.random(scores.shape) < 0.25  # as near to a threshold as the type allows
        scores[near] = random.choice(thresholds, near.sum())
        truth = draw_mask(random, size, 0.2)
        sweep.add(truth, scores, labels)
        for confusion, threshold in zip(confusions, thresholds, strict=True):
            confusion.add(truth, label_pixels(scores, labels, float(threshold)))
    for index, confusion in enumerate(confusions):
        np.testing.assert_array_equal(sweep.confusion(index).counts, confusion.counts)


def test_average_precision_agrees_with_a_walk_down_the_ranking() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(23, 4))
    tags = random.random((23, 4)) < 0.3
    tags[:, 2] = False  # a class that no image shows is left out
    expected = []
    for index in (0, 1, 3):
        hits, precisions = 0, []
        for rank, image in enumerate(sorted(range(23), key=lambda i: -scores[i, index]), 1):
            if tags[image, index]:
                hits += 1
                precisions.append(hits / rank)
        expected.append(sum(precisions) / hits)
    assert average_precision(scores, tags) == pytest.approx(sum(expected) / 3)
    assert math.isnan(average_precision(scores, np.zeros_like(tags)))
