from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.data.manifest import Manifest
from rca.labels.background import (
    BaseBackground,
    ConstantBackground,
    PowerBackground,
    SaliencyBackground,
    TwoThresholds,
    build_background,
    label_pixels,
    read_saliency_for,
)

CONSTANT = ConstantBackground(kind="constant", threshold=0.15)
POWER = PowerBackground(kind="power", alpha=4)
SALIENCY = SaliencyBackground(kind="saliency", smallest=0)
BAND = TwoThresholds(kind="two_thresholds")
LABELS = np.array([2, 5, 17], np.uint8)


def draw_scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((len(LABELS), 13, 19)).astype(np.float32)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0, 16.0, 32.0])
def test_the_threshold_of_a_power_background_is_where_both_scores_cross(alpha: float) -> None:
    threshold = PowerBackground(kind="power", alpha=alpha).find_threshold()
    assert (1 - threshold) ** alpha == pytest.approx(threshold, abs=1e-12)


def test_the_threshold_of_a_constant_background_is_its_own() -> None:
    assert CONSTANT.find_threshold() == 0.15
    assert SALIENCY.find_threshold() == 0.3


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8])
def test_a_mask_agrees_with_a_choice_pixel_by_pixel(threshold: float) -> None:
    scores = draw_scores()
    mask = label_pixels(scores, LABELS, threshold)
    assert mask.dtype == np.uint8
    for y, x in np.ndindex(mask.shape):
        best = max(range(len(LABELS)), key=lambda index: scores[index, y, x])
        assert mask[y, x] == (LABELS[best] if scores[best, y, x] > threshold else 0)


def test_a_score_that_equals_the_threshold_is_background() -> None:
    scores = np.array([[[0.5, np.nextafter(np.float32(0.5), 1), 0.25]]], np.float32)
    assert label_pixels(scores, LABELS[:1], 0.5).tolist() == [[0, 2, 0]]


@pytest.mark.parametrize("background", [CONSTANT, POWER], ids=lambda one: one.kind)
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8])
def test_the_highest_of_background_and_classes_gives_the_same_mask(
    background: BaseBackground, threshold: float
) -> None:
    scores = draw_scores(1)
    scores[:, 0, 0], scores[:, 0, 1] = 0, 1
    own = background.score(scores, threshold)
    assert own.dtype == np.float32
    assert 0 <= own.min() <= own.max() <= 1
    chosen = np.concatenate([[0], LABELS])[np.concatenate([own[None], scores]).argmax(0)]
    # Where the two differ by less than a rounding either may win.
    clear = np.abs(scores.max(0) - threshold) > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(chosen[clear], background.label(scores, LABELS, threshold)[clear])


def test_a_power_background_is_surer_than_a_constant_one_of_pixels_without_a_score() -> None:
    scores = np.array([[[0.0, 0.2, 0.3, 0.9]]], np.float32)
    constant, power = (background.score(scores, 0.3)[0] for background in (CONSTANT, POWER))
    np.testing.assert_allclose(constant, 0.3)
    np.testing.assert_allclose(power, (1 - scores[0, 0]) ** (np.log(0.3) / np.log(0.7)), rtol=1e-5)
    assert power[0] == 1
    assert power[3] < 0.1


def test_without_a_label_everything_is_background() -> None:
    scores = np.zeros((0, 5, 7), np.float32)
    assert not label_pixels(scores, LABELS[:0], 0.3).any()
    assert (POWER.score(scores, 0.3) == 1).all()
    np.testing.assert_allclose(CONSTANT.score(scores, 0.3), np.full((5, 7), 0.3), rtol=1e-6)
    assert not BAND.label(scores, LABELS[:0], 0.3).any()
    salient = np.zeros((5, 7), np.uint8)
    salient[2] = 200
    assert SALIENCY.label(scores, LABELS[:0], 0.3, salient).tolist() == np.where(salient, 255, 0).tolist()


def label_as_oaa(scores: np.ndarray, labels: np.ndarray, saliency: np.ndarray, rule: SaliencyBackground) -> np.ndarray:
    """The rule pixel by pixel, in the order in which OAA states it."""
    mask = np.zeros(saliency.shape, np.uint8)
    for y, x in np.ndindex(mask.shape):
        background = 1 - saliency[y, x] / 255
        all_scores = [score if score >= rule.threshold else 0 for score in (background, *scores[:, y, x])]
        mask[y, x] = (0, *labels)[int(np.argmax(all_scores))]
        if sum(score > rule.conflict for score in all_scores) > 1:
            mask[y, x] = 255
        attended = max(saliency[y, x], 255 if max(scores[:, y, x]) > rule.sure else 0)
        if attended >= rule.salient and mask[y, x] == 0:
            mask[y, x] = 255
    if np.isin(mask, labels).mean() < rule.smallest:
        mask[:] = 255
    return mask


RULES = [
    {},
    {"conflict": 0.99, "sure": 0.95},
    {"threshold": 0.6},
    {"salient": 128},
    {"smallest": 0.5},
    {"smallest": 0.9},
]


