import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.methods.parts.regions import find_regions
from rca.models.pooling import pool_mean, pool_regions, shrink_valid


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def valid() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(3, 1, 5, 7, generator=generator, dtype=torch.float64)
    return torch.where(weights < 0.3, 0, weights)


def pad(tensor: Tensor, value: float) -> Tensor:
    return functional.pad(tensor, (0, 3, 0, 2), value=value)


def test_a_mean_is_weighted_by_what_lies_on_the_image(maps: Tensor, valid: Tensor) -> None:
    found = pool_mean(maps, valid)
    for image, channel in np.ndindex(3, 4):
        expected = np.average(maps[image, channel].numpy(), weights=valid[image, 0].numpy())
        assert float(found[image, channel]) == pytest.approx(expected)


def test_regions_pool_the_features_inside_them(maps: Tensor) -> None:
    masks = (torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(2)) < 0.4).to(maps.dtype)
    masks[1, 0] = 0
    found = pool_regions(maps, masks)
    assert found.shape == (3, 2, 4)
    for image, region in np.ndindex(3, 2):
        inside = [maps[image, :, y, x].numpy() for y, x in np.ndindex(5, 7) if masks[image, region, y, x]]
        expected = np.mean(inside, axis=0) if inside else np.zeros(4)
        np.testing.assert_allclose(found[image, region], expected)


TAGS = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]], dtype=torch.float64)


@pytest.mark.parametrize("threshold", ["mean", 0.0, 0.4])
def test_a_region_is_where_a_map_exceeds_its_limit(maps: Tensor, valid: Tensor, threshold: str | float) -> None:
    found = find_regions(maps, valid, TAGS, threshold)
    for image in range(3):
        inside = valid[image, 0].numpy() > 0
        tagged = TAGS[image].nonzero()[:, 0].tolist()
        share = {label: maps[image, label].numpy() / maps[image, label].numpy()[inside].max() for label in tagged}
        for label in tagged:
            one = maps[image, label].numpy()
            if threshold == "mean":
                expected = one > np.average(one, weights=valid[image, 0].numpy())
            else:
                rivals = [share[other] for other in tagged if other != label]
                expected = (share[label] > threshold) & np.all([share[label] > rival for rival in rivals], axis=0)
            np.testing.assert_array_equal(found[image, label], expected & inside)


@pytest.mark.parametrize("threshold", ["mean", 0.4])
@pytest.mark.parametrize("padding", [-50.0, 0.0, 50.0])
def test_padding_changes_neither_scores_nor_regions(
    maps: Tensor, valid: Tensor, threshold: str | float, padding: float
) -> None:
    padded, padded_valid = pad(maps, padding), pad(valid, 0)
    torch.testing.assert_close(pool_mean(padded, padded_valid), pool_mean(maps, valid))
    regions, padded_regions = (
        find_regions(one, where, TAGS, threshold) for one, where in ((maps, valid), (padded, padded_valid))
    )
    assert torch.equal(padded_regions, pad(regions, 0))
    torch.testing.assert_close(pool_regions(padded, padded_regions), pool_regions(maps, regions))


def test_a_shrunk_mask_tells_which_part_of_each_field_is_image() -> None:
    valid = torch.zeros(1, 1, 8, 12)
    valid[..., :6, :9] = 1
    expected = [[1, 1, 0.25], [0.5, 0.5, 0.125]]
    np.testing.assert_allclose(shrink_valid(valid, (2, 3))[0, 0], expected)
    assert (shrink_valid(torch.ones(1, 1, 33, 47), (5, 6)) == 1).all()
