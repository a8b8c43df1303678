from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from torch import Tensor

from rca.methods.parts import prototypes
from rca.methods.parts.prototypes import ParametricAggregation, aggregate_prototypes, cluster_memory

ITERATIONS = 100


def draw_memory(seed: int, counts: list[int], slots: int = 67, channels: int = 5) -> tuple[Tensor, Tensor]:
    """Blobs that overlap, in the first `counts` slots of each class; the other slots hold what must not matter."""
    entries = torch.full((len(counts), slots, channels), 1e3)
    filled = torch.arange(slots) < torch.tensor(counts)[:, None]
    for index, count in enumerate(counts):
        if count:
            blobs, _ = make_blobs(count, channels, centers=6, cluster_std=3.0, random_state=seed * 10 + index)
            entries[index, :count] = torch.from_numpy(blobs).float()
    return entries, filled


def measure_inertia(entries: Tensor, centres: Tensor) -> float:
    return float(sum(min(float((entry - centre).square().sum()) for centre in centres) for entry in entries))


def sort_rows(rows: Tensor) -> np.ndarray:
    return np.array(sorted(rows.double().tolist()))


@pytest.mark.parametrize("number", [1, 4, 9])
def test_the_clusters_are_as_tight_as_those_of_scikit_learn(number: int) -> None:
    ours = theirs = 0.0
    for seed in range(4):
        entries, filled = draw_memory(seed, [67, 41])
        centres, usable = cluster_memory(entries, filled, number, ITERATIONS, seed)
        assert usable.all()
        for index in range(2):
            members = entries[index][filled[index]]
            ours += measure_inertia(members, centres[index])
            theirs += KMeans(number, n_init=1, random_state=seed).fit(members.numpy()).inertia_
    assert ours <= 1.1 * theirs


