import math

import pytest
import torch
from torch import Tensor

from rca.methods.parts.attention import Affinity, AffinityOptions, summarise

CHANNELS = 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_the_co_attention_of_a_pair_by_hand() -> None:
    """Two images of 2x2 positions, one for each corner of a square; ln 3 makes the shares 3/4 and 1/4 or the like."""
    affinity = Affinity(AffinityOptions(projection="none"), 2)
    step = math.log(3)
    first = torch.tensor([[[[1.0, 0], [0, 1]], [[0, 1.0], [0, 1]]]]) * step  # (ln3, 0), (0, ln3), (0, 0), (ln3, ln3)
    second = torch.tensor([[[[1.0, 0], [1, 0]], [[0, 1.0], [1, 0]]]])  # (1, 0), (0, 1), (1, 1), (0, 0)
    logits = affinity(first, second)
    expected = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 2, 0]]) * step
    torch.testing.assert_close(logits[0], expected)
    found = summarise(logits, second, torch.ones(1, 1, 2, 2), (2, 2))[0]
    # Position (ln3, 0) gives its neighbours 3, 1, 3, 1 of 8 shares, (0, 0) all the same, (ln3, ln3) 3, 3, 9, 1 of 16.
    torch.testing.assert_close(found[0], torch.tensor([[6 / 8, 4 / 8], [1 / 2, 12 / 16]]))
    torch.testing.assert_close(found[1], torch.tensor([[4 / 8, 6 / 8], [1 / 2, 12 / 16]]))
    back = summarise(logits.transpose(1, 2), first / step, torch.ones(1, 1, 2, 2), (2, 2))[0]
    # Position (1, 0) of the second image gives those of the first 3, 1, 1, 3 of 8 shares, (1, 1) 3, 3, 1, 9 of 16.
    torch.testing.assert_close(back[0], torch.tensor([[6 / 8, 4 / 8], [12 / 16, 2 / 4]]))
    torch.testing.assert_close(back[1], torch.tensor([[4 / 8, 6 / 8], [12 / 16, 2 / 4]]))


def compare_slowly(options: AffinityOptions, weight: Tensor, one: Tensor, two: Tensor) -> float:
    """The affinity of two positions' features (D,)."""
    if options.projection == "symmetric":
        one, two = weight.T @ one, weight.T @ two
    if options.projection == "free":
        one = one @ weight
    product = sum(float(a) * float(b) for a, b in zip(one, two, strict=True))
    if options.form == "cosine":
        product /= math.sqrt(sum(float(a) ** 2 for a in one)) * math.sqrt(sum(float(b) ** 2 for b in two))
    if options.form == "scaled":
        product /= math.sqrt(CHANNELS)
    return product / options.temperature


@pytest.mark.parametrize("projection", ["free", "symmetric", "none"])
@pytest.mark.parametrize("form", ["dot", "scaled", "cosine"])
def test_attention_is_that_of_a_slow_reference(form: str, projection: str) -> None:
    options = AffinityOptions(form=form, projection=projection, temperature=0.7)
    affinity = Affinity(options, CHANNELS).double()
    weight = draw(CHANNELS, CHANNELS, seed=1)
    if projection != "none":
        affinity.weight.data = weight
    first, second = draw(3, CHANNELS, 3, 7, seed=2), draw(3, CHANNELS, 5, 2, seed=3)
    valid = torch.ones(3, 1, 5, 2).double()
    valid[1, :, 3:], valid[2, :, :, 1:] = 0, 0
    valid[2, :, 2:3] *= 0.3  # partly on the image
    found = summarise(affinity(first, second), second, valid, (3, 7))
    assert found.shape == (3, CHANNELS, 3, 7)
    for image in range(3):
        inside = [(y, x) for y in range(5) for x in range(2) if valid[image, 0, y, x] > 0]
        for row in range(3):
            for column in range(7):
                here = first[image, :, row, column]
                logits = [compare_slowly(options, weight, here, second[image, :, y, x]) for y, x in inside]
                shares = [math.exp(one) / sum(map(math.exp, logits)) for one in logits]
                mean = sum(share * second[image, :, y, x] for share, (y, x) in zip(shares, inside, strict=True))
                torch.testing.assert_close(found[image, :, row, column], mean)


def test_a_summary_lies_within_the_range_of_the_features() -> None:
    first, second = draw(2, CHANNELS, 3, 4), draw(2, CHANNELS, 5, 3, seed=1)
    affinity = Affinity(AffinityOptions(), CHANNELS).double()
    found = summarise(affinity(first, second), second, torch.ones(2, 1, 5, 3), (3, 4))
    assert (found <= second.amax((2, 3), keepdim=True)).all()
    assert (found >= second.amin((2, 3), keepdim=True)).all()


@pytest.mark.parametrize("form", ["dot", "scaled", "cosine"])
def test_a_symmetric_affinity_does_not_mind_which_image_is_the_first(form: str) -> None:
    first, second = draw(2, CHANNELS, 3, 4), draw(2, CHANNELS, 5, 3, seed=1)
    one, other = (
        Affinity(AffinityOptions(form=form, projection=projection), CHANNELS).double()
        for projection in ("symmetric", "free")
    )
    for affinity in (one, other):
        affinity.weight.data = draw(CHANNELS, CHANNELS, seed=2)
    torch.testing.assert_close(one(first, second), one(second, first).transpose(1, 2))
    assert not torch.allclose(other(first, second), other(second, first).transpose(1, 2))


def test_the_cosine_has_a_temperature_of_its_own() -> None:
    first, second = draw(2, CHANNELS, 3, 4), draw(2, CHANNELS, 5, 3, seed=1)

    def compare(**options: object) -> Tensor:
        return Affinity(AffinityOptions(**options), CHANNELS).double()(first, second)

    torch.testing.assert_close(compare(form="cosine"), compare(form="cosine", temperature=0.05))
    torch.testing.assert_close(compare(), compare(temperature=1))


@torch.no_grad()
def test_bilinear_logits_saturate_where_the_cosine_does_not() -> None:
    """Features of hundreds of channels: the reason for the options."""
    first, second = draw(1, 256, 4, 5).relu(), draw(1, 256, 6, 3, seed=1).relu()
    highest = {}
    for form in ("dot", "scaled", "cosine"):
        affinity = Affinity(AffinityOptions(form=form, temperature=1), 256).double()
        highest[form] = float(affinity(first, second).softmax(2).amax(2).mean())
    assert highest["dot"] > 0.7
    assert highest["scaled"] < 0.5
    assert highest["cosine"] < 0.1 * highest["dot"]
