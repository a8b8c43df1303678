"""Each level of HSC over several batches against its published formula, from features on and row by row.

The reference keeps the banks itself. Where docs/methods.md declares a difference, it follows ours: a class without a
prototype is no negative, and the background has a prototype from its own positions.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from slow_maps import list_places, mean, resize, softmax, spread_range, unit
from torch import Tensor

from rca.data.loading.images import Sample
from rca.hosts.cam import CamHost
from rca.methods.hsc import Hsc, HscOptions

CHANNELS, CLASSES, IMAGES = 6, 4, 5
SIZES = ((5, 7), (3, 4))
POSITIONS, PROTOTYPE_POSITIONS = 11, 4
Rows = list[np.ndarray]


def build(**options: Any) -> Hsc:
    torch.manual_seed(0)
    narrow = {"region_channels": 7, "pixel_channels": 9, "prototype_positions": PROTOTYPE_POSITIONS, **options}
    narrow["class_level"] = {"positions": POSITIONS, **options.get("class_level", {})}
    return Hsc(HscOptions.model_validate(narrow), CHANNELS, CLASSES, CamHost).double()


def draw_batch(seed: int, padded: bool) -> tuple[list[Tensor], list[Tensor], Sample]:
    """Features and valid of both views, and the batch; no image shows the last class, each shows another one."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(IMAGES, CHANNELS, *size, generator=generator).double() for size in SIZES]
    valid = [torch.ones(IMAGES, 1, *size).double() for size in SIZES]
    if padded:
        valid[0][1, :, :, 4:], valid[1][1, :, :, 2:] = 0, 0
    tags = (torch.rand(IMAGES, CLASSES, generator=generator) < 0.5).double()
    tags[:, 3] = 0
    tags[torch.arange(IMAGES), torch.arange(IMAGES) % 3] = 1
    blank, frame = torch.ones(IMAGES, 1, 40, 56), torch.tensor([1.0, 0, 1, 0]).repeat(IMAGES, 1)
    return features, valid, Sample(blank, blank, tags, blank[:, 0].long(), torch.arange(IMAGES), frame)


@dataclass
class View:
    """The positions of one view of a batch, image after image, without those on padding.

    Attributes:
        shares: Each position's normalised map of each class, 0 for a class that its image does not show.
        softmaxes: softmax(CAM x label) of the classes.
        backgrounds: The background's weight.
        labels: The pseudo labels; the background is CLASSES.
        pixels: The embeddings of pixel level.
        regions: The embeddings of the two other levels.
        parts: The embedding of each image's objects, and of its background, where it has them.
    """

    shares: Rows = field(default_factory=list)
    softmaxes: Rows = field(default_factory=list)
    backgrounds: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    pixels: Rows = field(default_factory=list)
    regions: Rows = field(default_factory=list)
    parts: tuple[Rows, Rows] = field(default_factory=lambda: ([], []))


def read_view(hsc: Hsc, features: Tensor, valid: Tensor, small: Tensor, tags: Tensor) -> View:
    """Embeddings and pseudo labels at the size of the second view's maps, whose valid is `small`."""
    view = View()
    with torch.no_grad():
        maps = (hsc.host(features).relu() * valid).numpy()
        embedded = [project(features).numpy() for project in (hsc.project_pixels, hsc.project_regions)]
    for image in range(IMAGES):
        inside = small[image, 0].numpy()
        cam = spread_range(resize(maps[image], SIZES[1]), inside)
        pixels, regions = (resize(one[image], SIZES[1]) for one in embedded)
        members: tuple[Rows, Rows] = ([], [])
        for y, x in list_places(inside):
            shares = [float(cam[label, y, x]) * float(tags[image, label]) for label in range(CLASSES)]
            scores = softmax([*shares, hsc.options.background])
            label = max(range(CLASSES + 1), key=lambda one: scores[one])
            view.shares.append(np.array(shares))
            view.softmaxes.append(np.array(scores[:-1]))
            view.backgrounds.append(1 - max(shares) if label == CLASSES else 0.0)
            view.labels.append(label)
            view.pixels.append(pixels[:, y, x])
            view.regions.append(regions[:, y, x])
            members[label == CLASSES].append(regions[:, y, x])
        for rows, found in zip(members, view.parts, strict=True):
            if rows:
                found.append(unit(sum(rows) / len(rows)))
    return view


def pool_top(rows: Rows, weights: list[float], number: int) -> np.ndarray:
    """sum s f / sum s over the positions with the largest s, L2-normalised; equal ones share the last place."""
    ordered = sorted(weights, reverse=True)[:number]
    part = ordered.count(ordered[-1]) / weights.count(ordered[-1])
    chosen = [(weight * (1 if weight > ordered[-1] else part), place) for place, weight in enumerate(weights)]
    chosen = [(weight, place) for weight, place in chosen if weights[place] >= ordered[-1]]
    return unit(sum(weight * rows[place] for weight, place in chosen) / sum(weight for weight, _ in chosen))


def nce(query: np.ndarray, label: int, prototypes: dict[int, np.ndarray]) -> float:
    """-log(exp(f . p+ / 0.1) / sum over prototypes of exp(f . p / 0.1))."""
    powers = {one: math.exp(float(query @ prototype) / 0.1) for one, prototype in prototypes.items()}
    return -math.log(powers[label] / math.fsum(powers.values()))


def sim_min(rows: Rows, others: Rows) -> float:
    """The mean over all pairs of -log(1 - cos), with the cosine clipped to 0.0005..0.9995."""
    return mean([-math.log(1 - min(max(float(one @ two), 0.0005), 0.9995)) for one in rows for two in others])


