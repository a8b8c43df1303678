"""Early-learning correction against a slow reading of its formulas, pixel by pixel, in double precision."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rca.core.files import IGNORE
from rca.segmentation.correction import CorrectionSettings, EarlyLearning, has_slowed

LABELS, SIZE = 4, (6, 7)
SETTINGS = CorrectionSettings(confidence=0.6)


def build(epochs: int = 9) -> EarlyLearning:
    return EarlyLearning(SETTINGS, LABELS, epochs)


def draw(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and masks of three images, one of which shows no class, and their tags."""
    random = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(3, LABELS, *SIZE, generator=random, dtype=torch.float64)
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
    mask = torch.zeros(3, *SIZE, dtype=torch.int64)
    for image, row in enumerate(tags):
        labels = torch.tensor([0, *(row.nonzero()[:, 0] + 1).tolist()])
        mask[image] = labels[torch.randint(0, len(labels), SIZE, generator=random)]
    mask[torch.rand(3, *SIZE, generator=random) < 0.2] = IGNORE
    return scores, mask, tags


def correct_slowly(scores: Tensor, mask: Tensor, tags: Tensor, learnt: list[int]) -> Tensor:
    expected = mask.clone()
    for image, row, column in np.ndindex(*mask.shape):
        given = int(mask[image, row, column])
        exponents = [math.exp(score) for score in scores[image, :, row, column].tolist()]
        shares = [one / sum(exponents) for one in exponents]
        allowed = [0, *(number + 1 for number, tag in enumerate(tags[image].tolist()) if tag)]
        best = max(allowed, key=lambda label: shares[label])
        if given in learnt and shares[best] > SETTINGS.confidence:
            expected[image, row, column] = best
    return expected


@pytest.mark.parametrize("learnt", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_sure_pixels_of_learnt_classes_get_the_networks_label(learnt: list[int]) -> None:
    learning, (scores, mask, tags) = build(), draw(0)
    learning.learnt[learnt] = True
    found = learning.correct(scores, mask, tags)
    assert torch.equal(found, correct_slowly(scores, mask, tags, learnt))
    assert bool((found != mask).any()) == bool(learnt)
    assert torch.equal(found == IGNORE, mask == IGNORE)


def test_a_class_without_a_tag_cannot_come_about() -> None:
    learning, (scores, mask, tags) = build(), draw(0)
    learning.learnt[:] = True
    scores[:, 2] += 20  # which only the second image shows
    found = learning.correct(scores, mask, tags)
    assert not (found[[0, 2]] == 2).any()
    assert (found[1][mask[1] != IGNORE] == 2).all()


def test_the_curves_are_those_of_the_iou_of_an_epoch() -> None:
    learning = build()
    expected = []
    for epoch in range(2):
        learning.start_epoch(epoch)
        pairs: list[tuple[int, int]] = []
        for batch in range(2):
            scores, mask, tags = draw(10 * epoch + batch)
            mask[mask == 3] = 0 if epoch == 0 else 3
            scores[:, 3] -= 99 if epoch == 0 else 0
            learning.correct(scores, mask, tags)
            found = scores.argmax(1)
            pairs += [
                (one, two)
                for one, two in zip(mask.flatten().tolist(), found.flatten().tolist(), strict=True)
                if one != IGNORE
            ]
        both = [sum(one == two == label for one, two in pairs) for label in range(LABELS)]
        either = [sum(label in pair for pair in pairs) for label in range(LABELS)]
        expected.append([one / two if two else math.nan for one, two in zip(both, either, strict=True)])
    learning.start_epoch(2)
    np.testing.assert_allclose(learning.curves[:2].numpy(), expected)
    assert math.isnan(expected[0][3])
    assert learning.curves[2:].isnan().all()


@pytest.mark.parametrize(("a", "b", "c"), [(0.8, 0.5, 1.0), (0.6, 0.2, 1.3), (0.9, 1.2, 0.7)])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_curve_has_slowed_when_its_formula_says_so(a: float, b: float, c: float, share: float) -> None:
    """The slope by small differences of f(t) = a (1 - exp(-b t ^ c))."""

    def height(time: float) -> float:
        return a * (1 - math.exp(-b * time**c))

    def slope(time: float) -> float:
        return (height(time + 1e-5) - height(time - 1e-5)) / 2e-5

    told = []
    for epochs in range(3, 15):
        change = (slope(1) - slope(epochs)) / slope(1)
        if abs(change - share) > 0.01:
            told.append(change > share)
            curve = np.array([height(time) for time in range(1, epochs + 1)])
            assert has_slowed(curve, share) == told[-1], epochs
    assert any(told)


@pytest.mark.parametrize(
    "curve",
    [[0.1, 0.9], [0.2, np.nan, 0.9, 0.9], [0.0] * 6, [0.1, 0.2, 0.3, 0.4]],
    ids=["short", "gap", "flat", "even"],
)
def test_what_says_nothing_of_a_slope_has_not_slowed(curve: list[float]) -> None:
    assert not has_slowed(np.array(curve), 0.9)


def test_a_label_that_is_learnt_stays_so() -> None:
    learning = build()
    learning.learnt[1] = True
    for epoch in range(5):
        learning.start_epoch(epoch)
        learning.correct(*draw(epoch))
    learning.start_epoch(5)
    assert learning.learnt[1]
