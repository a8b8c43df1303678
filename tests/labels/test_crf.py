"""The plain CRF and the fast one, against the library's own examples; what both must do is tested on both."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
from crf_scenes import CRF, HEIGHT, LABELS, WIDTH, draw_scene, refine_directly

from rca.core.errors import UserError
from rca.labels.crf import CrfSettings, refine_mask, score_labels
from rca.labels.crf_fast import refine_masks

Refine = Callable[[np.ndarray, np.ndarray, np.ndarray, CrfSettings], np.ndarray]


def refine_fast(photograph: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, crf: CrfSettings) -> np.ndarray:
    return refine_masks(photograph, [probabilities], labels, crf)[0]


BOTH = pytest.mark.parametrize("refine", [refine_mask, refine_fast], ids=["plain", "fast"])


@BOTH
@pytest.mark.parametrize("seed", range(2))
def test_leaving_out_absent_labels_changes_nothing(refine: Refine, seed: int) -> None:
    photograph, probabilities = draw_scene(seed)
    expected = refine_directly(photograph, probabilities, LABELS, 21, 1000.0, CRF)
    found = refine(photograph, probabilities, LABELS, CRF)
    assert set(np.unique(found)) == {0, 3, 7}
    assert (found == expected).mean() >= 0.999


@BOTH
@pytest.mark.parametrize("setting", [{}, {"iterations": 1}, {"bilateral_srgb": 40}, {"gaussian_weight": 9}])
def test_the_energies_are_those_of_the_library(refine: Refine, setting: dict[str, float]) -> None:
    photograph, probabilities = draw_scene(5)
    crf = CRF.model_copy(update=setting)
    expected = refine_directly(photograph, probabilities, np.arange(3), 3, 0.0, crf)
    np.testing.assert_array_equal(refine(photograph, probabilities, LABELS, crf), LABELS[expected])


@BOTH
@pytest.mark.parametrize("count", range(2, 9))
def test_any_number_of_labels_gives_what_the_library_gives(refine: Refine, count: int) -> None:
    photograph, _ = draw_scene(6)
    probabilities = np.random.default_rng(count).random((count, HEIGHT, WIDTH)).astype(np.float32) ** 3
    labels = np.arange(count, dtype=np.uint8) * 2
    expected = refine_directly(photograph, probabilities, np.arange(count), count, 0.0, CRF)
    np.testing.assert_array_equal(refine(photograph, probabilities, labels, CRF), labels[expected])


@BOTH
def test_a_weight_of_zero_leaves_a_kernel_out(refine: Refine) -> None:
    photograph, probabilities = draw_scene(0)
    unary_only = CrfSettings(gaussian_weight=0, bilateral_weight=0)
    found = refine(photograph, probabilities, LABELS, unary_only)
    np.testing.assert_array_equal(found, LABELS[probabilities.argmax(0)])


@BOTH
@pytest.mark.parametrize("crf", [CRF, CrfSettings(gaussian_weight=0, bilateral_weight=0)], ids=["full", "unary"])
def test_the_scale_of_the_probabilities_does_not_matter(refine: Refine, crf: CrfSettings) -> None:
    photograph, probabilities = draw_scene(1)
    scaled = probabilities * np.random.default_rng(0).uniform(0.1, 9, (1, HEIGHT, WIDTH))
    np.testing.assert_array_equal(
        refine(photograph, scaled, LABELS, crf), refine(photograph, probabilities, LABELS, crf)
    )


@BOTH
def test_pixels_without_any_probability_get_the_label_around_them(refine: Refine) -> None:
    photograph, probabilities = draw_scene(2)
    complete = refine(photograph, probabilities, LABELS, CRF)
    probabilities[:, 10:12, 10:14] = 0
    found = refine(photograph, probabilities, LABELS, CRF)
    assert (found == complete).mean() > 0.99


@BOTH
def test_one_label_fills_the_image(refine: Refine) -> None:
    photograph, probabilities = draw_scene(3)
    found = refine(photograph, probabilities[:1], np.array([0], np.uint8), CRF)
    assert found.shape == (HEIGHT, WIDTH)
    assert found.dtype == np.uint8
    assert not found.any()


@BOTH
def test_a_noisy_mask_of_two_colours_is_recovered(refine: Refine) -> None:
    random = np.random.default_rng(0)
    true = np.zeros((HEIGHT, WIDTH), np.uint8)
    true[12:31, 9:37] = 4
    photograph = np.where(true[..., None] == 4, [220, 180, 40], [30, 60, 120]).astype(np.uint8)
    noisy = np.where(random.random(true.shape) < 0.25, 4 - true, true).astype(np.uint8)
    labels = np.array([0, 4], np.uint8)
    found = refine(photograph, score_labels(noisy, labels, 0.7), labels, CRF)
    assert (noisy == true).mean() < 0.8
    assert (found == true).mean() > 0.99


@pytest.mark.parametrize("labels", [[0, 4], [0, 3, 7, 8]])
def test_label_scores_trust_the_mask_and_sum_to_one(labels: list[int]) -> None:
    given = np.array(labels, np.uint8)
    mask = np.random.default_rng(0).choice(given, (5, 7))
    scores = score_labels(mask, given, 0.7)
    np.testing.assert_allclose(scores.sum(0), 1, rtol=1e-6)
    for y, x in np.ndindex(mask.shape):
        for index, label in enumerate(labels):
            expected = 0.7 if mask[y, x] == label else 0.3 / (len(labels) - 1)
            assert scores[index, y, x] == pytest.approx(expected)


def test_an_open_pixel_makes_all_labels_equally_probable() -> None:
    labels = np.array([0, 3, 7], np.uint8)
    scores = score_labels(np.array([[3, 255]], np.uint8), labels, 0.7)
    np.testing.assert_allclose(scores[:, 0], [[0.15, 1 / 3], [0.7, 1 / 3], [0.15, 1 / 3]], rtol=1e-6)


@BOTH
def test_open_pixels_get_the_label_of_similar_pixels(refine: Refine) -> None:
    true = np.zeros((HEIGHT, WIDTH), np.uint8)
    true[12:31, 9:37] = 4
    photograph = np.where(true[..., None] == 4, [220, 180, 40], [30, 60, 120]).astype(np.uint8)
    open_mask = true.copy()
    open_mask[8:35, 20:30] = 255
    labels = np.array([0, 4], np.uint8)
    np.testing.assert_array_equal(refine(photograph, score_labels(open_mask, labels, 0.7), labels, CRF), true)


@BOTH
def test_a_read_only_photograph_is_taken(refine: Refine) -> None:
    photograph, probabilities = draw_scene(0)
    expected = refine(photograph, probabilities, LABELS, CRF)
    photograph.flags.writeable = False
    np.testing.assert_array_equal(refine(photograph, probabilities, LABELS, CRF), expected)


@BOTH
def test_without_the_package_one_sentence_says_the_way_out(refine: Refine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    photograph, scores = draw_scene(0)
    with pytest.raises(UserError, match=r"A CRF needs pydensecrf2, .* `pip install 'rca\[crf\]'` .*enabled: false"):
        refine(photograph, scores, LABELS, CRF)
