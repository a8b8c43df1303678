"""Every term of RCA against its published formula, read literally: one loop for each sum, in double precision."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rca.core.arrays import Float64Array
from rca.data.loading.images import Sample
from rca.hosts.cam import CamHost
from rca.methods.rca import Rca, RcaOptions

CHANNELS, CLASSES, IMAGES, HEIGHT, WIDTH = 5, 3, 4, 4, 6
TAGS = ((0, 2), (1,), (0, 1, 2), (2,))
BATCHES = 5
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
Region = tuple[int, int, Float64Array]
"""The place of the image in the batch, the class, and the embedding (D,)."""


def build(**options: Any) -> Rca:
    """RCA in double precision, with options merged over those of a small one."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "memory": {"size": 3, "gate": 0.0, "momentum": 0.9},
        "contrast": {"weight": 0.3, "start_epoch": 0, "mixup": None},
        "aggregation": {"prototypes": 2, "start_epoch": 1},
        "head": {"channels": 3},
    }
    for key, value in options.items():
        small[key] = {**small[key], **value} if isinstance(value, dict) else value
    return Rca(RcaOptions.model_validate(small), CHANNELS, CLASSES, CamHost).double()


def draw_batch(seed: int) -> tuple[Tensor, Tensor, Sample]:
    """Features, valid, and a batch whose third image is padded; its images differ from those of other seeds."""
    generator = torch.Generator().manual_seed(seed)
    features = 3 * torch.randn(IMAGES, CHANNELS, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    valid = torch.ones(IMAGES, 1, HEIGHT, WIDTH, dtype=torch.float64)
    valid[2, :, :, 4:] = 0
    tags = torch.tensor([[float(label in own) for label in range(CLASSES)] for own in TAGS], dtype=torch.float64)
    blank, frame = torch.zeros(IMAGES, 1, 32, 48), torch.tensor([1.0, 0, 1, 0]).repeat(IMAGES, 1)
    position = (torch.arange(IMAGES) + 3 * seed) % 7  # some images come again
    return features, valid, Sample(blank, blank, tags, blank[:, 0].long(), position, frame)


def learn(rca: Rca, batches: int = BATCHES) -> None:
    """Fill the bank and cluster it."""
    for seed in range(batches):
        features, valid, batch = draw_batch(seed)
        rca.compute_losses(rca(features, valid), batch, 0)
    rca.start_epoch(1, seed=0)


def read(module: nn.Conv2d | nn.Linear) -> tuple[Float64Array, Float64Array]:
    bias = np.zeros(len(module.weight)) if module.bias is None else module.bias.detach().numpy()
    return module.weight.detach().numpy(), bias


def convolve(image: Float64Array, weight: Float64Array, bias: Float64Array) -> Float64Array:
    """A convolution of one image (D, h, w) with zeros around it."""
    outputs, _, side, _ = weight.shape
    edge = side // 2
    framed = np.pad(image, ((0, 0), (edge, edge), (edge, edge)))
    result = np.zeros((outputs, *image.shape[1:]))
    for output, y, x in np.ndindex(*result.shape):
        result[output, y, x] = (weight[output] * framed[:, y : y + side, x : x + side]).sum() + bias[output]
    return result


def classify(image: Float64Array, layers: list[nn.Conv2d], branch: slice | None = None) -> Float64Array:
    """One branch of a head on one image: convolutions with ReLU, then the classifier."""
    for number, layer in enumerate(layers):
        weight, bias = read(layer)
        if branch is not None:
            width = len(weight) // CLASSES
            own = slice(branch.start * width, branch.stop * width)
            weight, bias = weight[own], bias[own]
        image = convolve(image, weight, bias)
        if number < len(layers) - 1:
            image = np.maximum(image, 0)
    return image


def score(features: Float64Array, head: nn.Module, branches: bool = False) -> Float64Array:
    """The maps (B, C, h, w) of a head."""
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)]
    parts = [slice(label, label + 1) for label in range(CLASSES)] if branches else [None]
    return np.stack([np.concatenate([classify(one, layers, part) for part in parts]) for one in features])


