"""Maps brought to 0..1, against the formulas position by position in numpy."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from rca.core.normalisation import Normalisation, normalise_maps

# A map with a high peak, one with a low peak, one that is nowhere 0, one that is constant, one that is 0.
KINDS = ("high", "low", "raised", "constant", "zero")


def draw_maps(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Maps (3, 5, 6, 7) of the `KINDS`, and a valid region with padding at the right of the second image."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, len(KINDS), 6, 7, generator=generator, dtype=dtype)
    maps = maps * torch.tensor([9.0, 1e-4, 2, 0, 0], dtype=dtype)[:, None, None]
    maps = maps + torch.tensor([0, 0, 3.0, 2, 0], dtype=dtype)[:, None, None]
    valid = torch.rand(3, 1, 6, 7, generator=generator, dtype=dtype) + 0.01
    valid[1, :, :, 4:] = 0
    return maps, valid


def normalise_slowly(one: np.ndarray, inside: np.ndarray, by: Normalisation, peak: str) -> np.ndarray:
    """One map (h, w); whatever lies on padding is left as 0."""
    values, epsilon = one[inside], one.dtype.type(1e-5)
    low = values.min() if by == "min_max" else one.dtype.type(0)
    high = (values - low).max()
    divisor = high + epsilon if peak == "damped" else max(high, epsilon)
    result = np.zeros_like(one)
    result[inside] = (values - low) / divisor
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by", ["max", "min_max"])
@pytest.mark.parametrize("peak", ["damped", "exact"])
@pytest.mark.parametrize("padded", [True, False])
def test_every_map_is_divided_by_its_own_range(
    dtype: torch.dtype, by: Normalisation, peak: Literal["damped", "exact"], padded: bool
) -> None:
    maps, valid = draw_maps(dtype)
    found = normalise_maps(maps, valid if padded else None, by, peak)
    for image, kind in np.ndindex(*maps.shape[:2]):
        inside = valid[image, 0].numpy() > 0 if padded else np.ones((6, 7), bool)
        expected = normalise_slowly(maps[image, kind].numpy(), inside, by, peak)
        np.testing.assert_array_equal(found[image, kind].numpy()[inside], expected[inside])
        if peak == "damped":
            assert not found[image, kind].numpy()[~inside].any()


def test_a_peak_is_exactly_1_or_just_below() -> None:
    maps, _ = draw_maps(torch.float64)
    exact, damped = (normalise_maps(maps, peak=peak).amax((2, 3)) for peak in ("exact", "damped"))
    expected = {"high": 1, "low": 0.9, "raised": 1, "constant": 1, "zero": 0}
    for number, kind in enumerate(KINDS):
        assert (exact[:, number] == (kind != "zero")).all()
        assert (damped[:, number] < 1).all()
        np.testing.assert_allclose(damped[:, number], expected[kind], atol=0.02)


def test_values_below_0_stay_below_0_where_the_peak_is_exact() -> None:
    maps = torch.tensor([[[-2.0, 4.0], [1.0, -1.0]], [[-2.0, -4.0], [-1.0, -1.0]]])
    found = normalise_maps(maps, peak="exact")
    torch.testing.assert_close(found[0], maps[0] / 4)
    torch.testing.assert_close(found[1], maps[1] / 1e-5)


def test_a_map_alone_and_maps_of_a_batch_are_normalised_alike() -> None:
    maps, _ = draw_maps(torch.float32)
    assert torch.equal(normalise_maps(maps)[1, 2], normalise_maps(maps[1, 2]))
    assert torch.equal(normalise_maps(maps).flatten(0, 1), normalise_maps(maps.flatten(0, 1)))
