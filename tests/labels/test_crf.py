from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pydensecrf import densecrf

from rca.labels.crf import SAMPLED, CrfSettings, keep_freed_memory, refine_mask, refine_masks, score_labels

HEIGHT, WIDTH = 41, 53
LABELS = np.array([0, 3, 7], np.uint8)
CRF = CrfSettings(gaussian_sxy=2, bilateral_sxy=30, bilateral_weight=5)


def draw_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of three colours with noise, and noisy probabilities of its labels."""
    random = np.random.default_rng(seed)
    true = np.zeros((HEIGHT, WIDTH), int)
    true[5:30, 8:25], true[18:38, 20:45] = 1, 2
    colours = np.array([[40, 90, 60], [200, 60, 50], [60, 70, 190]])
    photograph = np.clip(colours[true] + random.normal(0, 12, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    probabilities = random.random((3, HEIGHT, WIDTH)) + 0.6 * (true == np.arange(3)[:, None, None])
    return photograph, probabilities.astype(np.float32)


def refine_directly(
    photograph: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, count: int, absent: float, crf: CrfSettings
) -> np.ndarray:
    """The CRF over all labels 0..count-1, as its library's own examples call it; absent ones cost `absent`."""
    unary = np.full((count, HEIGHT * WIDTH), absent, np.float32)
    unary[labels] = -np.log(probabilities / probabilities.sum(0)).reshape(len(labels), -1)
    field = densecrf.DenseCRF2D(WIDTH, HEIGHT, count)
    field.setUnaryEnergy(unary)
    field.addPairwiseGaussian(sxy=crf.gaussian_sxy, compat=crf.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=crf.bilateral_sxy, srgb=crf.bilateral_srgb, rgbim=photograph.copy(), compat=crf.bilateral_weight
    )
    return np.array(field.inference(crf.iterations)).argmax(0).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("seed", range(2))
def test_leaving_out_absent_labels_changes_nothing(seed: int) -> None:
    photograph, probabilities = draw_scene(seed)
    expected = refine_directly(photograph, probabilities, LABELS, 21, 1000.0, CRF)
    found = refine_mask(photograph, probabilities, LABELS, CRF)
    assert set(np.unique(found)) == {0, 3, 7}
    assert (found == expected).mean() >= 0.999


@pytest.mark.parametrize("setting", [{}, {"iterations": 1}, {"bilateral_srgb": 40}, {"gaussian_weight": 9}])
def test_the_energies_are_those_of_the_library(setting: dict[str, float]) -> None:
    photograph, probabilities = draw_scene(5)
    crf = CRF.model_copy(update=setting)
    expected = refine_directly(photograph, probabilities, np.arange(3), 3, 0.0, crf)
    np.testing.assert_array_equal(refine_mask(photograph, probabilities, LABELS, crf), LABELS[expected])


@pytest.mark.parametrize("count", range(2, 9))
def test_any_number_of_labels_gives_what_the_library_gives(count: int) -> None:
    photograph, _ = draw_scene(6)
    probabilities = np.random.default_rng(count).random((count, HEIGHT, WIDTH)).astype(np.float32) ** 3
    labels = np.arange(count, dtype=np.uint8) * 2
    expected = refine_directly(photograph, probabilities, np.arange(count), count, 0.0, CRF)
    np.testing.assert_array_equal(refine_mask(photograph, probabilities, labels, CRF), labels[expected])


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("masks", [1, 2, 3])
def test_masks_of_one_photograph_are_refined_as_if_alone(count: int, masks: int) -> None:
    photograph, _ = draw_scene(3)
    labels = np.arange(count, dtype=np.uint8) * 3
    given = list(np.random.default_rng(count).random((masks, count, HEIGHT, WIDTH)).astype(np.float32) ** 3)
    found = refine_masks(photograph, given, labels, CRF)
    assert len(found) == masks
    for one, refined in zip(given, found, strict=True):
        expected = refine_directly(photograph, one, np.arange(count), count, 0.0, CRF)
        assert (refined == labels[expected]).mean() > 0.9995


def test_no_mask_is_refined_to_none() -> None:
    assert refine_masks(draw_scene(0)[0], [], LABELS, CRF) == []