def test_blobs_far_apart_are_found_exactly() -> None:
    true = torch.tensor([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]])
    offsets = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 0]])
    entries = (true[:, None] + offsets).reshape(1, -1, 3)[:, torch.randperm(20, generator=torch.manual_seed(0))]
    for seed in range(5):
        centres, usable = cluster_memory(entries, torch.ones(1, 20, dtype=torch.bool), 4, ITERATIONS, seed)
        assert usable.all()
        np.testing.assert_allclose(sort_rows(centres[0]), sort_rows(true), atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_each_centre_is_the_mean_of_the_regions_nearest_to_it(seed: int) -> None:
    entries, filled = draw_memory(seed, [67, 23, 8])
    centres, _ = cluster_memory(entries, filled, 7, ITERATIONS, seed)
    for index in range(3):
        members = entries[index][filled[index]].double()
        nearest = torch.tensor([int((member - centres[index]).norm(dim=1).argmin()) for member in members])
        for cluster, centre in enumerate(centres[index]):
            assert (nearest == cluster).any()
            np.testing.assert_allclose(centre, members[nearest == cluster].mean(0), rtol=1e-4, atol=1e-4)


def test_an_empty_cluster_moves_to_a_region_far_from_its_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of five centres start where no region is; each blob must get one all the same."""
    true = torch.tensor([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100], [100, 100, 0]])
    entries = (true[:, None] + torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0, 0]])).reshape(1, 15, 3)

    def start_badly(entries: Tensor, *_: object) -> Tensor:
        return torch.cat([entries[:, :2], torch.full((1, 3, 3), -1e4)], 1)

    monkeypatch.setattr(prototypes, "_choose_start", start_badly)
    centres, usable = cluster_memory(entries, torch.ones(1, 15, dtype=torch.bool), 5, ITERATIONS, 0)
    assert usable.all()
    assert centres.min() > -2  # none was left where it started
    assert all(((centres[0] - centre).norm(dim=1) < 1e-3).sum() == 1 for centre in centres[0])


def test_the_same_seed_gives_the_same_prototypes_and_leaves_torchs_generator_alone() -> None:
    entries, filled = draw_memory(0, [67, 30])
    state = torch.random.get_rng_state()
    one, two, other = (cluster_memory(entries, filled, 5, 3, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_empty_slots_do_not_matter() -> None:
    entries, filled = draw_memory(3, [67, 12, 3, 0])
    other = torch.where(filled[..., None], entries, torch.randn(entries.shape))
    found, expected = (cluster_memory(memory, filled, 5, ITERATIONS, 0) for memory in (other, entries))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_a_class_with_few_regions_has_that_many_prototypes() -> None:
    entries, filled = draw_memory(4, [67, 3, 1, 0])
    centres, usable = cluster_memory(entries, filled, 5, ITERATIONS, 0)
    assert usable.sum(1).tolist() == [5, 3, 1, 0]
    assert (centres[~usable] == 0).all()
    for index in (1, 2):
        found = sort_rows(centres[index][usable[index]])
        np.testing.assert_allclose(found, sort_rows(entries[index][filled[index]]), rtol=1e-6)


def test_classes_do_not_share_prototypes() -> None:
    entries, filled = draw_memory(5, [67, 67])
    entries[1] += 1000
    centres, _ = cluster_memory(entries, filled, 4, ITERATIONS, 0)
    assert centres[0].abs().max() < 100
    assert centres[1].min() > 900


def test_regions_that_are_all_the_same_give_finite_prototypes() -> None:
    entries = torch.ones(1, 9, 4)
    centres, _ = cluster_memory(entries, torch.ones(1, 9, dtype=torch.bool), 3, ITERATIONS, 0)
    assert torch.equal(centres, torch.ones(1, 3, 4))


def test_more_prototypes_than_slots_are_cut_to_the_slots() -> None:
    entries, filled = draw_memory(6, [4], slots=4)
    centres, usable = cluster_memory(entries, filled, 9, ITERATIONS, 0)
    assert centres.shape == (1, 4, 5)
    np.testing.assert_allclose(sort_rows(centres[0][usable[0]]), sort_rows(entries[0]), rtol=1e-6)


def draw_aggregation() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    usable = torch.rand(3, 4, generator=generator) < 0.6
    assert 0 < usable.sum() < 12
    return features, prototypes, usable


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_aggregation_agrees_with_its_formula_position_by_position(
    temperature: float, similarity: Literal["cosine", "dot"]
) -> None:
    features, prototypes, usable = draw_aggregation()
    chosen = [prototypes[c, k].numpy() for c in range(3) for k in range(4) if usable[c, k]]
    expected = np.zeros(features.shape)
    for image, row, column in np.ndindex(2, 3, 4):
        feature = features[image, :, row, column].numpy()
        logits = np.array([key @ feature for key in chosen])
        if similarity == "cosine":
            logits /= [np.linalg.norm(key) * np.linalg.norm(feature) for key in chosen]
        weights = np.exp(logits / temperature)
        for weight, key in zip(weights / weights.sum(), chosen, strict=True):
            expected[image, :, row, column] += weight * key
    found = aggregate_prototypes(features, prototypes, usable, temperature, similarity)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_nothing_is_aggregated_without_usable_prototypes() -> None:
    features, prototypes, usable = draw_aggregation()
    found = aggregate_prototypes(features, prototypes, torch.zeros_like(usable), 0.1)
    assert torch.equal(found, torch.zeros_like(features))


def test_the_gradient_of_aggregation_is_right() -> None:
    features, prototypes, usable = draw_aggregation()
    assert torch.autograd.gradcheck(
        lambda one: aggregate_prototypes(one, prototypes, usable, 0.5), features[:1, :, :2, :2].clone().requires_grad_()
    )


def test_parametric_aggregation_agrees_with_attention_position_by_position() -> None:
    torch.manual_seed(0)
    layer = ParametricAggregation(7).double()
    features, prototypes = torch.randn(2, 7, 3, 5).double(), torch.randn(3, 4, 7).double()
    usable = torch.rand(3, 4) < 0.6
    found = layer(features, prototypes, usable)
    chosen = prototypes[usable]
    keys, values = chosen @ layer.key.weight.T + layer.key.bias, chosen @ layer.value.weight.T + layer.value.bias
    for image, y, x in np.ndindex(2, 3, 5):
        query = layer.query.weight[:, :, 0, 0] @ features[image, :, y, x] + layer.query.bias
        weights = torch.exp(keys @ query / 7**0.5)
        torch.testing.assert_close(found[image, :, y, x], weights @ values / weights.sum())
    assert torch.equal(layer(features, prototypes, usable & False), torch.zeros_like(features))
