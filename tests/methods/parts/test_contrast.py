import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.methods.parts.contrast import contrast_mixed, contrast_regions, draw_partners

CHANNELS, TEMPERATURE = 7, 0.2


def draw(seed: int, regions: int = 6, stored: int = 13) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and entries of four classes, in double precision."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(number: int) -> Tensor:
        return functional.normalize(torch.randn(number, CHANNELS, generator=generator, dtype=torch.float64), dim=1)

    def labels(number: int) -> Tensor:
        return torch.randint(4, (number,), generator=generator)

    return vectors(regions), labels(regions), vectors(stored), labels(stored)


def contrast_slowly(query: Tensor, label: int, entries: Tensor, entry_classes: Tensor, temperature: float) -> float:
    scores = [math.exp(float(query @ entry) / temperature) for entry in entries]
    positives = [score for score, other in zip(scores, entry_classes, strict=True) if other == label]
    negatives = [score for score, other in zip(scores, entry_classes, strict=True) if other != label]
    if not positives or not negatives:
        return 0.0
    return sum(-math.log(score / (score + sum(negatives))) for score in positives) / len(positives)


@pytest.mark.parametrize("seed", range(5))
def test_contrast_agrees_with_its_formula_term_by_term(seed: int) -> None:
    queries, classes, entries, entry_classes = draw(seed)
    expected = [
        contrast_slowly(query, int(label), entries, entry_classes, TEMPERATURE)
        for query, label in zip(queries, classes, strict=True)
    ]
    found = contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_low_temperature_neither_overflows_nor_loses_precision() -> None:
    queries, classes, entries, entry_classes = draw(0)
    expected = contrast_regions(queries, classes, entries, entry_classes, 0.01)
    found = contrast_regions(queries.float(), classes, entries.float(), entry_classes, 0.01)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_right() -> None:
    queries, classes, entries, entry_classes = draw(1, regions=4, stored=9)
    assert torch.autograd.gradcheck(
        lambda one: contrast_regions(one, classes, entries, entry_classes, TEMPERATURE), queries.requires_grad_()
    )


@pytest.mark.parametrize("case", ["empty bank", "no positive", "no negative"])
def test_a_query_that_cannot_be_contrasted_gives_zero_and_no_gradient(case: str) -> None:
    queries, _, entries, entry_classes = draw(2)
    queries.requires_grad_()
    classes = torch.zeros(len(queries), dtype=torch.int64)
    if case == "empty bank":
        entries, entry_classes = entries[:0], entry_classes[:0]
    else:
        entry_classes = torch.full_like(entry_classes, 1 if case == "no positive" else 0)
    losses = contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE)
    losses.sum().backward()
    assert losses.shape == (len(queries),)
    assert torch.equal(losses, torch.zeros_like(losses))
    assert torch.equal(queries.grad, torch.zeros_like(queries))


def test_a_query_without_a_positive_leaves_the_others_alone() -> None:
    queries, classes, entries, entry_classes = draw(3)
    classes[0] = 9
    queries.requires_grad_()
    losses = contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE)
    rest = contrast_regions(queries[1:], classes[1:], entries, entry_classes, TEMPERATURE)
    losses.sum().backward()
    assert losses[0] == 0
    torch.testing.assert_close(losses[1:], rest)
    assert queries.grad.isfinite().all()
    assert queries.grad[0].norm() == 0 < queries.grad[1:].norm()


def test_the_order_of_the_bank_does_not_matter() -> None:
    queries, classes, entries, entry_classes = draw(4)
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        contrast_regions(queries, classes, entries[order], entry_classes[order], TEMPERATURE),
        contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE),
    )


def test_a_step_against_the_gradient_draws_a_query_to_its_class() -> None:
    queries, classes, entries, entry_classes = draw(5)
    queries.requires_grad_()
    contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE).sum().backward()
    before = contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE).sum()
    moved = functional.normalize(queries - 0.01 * queries.grad, dim=1)
    assert contrast_regions(moved, classes, entries, entry_classes, TEMPERATURE).sum() < before