def cross_entropy(maps: Float64Array, valid: Float64Array, tags: Float64Array) -> float:
    """The multi-label soft margin loss of pooled maps."""
    terms = []
    for image, label in np.ndindex(IMAGES, CLASSES):
        places = [(y, x) for y, x in np.ndindex(HEIGHT, WIDTH) if valid[image, 0, y, x]]
        logit = sum(maps[image, label, y, x] for y, x in places) / len(places)
        probability = 1 / (1 + math.exp(-logit))
        terms.append(-math.log(probability if tags[image, label] else 1 - probability))
    return sum(terms) / len(terms)


def project(features: Float64Array, projection: nn.Sequential) -> Float64Array:
    """3x3, BatchNorm with the batch's statistics, ReLU, 3x3."""
    first, norm, _, second = projection
    hidden = np.stack([convolve(one, *read(first)) for one in features])
    for channel in range(hidden.shape[1]):
        values = hidden[:, channel]
        mean = values.sum() / values.size
        variance = ((values - mean) ** 2).sum() / values.size
        scaled = (values - mean) / math.sqrt(variance + norm.eps)
        hidden[:, channel] = np.maximum(scaled * float(norm.weight[channel]) + float(norm.bias[channel]), 0)
    return np.stack([convolve(one, *read(second)) for one in hidden])


def pool(maps: Float64Array, features: Float64Array, valid: Float64Array, form: str) -> list[Region]:
    """Masked average pooling over the region of each tagged class."""
    regions = []
    for image, label in ((image, label) for image, own in enumerate(TAGS) for label in own):
        places = [(y, x) for y, x in np.ndindex(HEIGHT, WIDTH) if valid[image, 0, y, x]]
        value = {}
        for y, x in places:
            logits = maps[image, :, y, x]
            share = math.exp(logits[label]) / sum(math.exp(logit) for logit in logits)
            value[y, x] = share if form == "softmax" else logits[label]
        mean = sum(value.values()) / len(places)
        inside = [features[image, :, y, x] for y, x in places if value[y, x] > mean]
        assert 0 < len(inside) < len(places)
        regions.append((image, label, sum(inside) / len(inside)))
    return regions


def contrast(query: Float64Array, label: int, bank: list[tuple[int, Float64Array]], temperature: float) -> float:
    """L_NCE of one region, everything L2-normalised."""

    def similarity(entry: Float64Array) -> float:
        return math.exp(float(query @ entry) / np.linalg.norm(query) / np.linalg.norm(entry) / temperature)

    negatives = sum(similarity(entry) for row, entry in bank if row != label)
    positives = [similarity(entry) for row, entry in bank if row == label]
    return sum(-math.log(one / (one + negatives)) for one in positives) / len(positives)


@pytest.mark.parametrize("convolutions", [0, 1, 3])
@pytest.mark.parametrize("branches", ["per_class", "shared"])
def test_classification_is_that_of_both_heads(convolutions: int, branches: str) -> None:
    rca = build(head={"convolutions": convolutions, "branches": branches}, aggregation={"auxiliary_weight": 0.4})
    learn(rca)
    features, valid, batch = draw_batch(9)
    output = rca(features, valid)
    losses = rca.compute_losses(output, batch, 1)
    plain = score(features.numpy(), rca.host.classifier)
    np.testing.assert_allclose(output.extras["plain"].detach(), plain, **CLOSE)
    with torch.no_grad():
        joined = rca.join(torch.cat([features, rca._aggregate(features)], 1)).numpy()
    maps = score(joined, rca.main_head, branches == "per_class" and convolutions > 0)
    np.testing.assert_allclose(output.maps.detach(), maps, **CLOSE)
    expected = cross_entropy(maps, valid.numpy(), batch.tags.numpy())
    assert float(losses["classification"]) == pytest.approx(expected, rel=1e-9)
    auxiliary = 0.4 * cross_entropy(plain, valid.numpy(), batch.tags.numpy())
    assert float(losses["auxiliary"]) == pytest.approx(auxiliary, rel=1e-9)