@pytest.mark.parametrize("changes", RULES, ids=str)
def test_labels_by_saliency_are_those_of_oaa(changes: dict[str, float]) -> None:
    random = np.random.default_rng(3)
    scores = random.beta(0.5, 0.5, (len(LABELS), 31, 37)).astype(np.float32)
    saliency = random.choice(np.array([0, 3, 31, 32, 33, 100, 180, 254, 255], np.uint8), scores.shape[1:])
    rule = SALIENCY.model_copy(update=changes)
    found = rule.label(scores, LABELS, rule.threshold, saliency)
    np.testing.assert_array_equal(found, label_as_oaa(scores, LABELS, saliency, rule))
    assert found.dtype == np.uint8
    assert {255} <= set(np.unique(found)) <= {0, 255, *LABELS}


def test_the_cases_of_the_saliency_rule() -> None:
    """Two classes sure, background and a class sure, salient without a class, sure but not salient, and plain cases."""
    scores = np.array([[0.95, 0.95, 0.2, 0.85, 0.8, 0.7, 0.1], [0.92, 0.0, 0.1, 0.0, 0.6, 0.0, 0.0]], np.float32)
    saliency = np.array([[255, 10, 60, 20, 255, 200, 0]], np.uint8)
    found = SALIENCY.label(scores[:, None], LABELS[:2], 0.3, saliency)
    assert found.tolist() == [[255, 255, 255, 255, 2, 2, 0]]


def test_an_image_with_next_to_no_foreground_is_left_open() -> None:
    scores, saliency = np.zeros((1, 10, 20), np.float32), np.zeros((10, 20), np.uint8)
    scores[0, 0, 0], saliency[0, 0] = 0.7, 255
    rule = SaliencyBackground(kind="saliency")
    assert (rule.label(scores, LABELS[:1], 0.3, saliency) == 255).all()
    scores[0, 0, 1], saliency[0, 1] = 0.7, 255  # now a hundredth
    assert np.unique(rule.label(scores, LABELS[:1], 0.3, saliency)).tolist() == [0, 2]


def test_the_background_by_saliency_leaves_no_foreground_below_the_threshold() -> None:
    scores = draw_scores(2)
    saliency = np.random.default_rng(0).integers(0, 256, scores.shape[1:]).astype(np.uint8)
    own = SALIENCY.score(scores, 0.4, saliency)
    np.testing.assert_allclose(own, np.maximum(1 - saliency / 255, 0.4), rtol=1e-6)
    with pytest.raises(ValueError, match="saliency map"):
        SALIENCY.label(scores, LABELS, 0.4)


def test_two_thresholds_leave_open_what_lies_between() -> None:
    scores = np.array([[[0.01, 0.049, 0.051, 0.15, 0.299, 0.301, 0.9]]], np.float32)
    found = BAND.label(scores, LABELS[:1], BAND.find_threshold())
    assert found.tolist() == [[0, 0, 255, 255, 255, 2, 2]]
    odds = BAND.find_threshold() / (1 - BAND.find_threshold())
    assert odds**2 == pytest.approx(0.05 / 0.95 * 0.30 / 0.70)


@pytest.mark.parametrize("threshold", [0.02, 0.3, 0.5, 0.97])
def test_around_another_threshold_the_odds_of_both_are_scaled(threshold: float) -> None:
    scores = np.linspace(0, 1, 20_001, dtype=np.float64)[None, None]
    found = BAND.label(scores, LABELS[:1], threshold)[0]
    low, high = scores[0, 0, found == 255][[0, -1]]
    assert 0 < low < threshold < high < 1
    assert high / (1 - high) / (low / (1 - low)) == pytest.approx(0.30 / 0.70 / (0.05 / 0.95), rel=0.01)
    assert high / (1 - high) * low / (1 - low) == pytest.approx((threshold / (1 - threshold)) ** 2, rel=0.01)
    seed = label_pixels(scores, LABELS[:1], threshold)[0]
    np.testing.assert_array_equal(found[found != 255], seed[found != 255])


def test_a_band_needs_two_ends() -> None:
    with pytest.raises(ValueError, match="low must be below high"):
        TwoThresholds(kind="two_thresholds", low=0.3, high=0.3)


@pytest.mark.parametrize("background", [CONSTANT, POWER, SALIENCY, BAND], ids=lambda one: one.kind)
def test_a_way_survives_as_plain_data(background: BaseBackground) -> None:
    assert build_background(background.model_dump()) == background


def test_saliency_is_read_only_where_it_is_needed(manifest: Manifest) -> None:
    first, second = manifest.images[:2]
    Image.new("L", (first.width, first.height), 77).save(manifest.root / "a1.png")
    assert read_saliency_for(CONSTANT, manifest, first) is None
    found = read_saliency_for(SALIENCY, manifest, replace(first, saliency="a1.png"))
    assert found is not None
    assert found.shape == (40, 52)
    assert np.unique(found).tolist() == [77]
    with pytest.raises(UserError, match="The image b2 has no saliency map: add it"):
        read_saliency_for(SALIENCY, manifest, second)
