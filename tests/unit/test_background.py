import numpy as np
import pytest

from rca.labels.background import ConstantBackground, PowerBackground, find_threshold, label_pixels, score_background

LABELS = np.array([2, 5, 17], np.uint8)


def draw_scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((len(LABELS), 13, 19)).astype(np.float32)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0, 16.0, 32.0])
def test_the_threshold_of_a_power_background_is_where_both_scores_cross(alpha: float) -> None:
    threshold = find_threshold(PowerBackground(kind="power", alpha=alpha))
    assert (1 - threshold) ** alpha == pytest.approx(threshold, abs=1e-12)


def test_the_threshold_of_a_constant_background_is_its_own() -> None:
    assert find_threshold(ConstantBackground(kind="constant", threshold=0.15)) == 0.15


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


@pytest.mark.parametrize("kind", ["constant", "power"])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8])
def test_the_highest_of_background_and_classes_gives_the_same_mask(kind: str, threshold: float) -> None:
    scores = draw_scores(1)
    scores[:, 0, 0], scores[:, 0, 1] = 0, 1
    background = score_background(scores, kind, threshold)
    assert background.dtype == np.float32
    assert 0 <= background.min() <= background.max() <= 1
    chosen = np.concatenate([[0], LABELS])[np.concatenate([background[None], scores]).argmax(0)]
    # Where the two differ by less than a rounding either may win.
    clear = np.abs(scores.max(0) - threshold) > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(chosen[clear], label_pixels(scores, LABELS, threshold)[clear])


def test_a_power_background_is_surer_than_a_constant_one_of_pixels_without_a_score() -> None:
    scores = np.array([[[0.0, 0.2, 0.3, 0.9]]], np.float32)
    constant, power = (score_background(scores, kind, 0.3)[0] for kind in ("constant", "power"))
    np.testing.assert_allclose(constant, 0.3)
    np.testing.assert_allclose(power, (1 - scores[0, 0]) ** (np.log(0.3) / np.log(0.7)), rtol=1e-5)
    assert power[0] == 1
    assert power[3] < 0.1


def test_without_a_label_everything_is_background() -> None:
    scores = np.zeros((0, 5, 7), np.float32)
    assert not label_pixels(scores, LABELS[:0], 0.3).any()
    assert (score_background(scores, "power", 0.3) == 1).all()
    np.testing.assert_allclose(score_background(scores, "constant", 0.3), np.full((5, 7), 0.3), rtol=1e-6)
