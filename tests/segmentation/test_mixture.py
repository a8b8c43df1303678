"""The mixture of two Gaussians against scikit-learn's, and what it leaves out."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional

from rca.core.files import IGNORE
from rca.segmentation.loss import LossSettings, compute_segmentation_loss
from rca.segmentation.mixture import BINS, HIGHEST, ITERATIONS, LEAST_VARIANCE, drop_noisy

SIZE = (2, 30, 40)


def draw(noise: float = 0.2, labels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of pixels of several labels, each with its own level, the mask, and which pixels are wrong."""
    random = torch.Generator().manual_seed(0)
    mask = torch.randint(0, labels, SIZE, generator=random)
    wrong = torch.rand(SIZE, generator=random) < noise
    level = 0.3 + 0.5 * mask
    losses = torch.where(wrong, level + 3.5, level) + 0.4 * torch.randn(SIZE, generator=random)
    mask[torch.rand(SIZE, generator=random) < 0.1] = IGNORE
    return losses.abs().double(), mask, wrong


def keep_by_library(losses: np.ndarray, least: float) -> np.ndarray:
    """Which losses of a label scikit-learn keeps, and which of them are near the limit."""
    values = (np.floor(losses / HIGHEST * BINS).clip(0, BINS - 1)[:, None] + 0.5) / BINS
    spread = values.std()
    given: dict[str, Any] = {
        "means_init": [[values.mean() - spread], [values.mean() + spread]],
        "weights_init": [0.5, 0.5],
        "precisions_init": [[[1 / (spread**2 + LEAST_VARIANCE)]]] * 2,
    }
    mixture = GaussianMixture(2, tol=0, reg_covar=LEAST_VARIANCE, max_iter=ITERATIONS, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        lower = mixture.fit(values).means_[:, 0].argmin()
    clean = mixture.predict_proba(values)[:, lower]
    assert (abs(clean - least) > 1e-6).all()
    return (clean >= least) | (values[:, 0] <= mixture.means_[lower, 0])


@pytest.mark.parametrize("least", [0.2, 0.5, 0.9])
def test_it_keeps_what_the_mixture_of_a_library_keeps(least: float) -> None:
    losses, mask, _ = draw()
    found = drop_noisy(losses, mask, 3, least)
    for label in range(3):
        pixels = mask == label
        kept = keep_by_library(losses[pixels].numpy(), least)
        assert 0 < kept.mean() < 1
        np.testing.assert_array_equal((found[pixels] == label).numpy(), kept)
    assert (found[mask == IGNORE] == IGNORE).all()
    assert ((found == mask) | (found == IGNORE)).all()


def test_it_leaves_out_the_wrong_pixels_of_each_label() -> None:
    losses, mask, wrong = draw()
    known = mask != IGNORE
    dropped = drop_noisy(losses, mask, 3, 0.5) == IGNORE
    assert (dropped[known] == wrong[known]).double().mean() > 0.99


def test_what_is_alike_is_kept() -> None:
    mask = torch.zeros(SIZE, dtype=torch.int64)
    for loss in (0.0, 0.7, 80.0):
        assert torch.equal(drop_noisy(torch.full(SIZE, loss), mask, 2, 0.5), mask)
    everywhere = torch.full(SIZE, IGNORE)
    assert torch.equal(drop_noisy(torch.ones(SIZE), everywhere, 2, 0.5), everywhere)


def test_the_loss_is_that_of_the_pixels_kept_from_its_epoch_on() -> None:
    random = torch.Generator().manual_seed(1)
    _, mask, _ = draw()
    scores = (3 * torch.randn(2, 3, *SIZE[1:], generator=random, dtype=torch.float64)).requires_grad_()
    losses = functional.cross_entropy(scores, mask, ignore_index=IGNORE, reduction="none")
    kept = drop_noisy(losses, mask, 3, 0.4)
    assert 0 < (kept != mask).double().mean() < 0.6
    settings = LossSettings.model_validate({"balance": "labels", "mixture": {"least": 0.4, "start_epoch": 2}})
    plain = LossSettings(balance="labels")
    for epoch, expected in ((0, mask), (1, mask), (2, kept), (5, kept)):
        found = compute_segmentation_loss(scores, mask, settings, epoch)
        torch.testing.assert_close(found, compute_segmentation_loss(scores, expected, plain, epoch))
    assert found.requires_grad