@pytest.mark.parametrize("weight", [5, 49, 500])
def test_a_mask_that_is_sure_does_not_drown_one_that_is_not(weight: float) -> None:
    photograph, unsure = draw_scene(5)
    sure = np.full_like(unsure, 1e-6)
    sure[0] = 1
    crf = CRF.model_copy(update={"bilateral_weight": weight, "gaussian_weight": 1})
    first, second = refine_masks(photograph, [unsure, sure], LABELS, crf)
    expected = refine_directly(photograph, unsure, np.arange(3), 3, 0.0, crf)
    assert (first == LABELS[expected]).mean() > 0.999
    assert not second.any()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A line for each step of inference."""
    counted: list[int] = []
    real = densecrf.DenseCRF2D

    class Counted:
        def __init__(self, *size: int) -> None:
            self.field = real(*size)

        def __getattr__(self, name: str) -> Any:
            if name == "stepInference":
                counted.append(1)
            return getattr(self.field, name)

    monkeypatch.setattr(densecrf, "DenseCRF2D", Counted)
    return counted


@pytest.mark.parametrize("tolerance", [0, 1e-4, 1e-3])
def test_inference_ends_where_the_labels_no_longer_change(steps: list[int], tolerance: float) -> None:
    photograph, probabilities = draw_scene(4)
    crf = CRF.model_copy(update={"iterations": 60, "tolerance": tolerance})
    expected = refine_directly(photograph, probabilities, np.arange(3), 3, 0.0, crf)
    found = refine_mask(photograph, probabilities, LABELS, crf)
    assert 2 <= len(steps) < 60
    assert (found == LABELS[expected]).mean() >= 0.999


def test_inference_does_not_end_while_any_pixel_changes(steps: list[int]) -> None:
    photograph, _ = draw_scene(6)
    probabilities = np.random.default_rng(4).random((3, HEIGHT, WIDTH)).astype(np.float32) ** 3
    settings = [CRF.model_copy(update={"iterations": count}) for count in range(1, 31)]
    after = [refine_directly(photograph, probabilities, np.arange(3), 3, 0.0, crf) for crf in settings]
    changed = [int((one != two).sum()) for one, two in pairwise(after)]
    assert 0 < min(filter(None, changed)) < HEIGHT * WIDTH // SAMPLED  # too few to be sure to see one
    found = refine_mask(photograph, probabilities, LABELS, settings[-1].model_copy(update={"tolerance": 0}))
    assert changed[len(steps) - 2] == 0
    assert len(steps) < 30
    np.testing.assert_array_equal(found, LABELS[after[len(steps) - 1]])


def test_inference_goes_on_while_labels_change(steps: list[int]) -> None:
    photograph, probabilities = draw_scene(4)
    refine_mask(photograph, probabilities, LABELS, CRF.model_copy(update={"iterations": 3, "tolerance": 0}))
    assert len(steps) == 3


def test_a_photograph_that_must_not_be_written_to_is_taken() -> None:
    photograph, probabilities = draw_scene(0)
    expected = refine_mask(photograph, probabilities, LABELS, CRF)
    keep_freed_memory()
    photograph.flags.writeable = False
    np.testing.assert_array_equal(refine_mask(photograph, probabilities, LABELS, CRF), expected)


def test_a_weight_of_zero_leaves_a_kernel_out() -> None:
    photograph, probabilities = draw_scene(0)
    unary_only = CrfSettings(gaussian_weight=0, bilateral_weight=0)
    found = refine_mask(photograph, probabilities, LABELS, unary_only)
    np.testing.assert_array_equal(found, LABELS[probabilities.argmax(0)])


@pytest.mark.parametrize("crf", [CRF, CrfSettings(gaussian_weight=0, bilateral_weight=0)], ids=["full", "unary"])
def test_the_scale_of_the_probabilities_does_not_matter(crf: CrfSettings) -> None:
    photograph, probabilities = draw_scene(1)
    scaled = probabilities * np.random.default_rng(0).uniform(0.1, 9, (1, HEIGHT, WIDTH))
    np.testing.assert_array_equal(
        refine_mask(photograph, scaled, LABELS, crf), refine_mask(photograph, probabilities, LABELS, crf)
    )


def test_pixels_without_any_probability_take_what_lies_around_them() -> None:
    photograph, probabilities = draw_scene(2)
    complete = refine_mask(photograph, probabilities, LABELS, CRF)
    probabilities[:, 10:12, 10:14] = 0
    found = refine_mask(photograph, probabilities, LABELS, CRF)
    assert (found == complete).mean() > 0.99


def test_one_label_fills_the_image() -> None:
    photograph, probabilities = draw_scene(3)
    found = refine_mask(photograph, probabilities[:1], np.array([0], np.uint8), CRF)
    assert found.shape == (HEIGHT, WIDTH)
    assert found.dtype == np.uint8
    assert not found.any()


def test_a_noisy_mask_of_two_colours_is_recovered() -> None:
    random = np.random.default_rng(0)
    true = np.zeros((HEIGHT, WIDTH), np.uint8)
    true[12:31, 9:37] = 4
    photograph = np.where(true[..., None] == 4, [220, 180, 40], [30, 60, 120]).astype(np.uint8)
    noisy = np.where(random.random(true.shape) < 0.25, 4 - true, true).astype(np.uint8)
    labels = np.array([0, 4], np.uint8)
    found = refine_mask(photograph, score_labels(noisy, labels, 0.7), labels, CRF)
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


def test_an_open_pixel_says_nothing_of_its_label() -> None:
    labels = np.array([0, 3, 7], np.uint8)
    scores = score_labels(np.array([[3, 255]], np.uint8), labels, 0.7)
    np.testing.assert_allclose(scores[:, 0], [[0.15, 1 / 3], [0.7, 1 / 3], [0.15, 1 / 3]], rtol=1e-6)


def test_open_pixels_take_the_label_of_what_they_look_like() -> None:
    true = np.zeros((HEIGHT, WIDTH), np.uint8)
    true[12:31, 9:37] = 4
    photograph = np.where(true[..., None] == 4, [220, 180, 40], [30, 60, 120]).astype(np.uint8)
    open_mask = true.copy()
    open_mask[8:35, 20:30] = 255
    labels = np.array([0, 4], np.uint8)
    np.testing.assert_array_equal(refine_mask(photograph, score_labels(open_mask, labels, 0.7), labels, CRF), true)
