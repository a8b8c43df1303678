import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_jaccard_index

from rca.core.files import IGNORE
from rca.evaluation.metrics import Confusion, ThresholdSweep, average_precision
from rca.labels.background import label_pixels

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


def test_the_reliability_of_scores_is_sklearns_calibration_curve() -> None:
    random = np.random.default_rng(7)
    thresholds = np.linspace(0, 1, 6)[1:-1]
    sweep = ThresholdSweep(CLASSES, thresholds)
    best, right = [], []
    for size, present in zip(SIZES, ([2, 4, 5], [], [1, 3]), strict=True):
        labels = np.array(present, np.uint8)
        scores = (random.random((len(labels), *size)) ** 4).astype(np.float32)  # so that no range is empty
        truth = draw_mask(random, size, 0.2)
        sweep.add(truth, scores, labels)
        known = truth != IGNORE
        if present:
            best += scores.max(0)[known].tolist()
            right += (labels[scores.argmax(0)] == truth)[known].tolist()
    expected, _ = calibration_curve(right, best, n_bins=5)  # the bins between the thresholds, from 0 to 1
    found = [sweep.reliability(index) for index in range(4)]
    assert [pixels for pixels, _ in found] == np.histogram(best, [*thresholds, 1])[0].tolist()
    assert [right / pixels for pixels, right in found] == pytest.approx(expected[1:])


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
