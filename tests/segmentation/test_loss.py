"""The loss of the segmentation against slow references in double precision, pixel by pixel."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.core.settings import build_settings
from rca.segmentation.loss import LossSettings, compute_segmentation_loss

NOISE = {"exponent": 0.7, "start_epoch": 2}


def draw(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of three images and four labels, and masks of which one is ignored altogether."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 4, 5, 7, generator=random, dtype=torch.float64) * 3
    mask = torch.randint(0, 4, (3, 5, 7), generator=random)
    mask[torch.rand(3, 5, 7, generator=random) < 0.5] = 0
    mask[torch.rand(3, 5, 7, generator=random) < 0.2] = IGNORE
    mask[1] = IGNORE
    return scores.requires_grad_(), mask


def read(**given: Any) -> LossSettings:
    return build_settings(LossSettings, given, "train_seg.loss", Path("params.yaml"))


def list_pixels(scores: Tensor, mask: Tensor) -> list[tuple[int, float]]:
    """The label and its probability of each known pixel."""
    found = []
    for image, row, column in (mask != IGNORE).nonzero().tolist():
        logits = scores[image, :, row, column].tolist()
        label = int(mask[image, row, column])
        found.append((label, math.exp(logits[label]) / sum(math.exp(one) for one in logits)))
    return found


def average(losses: list[float]) -> float:
    return sum(losses) / len(losses)


def test_by_default_it_is_the_plain_cross_entropy() -> None:
    scores, mask = draw()
    expected = functional.cross_entropy(scores, mask, ignore_index=IGNORE)
    torch.testing.assert_close(compute_segmentation_loss(scores, mask, LossSettings(), 5), expected)


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
@pytest.mark.parametrize("balance", ["none", "background_foreground", "labels"])
def test_it_agrees_with_a_sum_over_pixels(balance: str, epoch: int) -> None:
    scores, mask = draw()
    mask[mask == 2] = 3  # a label that the batch does not show
    groups: dict[int, list[float]] = {}
    for label, probability in list_pixels(scores, mask):
        weight = probability ** NOISE["exponent"] if epoch >= NOISE["start_epoch"] else 1
        group = {"none": 0, "background_foreground": min(label, 1), "labels": label}[balance]
        groups.setdefault(group, []).append(-weight * math.log(probability))
    assert len(groups) == {"none": 1, "background_foreground": 2, "labels": 3}[balance]
    expected = average([average(losses) for losses in groups.values()])
    found = compute_segmentation_loss(scores, mask, read(balance=balance, noise=NOISE), epoch)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("exponent", [0.3, 0.7, 1.0])
def test_contested_pixels_have_the_gradient_of_the_generalised_cross_entropy(exponent: float) -> None:
    scores, mask = draw()
    settings = read(noise={"exponent": exponent, "start_epoch": 0})
    (found,) = torch.autograd.grad(compute_segmentation_loss(scores, mask, settings, 0), scores)
    known = mask != IGNORE
    own = scores.softmax(1).gather(1, mask.where(known, 0)[:, None])[:, 0][known]
    (expected,) = torch.autograd.grad(((1 - own**exponent) / exponent).mean(), scores)
    torch.testing.assert_close(found, expected)


def test_a_rare_object_counts_as_much_as_the_background() -> None:
    scores = torch.zeros(1, 3, 10, 10, requires_grad=True)
    mask = torch.zeros(1, 10, 10, dtype=torch.int64)
    mask[0, 0, 0] = 2
    compute_segmentation_loss(scores, mask, read(balance="background_foreground"), 0).backward()
    assert scores.grad is not None
    pulled = scores.grad[0, 2, 0, 0].abs() / (2 / 3)
    assert pulled.item() == pytest.approx(0.5)


def test_each_label_of_a_batch_counts_alike() -> None:
    scores = torch.zeros(1, 4, 10, 10, requires_grad=True)
    mask = torch.zeros(1, 10, 10, dtype=torch.int64)
    mask[0, 0, 0], mask[0, 5:] = 2, 1
    compute_segmentation_loss(scores, mask, read(balance="labels"), 0).backward()
    assert scores.grad is not None
    pulled = [scores.grad[0, label][mask[0] == label].abs().sum().item() / (3 / 4) for label in (0, 1, 2)]
    assert pulled == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("balance", ["none", "background_foreground", "labels"])
@pytest.mark.parametrize("noise", [None, {"start_epoch": 0}])
def test_what_has_no_pixel_counts_as_nothing(balance: str, noise: dict | None) -> None:
    scores, mask = draw()
    settings = read(balance=balance, noise=noise)
    nothing = compute_segmentation_loss(scores, torch.full_like(mask, IGNORE), settings, 0)
    assert nothing.item() == 0
    background = torch.where(mask == IGNORE, IGNORE, 0)
    loss = compute_segmentation_loss(scores, background, settings, 0)
    whole = compute_segmentation_loss(scores, background, read(noise=noise), 0)
    torch.testing.assert_close(loss, whole / 2 if balance == "background_foreground" else whole)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"balance": "inverse"}, 'train_seg.loss.balance is "inverse": '),
        ({"noise": {"exponent": 0}}, "train_seg.loss.noise.exponent is 0: "),
        ({"noise": {"gamma": 1}}, "train_seg.loss.noise.gamma is an unknown key"),
    ],
)
def test_what_is_out_of_range_is_told(given: dict, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(**given)
    assert told in str(caught.value)
