"""Each term of SEAM against its published formula, position by position in double precision."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from slow_maps import GUARD, list_places, mean, pool, resize, soft_margin, spread_range, unit
from torch import Tensor

from rca.data.loading.images import Sample
from rca.hosts.base import Host
from rca.hosts.seam import SeamHost, SeamOptions
from rca.models.output import Output

CLASSES, CHANNELS, IMAGES = 4, 6, 3
SIZES = ((5, 7), (3, 4))
TAGS = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 1]]).double()


class View(NamedTuple):
    """A view of a batch: features (B, D, h, w), where it lies on the image (B, 1, h, w), and the levels."""

    features: Tensor
    valid: Tensor
    levels: tuple[Tensor, Tensor, Tensor]


def draw_views(seed: int, padded: bool) -> list[View]:
    """Two views; the levels are twice as fine as the maps."""
    generator, views = torch.Generator().manual_seed(seed), []
    for height, width in SIZES:
        features = torch.randn(IMAGES, CHANNELS, height, width, generator=generator).double()
        valid = torch.ones(IMAGES, 1, height, width).double()
        if padded:
            valid[1, :, height - 1 :], valid[2, :, :, width - 2 :] = 0, 0
        fine = [torch.randn(IMAGES, one, 2 * height, 2 * width, generator=generator).double() for one in (3, 4, 5)]
        views.append(View(features, valid, (fine[0], fine[1], fine[2])))
    return views


def make_batch(**parts: Tensor) -> Sample:
    blank, frame = torch.ones(IMAGES, 1, 20, 28).double(), torch.tensor([1.0, 0, 1, 0]).repeat(IMAGES, 1)
    sample = Sample(blank, blank, TAGS, blank[:, 0].long(), torch.arange(IMAGES), frame)
    return sample._replace(**parts)


def look(host: Host, views: list[View]) -> Output:
    """What a network in training hands to the host."""
    first, second = (
        host.refine(Output(host(view.features), view.features, view.valid), view.levels, TAGS) for view in views
    )
    return first._replace(second=second)


def correlate(host: SeamHost, view: View, image: int, maps: np.ndarray) -> np.ndarray:
    """PCM: y_i = sum_j a_ij x_j / sum_j a_ij with a_ij = ReLU(cosine of f_i and f_j), f of the image and two levels."""
    inside = view.valid[image, 0].numpy()
    weights = [
        layer.weight.detach().numpy()[:, :, 0, 0]
        for layer in (host.correlation.earlier, host.correlation.later, host.correlation.embedding)
    ]
    directions = {}
    for y, x in list_places(inside):
        cell = [
            one[image, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].numpy().reshape(one.shape[1], 4).mean(1)
            for one in view.levels
        ]
        parts = [cell[0], np.maximum(weights[0] @ cell[1], 0), np.maximum(weights[1] @ cell[2], 0)]
        directions[y, x] = unit(weights[2] @ np.concatenate(parts))
    found = np.zeros_like(maps)
    for place, direction in directions.items():
        alike = {other: max(0.0, float(direction @ towards)) for other, towards in directions.items()}
        for channel in range(len(maps)):
            found[(channel, *place)] = math.fsum(
                weight * maps[(channel, *other)] for other, weight in alike.items()
            ) / math.fsum(alike.values())
    return found


def find_input(maps: np.ndarray, inside: np.ndarray, tags: list[float]) -> np.ndarray:
    """The input of PCM: each position's strongest class as a share of its map's peak, and 1 minus it as background."""
    found = np.zeros((CLASSES + 1, *maps.shape[1:]))
    peaks = [max(max(0.0, float(one[place])) for place in list_places(inside)) for one in maps]
    for y, x in list_places(inside):
        shares = [
            max(0.0, float(maps[label, y, x])) / (peaks[label] + GUARD) if tags[label] else 0.0
            for label in range(CLASSES)
        ]
        best = int(np.argmax(shares))
        found[best, y, x], found[CLASSES, y, x] = shares[best], 1 - shares[best]
    return found


def find_refined(host: SeamHost, view: View, image: int) -> np.ndarray:
    """The refined maps of the classes and the background (C + 1, h, w)."""
    maps = host(view.features[[image]])[0].detach().numpy()
    return correlate(host, view, image, find_input(maps, view.valid[image, 0].numpy(), TAGS[image].tolist()))


def find_seam_terms(host: SeamHost, views: list[View]) -> dict[str, float]:
    """Classification, ER, ECR and adaptive min pooling by the formulas of the paper and its released code."""
    terms: dict[str, list[float]] = {name: [] for name in ("classification", "equivariance", "cross", "min_pooling")}
    for image in range(IMAGES):
        tags, size = TAGS[image].tolist(), SIZES[1]
        masks = [view.valid[image, 0].numpy() for view in views]
        maps = [host(view.features[[image]])[0].detach().numpy() for view in views]
        refined = [find_refined(host, view, image) for view in views]
        for one, inside in zip(maps, masks, strict=True):
            terms["classification"].append(soft_margin(pool(one, inside), tags))
        scaled = [
            resize(spread_range(one, inside), size) * np.array(tags)[:, None, None]
            for one, inside in zip(maps, masks, strict=True)
        ]
        places = list(list_places(masks[1]))
        terms["equivariance"].append(
            mean([abs(scaled[0][c, y, x] - scaled[1][c, y, x]) for c in range(CLASSES) for y, x in places])
        )
        shown = np.array([*tags, 1.0])[:, None, None]
        crossed = [resize(spread_range(one, inside), size) * shown for one, inside in zip(refined, masks, strict=True)]
        both = 0.0
        for made, target in ((crossed[0], scaled[1]), (crossed[1], scaled[0])):
            differences = []
            for y, x in places:
                best = max(target[:, y, x])
                for c in range(CLASSES):
                    wanted = target[c, y, x] if target[c, y, x] == best else 0.0
                    differences.append(abs(wanted - made[c, y, x]))
                differences.append(abs(1 - best - made[CLASSES, y, x]))
            differences.sort(reverse=True)
            both += mean(differences[: int(host.options.hard_share * len(differences))])
        terms["cross"].append(both)
        for one, inside in zip(refined, masks, strict=True):
            values = sorted(max(one[c, y, x] * tags[c] for c in range(CLASSES)) for y, x in list_places(inside))
            terms["min_pooling"].append(mean(values[: len(values) // 4]))
    return {name: mean(values) for name, values in terms.items()}


def build(kind: type[Any], **options: object) -> Any:
    torch.manual_seed(0)
    return kind(CHANNELS, CLASSES, kind.Options(**options), (4, 5)).double().train()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.45])
def test_every_term_of_seam_is_the_published_formula(share: float, padded: bool) -> None:
    for seed in range(2):
        host, views = build(SeamHost, hard_share=share), draw_views(seed, padded)
        found, expected = host.compute_losses(look(host, views), make_batch(), 0), find_seam_terms(host, views)
        assert found.keys() == expected.keys()
        for name, loss in found.items():
            assert float(loss.detach()) == pytest.approx(expected[name], abs=1e-9), name
        assert isinstance(host.options, SeamOptions)


@pytest.mark.parametrize("padded", [False, True])
def test_the_refined_maps_are_the_published_mean(padded: bool) -> None:
    host, views = build(SeamHost), draw_views(3, padded)
    output = look(host, views)
    for image in range(IMAGES):
        expected = find_refined(host, views[0], image)
        np.testing.assert_allclose(output.refined[image].detach().numpy(), expected[:CLASSES], atol=1e-9)
