"""The loss on OAA's integral attention against the published formula, value by value."""

import math

import pytest
import torch
from slow_maps import mean

from rca.hosts.oaa import compare_attention

SHAPE = (3, 4, 5, 7)


@pytest.mark.parametrize("seed", range(3))
def test_integral_attention_is_the_published_formula(seed: int) -> None:
    """The mean of -a log p where the attention a is above 0.001, plus the mean of -log(1 - p) everywhere else."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*SHAPE, generator=generator).double()
    targets = torch.rand(*SHAPE, generator=generator).double() * (torch.rand(*SHAPE, generator=generator) < 0.4)
    targets[0, 0, 0, :3] = torch.tensor([0.0009, 0.0011, 1.0]).double()
    attended, others = [], []
    for logit, attention in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        if attention > 0.001:
            attended.append(-attention * math.log(probability))
        else:
            others.append(-math.log(1 - probability))
    found = compare_attention(logits, targets, torch.ones(SHAPE).double())
    assert len(attended) + len(others) == logits.numel()
    assert float(found) == pytest.approx(mean(attended) + mean(others), abs=1e-9)
