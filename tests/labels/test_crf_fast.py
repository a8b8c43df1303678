"""The shortcuts of the fast CRF: shared fields and iterations that end early, against the plain CRF."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from crf_scenes import CRF, HEIGHT, LABELS, WIDTH, draw_scene, refine_directly
from pydensecrf import densecrf

from rca.labels.crf import CrfSettings, refine_mask
from rca.labels.crf_fast import SAMPLED, refine_masks

SETTINGS = {
    "default": CRF,
    "one iteration": CRF.model_copy(update={"iterations": 1}),
    "colours alone": CRF.model_copy(update={"gaussian_weight": 0}),
    "smoothness alone": CRF.model_copy(update={"bilateral_weight": 0}),
    "unary alone": CrfSettings(gaussian_weight=0, bilateral_weight=0),
    "heavy": CRF.model_copy(update={"bilateral_weight": 60}),
}


@pytest.mark.parametrize("crf", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("masks", [1, 2, 3])
def test_the_fast_path_agrees_with_the_plain_algorithm(masks: int, count: int, crf: CrfSettings) -> None:
    photograph, _ = draw_scene(masks)
    labels = np.arange(count, dtype=np.uint8) * 3
    random = np.random.default_rng(count)
    probabilities = list(random.random((masks, count, HEIGHT, WIDTH)).astype(np.float32) ** 3)
    for mask, of_mask in zip(refine_masks(photograph, probabilities, labels, crf), probabilities, strict=True):
        plain = refine_mask(photograph, of_mask, labels, crf)
        assert mask.dtype == plain.dtype == np.uint8
        assert (mask == plain).mean() > 0.9995


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("masks", [1, 2, 3])
def test_masks_of_one_photograph_are_refined_independently(count: int, masks: int) -> None:
    photograph, _ = draw_scene(3)
    labels = np.arange(count, dtype=np.uint8) * 3
    given = list(np.random.default_rng(count).random((masks, count, HEIGHT, WIDTH)).astype(np.float32) ** 3)
    found = refine_masks(photograph, given, labels, CRF)
    assert len(found) == masks
    for one, refined in zip(given, found, strict=True):
        expected = refine_directly(photograph, one, np.arange(count), count, 0.0, CRF)
        assert (refined == labels[expected]).mean() > 0.9995


def test_no_masks_give_no_masks() -> None:
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
    found = refine_masks(photograph, [probabilities], LABELS, crf)[0]
    assert 2 <= len(steps) < 60
    assert (found == LABELS[expected]).mean() >= 0.999


def test_inference_does_not_end_while_any_pixel_changes(steps: list[int]) -> None:
    photograph, _ = draw_scene(6)
    probabilities = np.random.default_rng(4).random((3, HEIGHT, WIDTH)).astype(np.float32) ** 3
    settings = [CRF.model_copy(update={"iterations": count}) for count in range(1, 31)]
    after = [refine_directly(photograph, probabilities, np.arange(3), 3, 0.0, crf) for crf in settings]
    changed = [int((one != two).sum()) for one, two in pairwise(after)]
    assert 0 < min(filter(None, changed)) < HEIGHT * WIDTH // SAMPLED  # too few to be sure to see one
    found = refine_masks(photograph, [probabilities], LABELS, settings[-1].model_copy(update={"tolerance": 0}))[0]
    assert changed[len(steps) - 2] == 0
    assert len(steps) < 30
    np.testing.assert_array_equal(found, LABELS[after[len(steps) - 1]])


def test_inference_goes_on_while_labels_change(steps: list[int]) -> None:
    photograph, probabilities = draw_scene(4)
    refine_masks(photograph, [probabilities], LABELS, CRF.model_copy(update={"iterations": 3, "tolerance": 0}))[0]
    assert len(steps) == 3
