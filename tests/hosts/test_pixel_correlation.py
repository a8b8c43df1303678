import math

import pytest
import torch
from torch import Tensor

from rca.hosts import pixel_correlation
from rca.hosts.pixel_correlation import PixelCorrelation, propagate


def propagate_slowly(maps: Tensor, embedding: Tensor, valid: Tensor) -> Tensor:
    """One position after another."""
    images, channels, height, width = maps.shape
    refined = torch.zeros_like(maps)
    places = [(y, x) for y in range(height) for x in range(width)]
    for image in range(images):
        inside = [(y, x) for y, x in places if valid[image, 0, y, x] > 0]
        for y, x in inside:
            weights = []
            for v, u in inside:
                one, two = embedding[image, :, y, x], embedding[image, :, v, u]
                weights.append(max(0.0, float(one @ two / (one.norm() * two.norm()))))
            for channel in range(channels):
                terms = [
                    weight * float(maps[image, channel, v, u]) for weight, (v, u) in zip(weights, inside, strict=True)
                ]
                refined[image, channel, y, x] = math.fsum(terms) / math.fsum(weights)
    return refined


def draw() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 5, 7, generator=generator, dtype=torch.float64)
    embedding = torch.randn(3, 4, 5, 7, generator=generator, dtype=torch.float64)
    valid = torch.ones(3, 1, 5, 7, dtype=torch.float64)
    valid[1, :, 3:], valid[2, :, :, 4:], valid[2, :, :, 3] = 0, 0, 0.3
    return maps, embedding, valid


@pytest.mark.parametrize("columns", [4096, 8])
def test_maps_spread_as_position_by_position(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_correlation, "COLUMNS", columns)
    maps, embedding, valid = draw()
    torch.testing.assert_close(propagate(maps, embedding, valid), propagate_slowly(maps, embedding, valid))


def test_a_map_of_two_by_two_by_hand() -> None:
    """Above, two positions that look alike; below, one that looks unlike both and one halfway between."""
    embedding = torch.tensor([[[[2.0, 5.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, 1.0]]]]).double()
    maps = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]]]]).double()
    half = math.sqrt(0.5)
    above = (1 + half * 0.5) / (2 + half)
    expected = [[above, above], [half * 0.5 / (1 + half), (half * 1 + 0.5) / (3 * half + 1)]]
    found = propagate(maps, embedding, torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(found[0, 0], torch.tensor(expected).double())


def test_opposites_do_not_share() -> None:
    embedding = torch.tensor([[[[1.0, -1.0]]]])
    maps = torch.tensor([[[[1.0, 0.0]]]])
    torch.testing.assert_close(propagate(maps, embedding, torch.ones(1, 1, 1, 2)), maps)


def test_a_constant_map_stays_and_weights_sum_to_1() -> None:
    maps, embedding, valid = draw()
    found = propagate(torch.full_like(maps, 0.7), embedding, valid)
    torch.testing.assert_close(found, 0.7 * (valid > 0).double().expand_as(maps))


def test_gradients_agree_with_finite_differences() -> None:
    maps, embedding, valid = draw()
    embedding = embedding[:2, :, :4, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda one: propagate(maps[:2, :, :4, :3], one, valid[:2, :, :4, :3]), embedding)


def test_gradients_reach_its_own_layers_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    module = PixelCorrelation((6, 9))
    image = torch.randn(2, 3, 41, 53, generator=generator)
    levels = [torch.randn(2, 6, 11, 14, generator=generator), torch.randn(2, 9, 6, 7, generator=generator)]
    maps = torch.rand(2, 4, 6, 7, generator=generator)
    for tensor in (image, *levels, maps):
        tensor.requires_grad_()
    found = module(maps, (image, *levels), torch.ones(2, 1, 6, 7))
    assert found.shape == (2, 4, 6, 7)
    found.square().sum().backward()
    assert all(tensor.grad is None for tensor in (image, *levels, maps))
    assert all(parameter.grad.norm() > 0 for parameter in module.parameters())


def test_the_embedding_sees_the_image_and_both_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    module, valid = PixelCorrelation((6, 9)), torch.ones(1, 1, 6, 7)
    levels = [torch.randn(1, channels, 6, 7, generator=generator) for channels in (3, 6, 9)]
    maps = torch.rand(1, 4, 6, 7, generator=generator)
    before = module(maps, tuple(levels), valid)
    for number in range(3):
        changed = list(levels)
        changed[number] = levels[number].flip(3)
        assert not torch.allclose(module(maps, tuple(changed), valid), before)