def aggregate(rca: Rca, position: Float64Array, form: str, options: dict[str, Any]) -> Float64Array:
    """F' at one position."""
    usable = rca.prototypes_usable
    chosen = [rca.prototypes[row, k].numpy() for row, k in np.ndindex(*usable.shape) if usable[row, k]]
    if form == "softmax":
        logits = [float(key @ position) for key in chosen]
        if options["similarity"] == "cosine":
            norms = [float(np.linalg.norm(key) * np.linalg.norm(position)) for key in chosen]
            logits = [logit / norm for logit, norm in zip(logits, norms, strict=True)]
        weights = [math.exp(logit / options["temperature"]) for logit in logits]
        return sum(weight * value for weight, value in zip(weights, chosen, strict=True)) / sum(weights)
    (weight, bias), keys, values = map(read, (rca.attention.query, rca.attention.key, rca.attention.value))
    query = weight[:, :, 0, 0] @ position + bias
    products = [float(query @ (keys[0] @ one + keys[1])) for one in chosen]
    if form == "released":
        weights = [product / rca.prototypes.shape[1] * 20 for product in products]
    else:
        exponentials = [math.exp(product / math.sqrt(CHANNELS)) for product in products]
        weights = [one / sum(exponentials) for one in exponentials]
    mixed = sum(weight * (values[0] @ one + values[1]) for weight, one in zip(weights, chosen, strict=True))
    if form == "released":
        weight, bias = read(rca.attention.merge)
        mixed = weight[:, :, 0, 0] @ mixed + bias
    return mixed


@pytest.mark.parametrize(
    "options",
    [
        {"form": "softmax", "similarity": "dot", "temperature": 1.0},
        {"form": "softmax", "similarity": "dot", "temperature": 3.0},
        {"form": "softmax", "similarity": "cosine", "temperature": 0.1},
        {"form": "parametric"},
        {"form": "released"},
        {"form": "released", "prototypes": 3},
    ],
    ids=str,
)
def test_aggregation_agrees_with_its_formula_position_by_position(options: dict[str, Any]) -> None:
    rca = build(aggregation=options, head={"convolutions": 0})
    learn(rca)
    features, valid, _ = draw_batch(9)
    found = rca(features, valid)
    weight, bias = read(rca.join)
    joined = np.zeros(features.shape)
    for image, y, x in np.ndindex(IMAGES, HEIGHT, WIDTH):
        position = features[image, :, y, x].numpy()
        both = np.concatenate([position, aggregate(rca, position, options["form"], options)])
        joined[image, :, y, x] = weight[:, :, 0, 0] @ both + bias
    np.testing.assert_allclose(found.maps.detach(), score(joined, rca.main_head), **CLOSE)