def move(bank: dict[int, np.ndarray], new: dict[int, np.ndarray]) -> None:
    """EMA with 0.5; a prototype starts as its first embedding."""
    for label, vector in new.items():
        bank[label] = 0.5 * vector + 0.5 * bank[label] if label in bank else vector


class Reference:
    """The losses of HSC, without their weights, and its banks: one for each view at each level."""

    def __init__(self, cross: bool, pooling: str) -> None:
        self.cross, self.pooling = cross, pooling
        self.roi: list[dict[int, np.ndarray]] = [{}, {}]
        self.classes: list[dict[int, np.ndarray]] = [{}, {}]
        self.pixels: list[dict[int, np.ndarray]] = [{}, {}]

    def contrast_regions(self, views: list[View]) -> float:
        """Intra + cross SimMin of background and objects, + the mean L1 distance to the moving ones of the own view."""
        loss = mean([sim_min(view.parts[1], view.parts[0]) for view in views])
        if self.cross:
            loss += (sim_min(views[0].parts[1], views[1].parts[0]) + sim_min(views[1].parts[1], views[0].parts[0])) / 2
        for view, bank in zip(views, self.roi, strict=True):
            for part, rows in enumerate(view.parts):
                if part in bank:
                    loss += mean([float(np.abs(bank[part] - row).mean()) for row in rows]) / 2
            move(bank, {part: sum(rows) / len(rows) for part, rows in enumerate(view.parts)})
        return loss

    def contrast_classes(self, views: list[View], shown: set[int]) -> float:
        """The mean over classes of the own view's and the other's InfoNCE with cosines, over 4."""
        loss, updates = 0.0, []
        for number, view in enumerate(views):
            weights = view.softmaxes if self.pooling == "softmax" else view.shares
            columns = {label: [float(row[label]) for row in weights] for label in shown}
            for bank in (number, 1 - number) if self.cross else (number,):
                cosines = {label: unit(vector) for label, vector in self.classes[bank].items()}
                terms = [
                    nce(pool_top(view.regions, columns[label], POSITIONS), label, cosines)
                    for label in shown
                    if label in cosines
                ]
                loss += mean(terms) / 4 if terms else 0.0
            columns[CLASSES] = view.backgrounds
            updates.append(
                {label: pool_top(view.regions, column, PROTOTYPE_POSITIONS) for label, column in columns.items()}
            )
        for bank, update in zip(self.classes, updates, strict=True):
            move(bank, update)
        return loss

    def contrast_pixels(self, views: list[View], shown: set[int]) -> float:
        """Intra + cross-prototype + cross-pseudo-label + memory, each a mean over positions and over both views."""
        own = [
            {
                label: pool_top(view.pixels, [float(row[label]) for row in view.shares], PROTOTYPE_POSITIONS)
                for label in shown
            }
            | {CLASSES: pool_top(view.pixels, view.backgrounds, PROTOTYPE_POSITIONS)}
            for view in views
        ]
        loss = 0.0
        for one, two in ((0, 1), (1, 0)):
            sets = [(views[one].labels, own[one]), (views[one].labels, self.pixels[one])]
            if self.cross:
                sets += [(views[one].labels, own[two]), (views[two].labels, own[one])]
            for labels, prototypes in sets:
                terms = [
                    nce(unit(pixel), label, prototypes)
                    for pixel, label in zip(views[one].pixels, labels, strict=True)
                    if label in prototypes
                ]
                loss += mean(terms) / 2 if terms else 0.0
        for bank, update in zip(self.pixels, own, strict=True):
            move(bank, update)
        return loss


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pooling", ["softmax", "shares"])
@pytest.mark.parametrize("cross", [True, False])
def test_every_level_is_the_published_formula(cross: bool, pooling: str, padded: bool) -> None:
    hsc = build(background=0.3, cross_supervision=cross, class_level={"pooling": pooling})
    reference = Reference(cross, pooling)
    for seed in range(4):
        features, valid, batch = draw_batch(seed, padded)
        first, second = (hsc(one, inside) for one, inside in zip(features, valid, strict=True))
        losses = hsc.compute_losses(first._replace(second=second), batch, 0)
        views = [read_view(hsc, one, inside, valid[1], batch.tags) for one, inside in zip(features, valid, strict=True)]
        shown = {label for label in range(CLASSES) if batch.tags[:, label].any()}
        assert shown == {0, 1, 2}
        expected = {
            "roi": reference.contrast_regions(views),
            "class": reference.contrast_classes(views, shown),
            "pixel": reference.contrast_pixels(views, shown),
        }
        for name, value in expected.items():
            assert float(losses[name].detach()) == pytest.approx(0.1 * value, abs=1e-9), (name, seed)
    assert all(value > 0.01 for value in expected.values())
    for module, banks in (
        (hsc.roi_prototypes, reference.roi),
        (hsc.class_prototypes, reference.classes),
        (hsc.pixel_prototypes, reference.pixels),
    ):
        for view, bank in enumerate(banks):
            assert module.known[view].nonzero()[:, 0].tolist() == sorted(bank)
            for label, vector in bank.items():
                np.testing.assert_allclose(module.vectors[view, label].numpy(), vector, atol=1e-9)


def test_the_views_have_banks_of_their_own() -> None:
    hsc = build()
    for seed in range(2):
        features, valid, batch = draw_batch(seed, False)
        first, second = (hsc(one, inside) for one, inside in zip(features, valid, strict=True))
        hsc.compute_losses(first._replace(second=second), batch, 0)
    for module in (hsc.roi_prototypes, hsc.class_prototypes, hsc.pixel_prototypes):
        assert module.vectors.shape[0] == 2
        assert not torch.allclose(module.vectors[0], module.vectors[1])
