"""Positions of objects and of their contexts, each function against a slow loop."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from slow_maps import resize, softmax, unit
from torch import Tensor

from rca.methods.parts import positions
from rca.methods.parts.positions import (
    REACH,
    allot_slots,
    find_contexts,
    find_objects,
    pick_evenly,
    score_prototypes,
    share_alike,
    show_positions,
)

IMAGES, CLASSES, SIZE = 3, 4, (5, 6)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_shares() -> tuple[Tensor, Tensor]:
    """Shares of the peak of tagged maps, 0 for the others, and the tags; the last image has none."""
    tags = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    return draw(0, IMAGES, CLASSES, *SIZE) * tags[..., None, None], tags


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_an_object_is_where_its_map_is_high_and_the_highest(threshold: float) -> None:
    shares, tags = draw_shares()
    shares[0, 0, 2, 2] = shares[0, 3, 2, 2] = 0.9  # two that are equally high
    found = find_objects(shares, tags, threshold)
    assert found.dtype == torch.bool
    for image, label, y, x in np.ndindex(IMAGES, CLASSES, *SIZE):
        value = float(shares[image, label, y, x])
        others = [float(shares[image, other, y, x]) for other in range(CLASSES)]
        assert bool(found[image, label, y, x]) == (
            bool(tags[image, label]) and value > threshold and value >= max(others)
        )
    assert found[0, [0, 3], 2, 2].all()
    assert found[:2].any()


def test_context_is_where_every_map_of_the_image_is_low() -> None:
    shares, tags = draw_shares()
    valid = torch.ones(IMAGES, 1, *SIZE)
    valid[0, 0, :, 4:], valid[1, 0, 3] = 0, 0.5
    found = find_contexts(shares, valid, tags, 0.5)
    for image, label, y, x in np.ndindex(IMAGES, CLASSES, *SIZE):
        low = all(shares[image, other, y, x] < 0.5 for other in range(CLASSES) if tags[image, other])
        expected = bool(tags[image, label]) and low and bool(valid[image, 0, y, x] > 0)
        assert bool(found[image, label, y, x]) == expected
    assert found[0, 0].any()
    assert not found[2].any()  # no class, so no context of one


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_slots_are_divided_evenly_among_the_images_of_a_class(size: int) -> None:
    tags = (draw(1, 11, CLASSES) < 0.5).float()
    tags[:, 1], tags[:, 2] = 0, 1  # a class that no image shows, and one that all show
    slots = allot_slots(tags, size)
    assert slots.dtype == torch.int64
    for label in range(CLASSES):
        shown = [int(slots[image, label]) for image in range(11) if tags[image, label]]
        hidden = [int(slots[image, label]) for image in range(11) if not tags[image, label]]
        assert sum(shown) == (size if shown else 0)
        assert not any(hidden)
        assert not shown or max(shown) - min(shown) <= 1
    assert slots[:, 1].sum() == 0


def test_places_are_picked_at_even_steps() -> None:
    masks = draw(2, 40, 53) < 0.6
    masks[0], masks[1] = False, True
    numbers = torch.arange(40)
    numbers[2] = 0
    found = pick_evenly(masks, numbers)
    for mask, number, picked in zip(masks, numbers.tolist(), found, strict=True):
        places = mask.nonzero()[:, 0].tolist()
        wanted = min(number, len(places))
        # The k-th of n is at the end of the k-th of n equal parts.
        expected = [places[math.ceil(k * len(places) / wanted) - 1] for k in range(1, wanted + 1)]
        assert picked.nonzero()[:, 0].tolist() == expected
        ranks = [places.index(place) for place in expected]
        steps = {after - before for before, after in pairwise(ranks)}
        assert not steps or max(steps) - min(steps) <= 1
    assert found[1].sum() == 1
    assert not (found & ~masks).any()


def test_a_position_is_shown_with_the_cells_of_its_region_nearby() -> None:
    masks = draw(3, 6, 9, 11) < 0.7
    place = torch.tensor([0, 98, 40, 10, 88, 55])
    found = show_positions(masks, place)
    for mask, one, shown in zip(masks, place.tolist(), found, strict=True):
        row, column = divmod(one, 11)
        for y, x in np.ndindex(9, 11):
            assert bool(shown[y, x]) == (bool(mask[y, x]) and max(abs(y - row), abs(x - column)) <= REACH)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_a_set_scores_by_the_mean_over_its_usable_prototypes(temperature: float) -> None:
    features, prototypes = draw(4, 2, 7, 3, 5) - 0.5, draw(5, 4, 3, 7) - 0.5
    usable = torch.tensor([[True, False, True], [False] * 3, [True] * 3, [False, True, False]])
    found = score_prototypes(features, prototypes, usable, temperature)
    for image, row, y, x in np.ndindex(2, 4, 3, 5):
        position = unit(features[image, :, y, x].numpy())
        terms = [
            math.exp(float(position @ unit(one.numpy())) / temperature)
            for one, counts in zip(prototypes[row], usable[row], strict=True)
            if counts
        ]
        expected = math.log(math.fsum(terms) / len(terms)) if terms else -1e4
        assert float(found[image, row, y, x]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_set_does_not_win_by_its_size() -> None:
    features, prototype = draw(6, 1, 7, 2, 2), draw(7, 1, 1, 7)
    one, many = (
        score_prototypes(features, prototype.expand(1, number, 7), torch.ones(1, number, dtype=torch.bool), 0.1)
        for number in (1, 9)
    )
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize("size", [(3, 4), (5, 7)])
@pytest.mark.parametrize("block", [5, 256])
def test_positions_share_with_those_that_they_resemble(
    size: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "BLOCK", block)
    features, shares = draw(8, 2, 6, 3, 4) - 0.5, draw(9, 2, 5, *size).softmax(1)
    found = share_alike(features, shares, 0.2)
    assert found.shape == (2, 5, 3, 4)
    places = list(np.ndindex(3, 4))
    for image in range(2):
        vectors = {(y, x): unit(features[image, :, y, x].numpy()) for y, x in places}
        values = resize(shares[image].numpy(), (3, 4))
        for y, x in places:
            weights = softmax([float(vectors[y, x] @ vectors[other]) / 0.2 for other in places])
            expected = sum(weight * values[:, v, u] for weight, (v, u) in zip(weights, places, strict=True))
            np.testing.assert_allclose(found[image, :, y, x], expected, rtol=1e-9)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 3, 4, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.001, 0.1])
def test_a_position_without_features_takes_the_mean_of_all(temperature: float) -> None:
    features, shares = draw(8, 1, 6, 3, 4), draw(9, 1, 5, 3, 4).softmax(1)
    features[..., 1, 2] = 0
    found = share_alike(features, shares, temperature)
    torch.testing.assert_close(found[..., 1, 2], shares.mean((2, 3)))