@pytest.mark.parametrize("region_maps", ["softmax", "logits"])
@pytest.mark.parametrize("projection", ["queries", "none"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("mixup", [None, 8.0])
def test_contrast_agrees_with_its_formula_term_by_term(
    mixup: float | None, reduction: str, projection: str, region_maps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rca = build(
        region_maps=region_maps,
        contrast={"mixup": mixup, "reduction": reduction, "projection": projection, "temperature": 0.2},
    )
    learn(rca)
    number = sum(map(len, TAGS))
    shares = torch.linspace(0.05, 0.95, number, dtype=torch.float64)
    partners = [3, 0, 2, 6, 1, 4, 5]
    monkeypatch.setattr("torch.distributions.Beta.sample", lambda beta, shape: shares.reshape(shape))
    monkeypatch.setattr("rca.methods.rca.draw_partners", lambda image: torch.tensor(partners))
    bank = [(row, rca.memory.entries[row, slot].numpy().copy()) for row, slot in rca.memory.filled().nonzero().tolist()]
    features, valid, batch = draw_batch(9)
    output = rca(features, valid)
    found = float(rca.compute_losses(output, batch, 1)["contrast"])
    seen = features.numpy()
    queried = project(seen, rca.projection) if projection == "queries" else seen
    regions = pool(score(seen, rca.host.classifier), queried, valid.numpy(), region_maps)
    losses: list[list[float]] = [[] for _ in TAGS]
    for index, (image, label, query) in enumerate(regions):
        loss = contrast(query, label, bank, 0.2)
        if mixup is not None:
            _, other, partner = regions[partners[index]]
            share = float(shares[index])
            mixed = share * query + (1 - share) * partner
            loss = share * contrast(mixed, label, bank, 0.2) + (1 - share) * contrast(mixed, other, bank, 0.2)
        losses[image].append(loss)
    expected = {"sum": sum(sum(own) / len(own) for own in losses), "mean": sum(map(sum, losses)) / number}
    assert found == pytest.approx(0.3 * expected[reduction], rel=1e-9)


class SlowBank:
    """A row of the bank in lists.

    Attributes:
        slots: The image and the embedding of each slot; the bank starts empty.
    """

    def __init__(self, size: int, rule: str, momentum: float) -> None:
        self.size, self.rule, self.momentum = size, rule, momentum
        self.slots: list[tuple[int, Float64Array]] = []
        self.pointer = 0

    def add(self, image: int, embedding: Float64Array) -> None:
        images = [one for one, _ in self.slots]
        if self.rule == "momentum" and image in images:
            self.mix(images.index(image), embedding)
            return
        if len(self.slots) < self.size:
            self.slots.append((image, embedding))
        elif self.rule == "ring":
            self.mix(self.pointer, embedding)
        else:
            self.slots[self.pointer] = (image, embedding)
        self.pointer = (self.pointer + 1) % self.size

    def mix(self, slot: int, embedding: Float64Array) -> None:
        image, old = self.slots[slot]
        self.slots[slot] = (image, self.momentum * old + (1 - self.momentum) * embedding)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("rule", ["ring", "fifo", "momentum"])
def test_the_memory_holds_what_its_rule_says(rule: str, size: int) -> None:
    """Regions of the features as they are, of classes that the main head finds more probable than the gate."""
    rca = build(memory={"update": rule, "size": size, "gate": 0.49}, aggregation={"prototypes": 1})
    slow = [SlowBank(size, rule, 0.9) for _ in range(CLASSES)]
    seen = entered = 0
    for seed in range(BATCHES):
        features, valid, batch = draw_batch(seed)
        output = rca(features, valid)
        rca.compute_losses(output, batch, 0)
        maps, inside = output.maps.detach().numpy(), valid.numpy() > 0
        plain = score(features.numpy(), rca.host.classifier)
        for image, label, embedding in pool(plain, features.numpy(), valid.numpy(), "softmax"):
            logit = maps[image, label][inside[image, 0]].mean()
            seen += 1
            if 1 / (1 + math.exp(-logit)) > 0.49:
                entered += 1
                slow[label].add(int(batch.position[image]), embedding)
    assert 0 < entered < seen
    for row, bank in enumerate(slow):
        assert int(rca.memory.filled()[row].sum()) == len(bank.slots)
        for slot, (image, embedding) in enumerate(bank.slots):
            np.testing.assert_allclose(rca.memory.entries[row, slot], embedding, **CLOSE)
            assert int(rca.memory.image[row, slot]) == image


def test_prototypes_are_on_the_scale_of_the_features() -> None:
    """With one prototype in all, the softmax gives it everything: F' is the mean of raw regions."""
    rca = build(memory={"size": 9, "update": "fifo"}, aggregation={"form": "softmax", "prototypes": 1})
    learn(rca, 1)
    usable = rca.prototypes_usable.clone()
    rca.prototypes_usable &= torch.tensor([[False], [False], [True]])
    assert usable.all()
    features, valid, _ = draw_batch(0)
    plain = score(features.numpy(), rca.host.classifier)
    own = [embedding for _, label, embedding in pool(plain, features.numpy(), valid.numpy(), "softmax") if label == 2]
    found = rca._aggregate(features).detach()
    for image, y, x in np.ndindex(IMAGES, HEIGHT, WIDTH):
        np.testing.assert_allclose(found[image, :, y, x], sum(own) / len(own), **CLOSE)
