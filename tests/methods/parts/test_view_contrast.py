import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.methods.parts.view_contrast import MovingPrototypes, attract, contrast_prototypes, pool_strongest, repel

TEMPERATURE = 0.1


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Unit vectors in double precision."""
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(vectors, dim=-1)


def test_objects_and_backgrounds_repel_pair_by_pair() -> None:
    one, two = draw(5, 3), draw(7, 3, seed=1)
    one[0] = two[0]  # a cosine of 1 is kept below
    here, there = torch.tensor([1, 1, 0, 1, 1]).bool(), torch.tensor([1, 0, 1, 1, 1, 0, 1]).bool()
    terms = []
    for number, row in enumerate(one):
        for other, column in enumerate(two):
            if here[number] and there[other]:
                terms.append(-math.log(1 - min(max(float(row @ column), 0.0005), 0.9995)))
    assert len(terms) == 20
    assert float(repel(one, two, here, there)) == pytest.approx(np.mean(terms))
    assert repel(one, two, torch.zeros(5).bool(), there) == 0


def test_rows_are_drawn_to_their_prototype() -> None:
    rows, prototype = draw(5, 3), draw(3, seed=1)
    present = torch.tensor([1, 0, 1, 1, 0]).bool()
    expected = np.mean(
        [abs(float(rows[row, channel] - prototype[channel])) for row in (0, 2, 3) for channel in range(3)]
    )
    assert float(attract(rows, present, prototype)) == pytest.approx(expected)
    assert attract(rows, torch.zeros(5).bool(), prototype) == 0
    assert attract(prototype[None], torch.ones(1).bool(), prototype) == 0


def test_queries_are_contrasted_one_by_one() -> None:
    queries, prototypes = draw(9, 5), draw(4, 5, seed=1)
    labels, known = torch.tensor([0, 1, 2, 3, -1, 0, 3, 1, -1]), torch.tensor([1, 0, 1, 1]).bool()
    terms = []
    for query, label in zip(queries, labels.tolist(), strict=True):
        if label >= 0 and known[label]:
            powers = [math.exp(float(query @ prototypes[row]) / TEMPERATURE) for row in range(4) if known[row]]
            own = math.exp(float(query @ prototypes[label]) / TEMPERATURE)
            terms.append(-math.log(own / sum(powers)))
    total, count = contrast_prototypes(queries, labels, prototypes, known, TEMPERATURE)
    assert count == len(terms) == 5
    assert float(total) == pytest.approx(sum(terms))


def test_without_a_known_prototype_there_is_no_contrast() -> None:
    queries = draw(3, 5).requires_grad_()
    total, count = contrast_prototypes(queries, torch.arange(3), draw(3, 5), torch.zeros(3).bool(), TEMPERATURE)
    total.backward()
    assert total == count == 0
    assert not queries.grad.any()


def test_no_gradient_reaches_the_prototypes() -> None:
    queries, prototypes = draw(3, 5).requires_grad_(), draw(3, 5, seed=1).requires_grad_()
    contrast_prototypes(queries, torch.arange(3), prototypes, torch.ones(3).bool(), TEMPERATURE)[0].backward()
    assert prototypes.grad is None
    assert queries.grad.norm() > 0


def pool_slowly(rows: Tensor, weights: Tensor, number: int) -> tuple[list[np.ndarray], list[bool]]:
    pooled, present = [], []
    for column in weights.T.tolist():
        ordered = sorted(column, reverse=True)[:number]
        last = ordered[-1]
        part = ordered.count(last) / column.count(last)  # rows as heavy as the last one share its places
        mean = sum(
            weight * (1 if weight > last else part) * rows[place].detach().numpy()
            for place, weight in enumerate(column)
            if weight >= last
        )
        present.append(max(column) > 0)
        pooled.append(mean / np.linalg.norm(mean) if present[-1] else mean)
    return pooled, present


@pytest.mark.parametrize("number", [1, 4, 11, 50])
def test_a_class_is_pooled_from_its_heaviest_rows(number: int) -> None:
    rows, weights = draw(11, 5), draw(11, 3, seed=1).relu()
    weights[:, 1] = 0
    weights[:6, 2] = 1  # as many positions of the background have no other class at all
    weights[6, 2] = 2
    pooled, present = pool_strongest(rows, weights, number)
    expected, there = pool_slowly(rows, weights, number)
    np.testing.assert_allclose(pooled, np.stack(expected))
    assert present.tolist() == there == [True, False, True]


@pytest.mark.parametrize("number", [4, 50])
def test_gradients_of_pooling_are_those_of_differences(number: int) -> None:
    rows, weights = draw(11, 5).requires_grad_(), draw(11, 3, seed=1).relu()
    assert torch.autograd.gradcheck(lambda one: pool_strongest(one, weights, number)[0], rows)


def test_gradients_of_the_losses_are_those_of_differences() -> None:
    one, two = draw(4, 3).requires_grad_(), draw(3, 3, seed=1).requires_grad_()
    present = torch.tensor([1, 1, 0, 1]).bool()
    assert torch.autograd.gradcheck(lambda a, b: repel(a, b, present, present[:3]), (one, two))
    assert torch.autograd.gradcheck(lambda a: attract(a, present, two[0].detach()), one)
    labels, known = torch.tensor([0, -1, 2, 1]), torch.tensor([1, 0, 1]).bool()
    assert torch.autograd.gradcheck(lambda a: contrast_prototypes(a, labels, two, known, TEMPERATURE)[0], one)


@pytest.mark.parametrize("normalised", [True, False])
def test_a_prototype_starts_as_its_first_embedding_and_then_moves(normalised: bool) -> None:
    prototypes = MovingPrototypes((3, 4), 0.7, normalised).double()
    assert not prototypes.known.any()
    one, two = draw(3, 4), draw(3, 4, seed=1)
    prototypes.update(one, torch.tensor([True, True, False]))
    assert prototypes.known.tolist() == [True, True, False]
    torch.testing.assert_close(prototypes.vectors[:2], one[:2])
    prototypes.update(two, torch.tensor([True, False, True]))
    mixed = 0.7 * one[0] + 0.3 * two[0]
    mixed = mixed / mixed.norm() if normalised else mixed
    torch.testing.assert_close(prototypes.vectors, torch.stack([mixed, one[1], two[2]]))
    assert not any(parameter.requires_grad for parameter in prototypes.parameters())
    assert prototypes.state_dict().keys() == {"vectors", "known"}