@pytest.mark.parametrize("seed", range(3))
def test_a_mixed_query_answers_for_both_classes(seed: int) -> None:
    queries, classes, entries, entry_classes = draw(seed)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(len(queries), 1, generator=generator, dtype=torch.float64)
    partner = torch.randperm(len(queries), generator=generator)
    expected = []
    for index in range(len(queries)):
        share, other = float(weight[index]), int(partner[index])
        mixed = share * queries[index] + (1 - share) * queries[other]
        mixed = mixed / mixed.norm()
        own, its = (
            contrast_slowly(mixed, int(classes[one]), entries, entry_classes, TEMPERATURE) for one in (index, other)
        )
        expected.append(share * own + (1 - share) * its)
    found = contrast_mixed(queries, classes, entries, entry_classes, TEMPERATURE, weight, partner)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_share_of_one_mixes_nothing() -> None:
    queries, classes, entries, entry_classes = draw(6)
    weight, partner = torch.ones(len(queries), 1, dtype=torch.float64), torch.arange(len(queries)).flip(0)
    torch.testing.assert_close(
        contrast_mixed(queries, classes, entries, entry_classes, TEMPERATURE, weight, partner),
        contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE),
    )


@pytest.mark.parametrize("number", [1, 3, 99])
def test_hard_negatives_are_those_most_similar_to_the_query(number: int) -> None:
    queries, classes, entries, entry_classes = draw(7)
    found = contrast_regions(queries, classes, entries, entry_classes, TEMPERATURE, hard_negatives=number)
    for query, label, loss in zip(queries, classes, found, strict=True):
        order = sorted(range(len(entries)), key=lambda one: -float(query @ entries[one]))
        hard = [one for one in order if entry_classes[one] != label][:number]
        kept = torch.tensor([one for one in order if entry_classes[one] == label] + hard)
        expected = contrast_slowly(query, int(label), entries[kept], entry_classes[kept], TEMPERATURE)
        assert float(loss) == pytest.approx(expected)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_query_is_not_contrasted_with_itself(mixed: bool) -> None:
    queries, _, *_ = draw(8)
    classes = torch.tensor([0, 0, 1, 1, 2, 0])
    own = torch.eye(len(queries), dtype=torch.bool)
    partner = torch.tensor([1, 2, 0, 4, 5, 3])
    weight = torch.full((len(queries), 1), 0.3, dtype=torch.float64)
    if mixed:
        found = contrast_mixed(queries, classes, queries, classes, TEMPERATURE, weight, partner, own=own)
    else:
        found = contrast_regions(queries, classes, queries, classes, TEMPERATURE, own=own)
    for index in range(len(queries)):
        other = int(partner[index])
        kept = torch.tensor([one for one in range(6) if one != index and (not mixed or one != other)])
        if mixed:
            blend = functional.normalize(0.3 * queries[index] + 0.7 * queries[other], dim=0)
            first, second = (
                contrast_slowly(blend, int(classes[one]), queries[kept], classes[kept], TEMPERATURE)
                for one in (index, other)
            )
            expected = 0.3 * first + 0.7 * second
        else:
            expected = contrast_slowly(queries[index], int(classes[index]), queries[kept], classes[kept], TEMPERATURE)
        assert float(found[index]) == pytest.approx(expected)


def test_partners_are_drawn_image_by_image() -> None:
    """Every image alike, then every region of it alike; the image with three regions is no likelier than the others."""
    torch.manual_seed(0)
    image = torch.tensor([0, 0, 0, 2, 3])  # the second image of the batch has no region
    drawn = torch.stack([draw_partners(image) for _ in range(6000)])
    counts = drawn.flatten().bincount(minlength=5).double() / drawn.numel()
    expected = torch.tensor([1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(counts, expected, atol=0.02, rtol=0)
    of_each = [drawn[:, place].bincount(minlength=5) for place in range(5)]
    assert all((counts > 0).all() for counts in of_each)  # itself included
    assert draw_partners(image[:0]).shape == (0,)
