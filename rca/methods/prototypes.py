"""Prototypes: the K centres of each class's memory, by K-means, for all classes at once."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def cluster_memory(entries: Tensor, filled: Tensor, number: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """K-means with a k-means++ start (Arthur & Vassilvitskii, 2007), class by class, in one batch.

    A class with fewer regions than `number` gets that many prototypes. An emptied cluster moves to the region that lies
    furthest from its centre. The same seed gives the same prototypes.

    Args:
        entries: (C, N, D), the memory.
        filled: (C, N), bool.
        number: Prototypes of each class, K.
        iterations: Of Lloyd's algorithm, at most; it stops when no assignment changes.
        seed: Of the start.

    Returns:
        The prototypes (C, K, D) and which of them stand for something (C, K), bool.
    """
    classes, slots, _ = entries.shape
    number = min(number, slots)
    usable = torch.arange(number, device=entries.device) < filled.sum(1, keepdim=True)
    centres = _choose_start(entries, filled, number, seed)
    assignment = torch.full((classes, slots), -1, device=entries.device)
    for _ in range(iterations):
        distance = torch.cdist(entries, centres).masked_fill(~usable[:, None], torch.inf)
        nearest, previous = distance.argmin(2), assignment
        assignment = nearest.masked_fill(~filled, -1)
        if torch.equal(assignment, previous):
            break
        member = (assignment[..., None] == torch.arange(number, device=entries.device)).to(entries.dtype)
        counts = member.sum(1)
        means = member.transpose(1, 2) @ entries / counts.clamp(min=1)[..., None]
        centres = torch.where((counts > 0)[..., None], means, centres)
        centres = _move_empty(entries, filled, distance, centres, (counts == 0) & usable)
    return centres * usable[..., None], usable


def _choose_start(entries: Tensor, filled: Tensor, number: int, seed: int) -> Tensor:
    """k-means++: each further centre is drawn with a chance that grows with its squared distance to the others."""
    generator = torch.Generator().manual_seed(seed)
    classes, slots, _ = entries.shape
    everyone = torch.arange(classes, device=entries.device)
    weight = filled.to(entries.dtype)
    distance = torch.full((classes, slots), torch.inf, dtype=entries.dtype, device=entries.device)
    centres = []
    for _ in range(number):
        # A class that has run out of distinct regions (or has none) takes any: `usable` tells which centres count.
        chances = torch.where(weight.sum(1, keepdim=True) > 0, weight, torch.ones_like(weight))
        edges = chances.cumsum(1)
        draw = torch.rand(classes, 1, generator=generator, dtype=torch.float64).to(edges) * edges[:, -1:]
        chosen = torch.searchsorted(edges, draw, right=True).clamp(max=slots - 1)[:, 0]
        centres.append(entries[everyone, chosen])
        distance = torch.minimum(distance, (entries - centres[-1][:, None]).square().sum(2))
        weight = distance * filled
    return torch.stack(centres, 1)


def _move_empty(entries: Tensor, filled: Tensor, distance: Tensor, centres: Tensor, empty: Tensor) -> Tensor:
    """Put each empty cluster's centre on a region far from its own centre, no two on the same region."""
    far = distance.amin(2).masked_fill(~filled, -1)
    order = far.argsort(1, descending=True)
    rank = (empty.cumsum(1) - 1).clamp(min=0)
    target = entries.gather(1, order.gather(1, rank)[..., None].expand(-1, -1, entries.shape[2]))
    return torch.where(empty[..., None], target, centres)


def aggregate_prototypes(features: Tensor, prototypes: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """Semantic aggregation (RCA): each position's mixture of the prototypes that it resembles, without parameters.

    The weights are a softmax over all classes' prototypes of cosine similarity / temperature.

    Args:
        features: (B, D, h, w).
        prototypes: (C, K, D).
        usable: (C, K), bool: which prototypes stand for something.
        temperature: Above 0.

    Returns:
        (B, D, h, w); 0 everywhere while no prototype is usable.
    """
    chosen = prototypes[usable]
    if len(chosen) == 0:
        return torch.zeros_like(features)
    flat = functional.normalize(features.flatten(2), dim=1)
    keys = functional.normalize(chosen, dim=1).to(flat.dtype)
    weights = (keys @ flat / temperature).softmax(1)
    return (chosen.T.to(flat.dtype) @ weights).unflatten(2, features.shape[2:])


class ParametricAggregation(nn.Module):
    """Semantic aggregation with learned queries, keys and values.

    The released code of RCA does so without a softmax (scaled by 2); here the weights are those of scaled dot-product
    attention (Vaswani et al., 2017), so that they sum to 1 whatever the number of prototypes.

    Args:
        channels: Of the features and the prototypes, D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)

    def forward(self, features: Tensor, prototypes: Tensor, usable: Tensor) -> Tensor:
        """What each position recalls, of the shapes of `aggregate_prototypes`."""
        chosen = prototypes[usable]
        if len(chosen) == 0:
            return torch.zeros_like(features)
        queries = self.query(features).flatten(2).transpose(1, 2)
        keys, values = (layer(chosen).to(queries).expand(len(features), -1, -1) for layer in (self.key, self.value))
        recalled = functional.scaled_dot_product_attention(queries, keys, values)
        return recalled.transpose(1, 2).unflatten(2, features.shape[2:])


def score_rows(features: Tensor, prototypes: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """How far each position resembles each row of the memory: log of the sum over its prototypes of exp(cosine / T).

    Args:
        features: (B, D, h, w).
        prototypes: (R, K, D).
        usable: (R, K), bool: which prototypes stand for something.
        temperature: T, above 0.

    Returns:
        (B, R, h, w), float32; -10,000 or less for a row without a prototype.
    """
    flat = functional.normalize(features.float().flatten(2), dim=1)
    keys = functional.normalize(prototypes.flatten(0, 1).float(), dim=1)
    similarity = (keys @ flat / temperature).unflatten(1, prototypes.shape[:2])
    similarity = similarity.masked_fill(~usable[..., None], -1e4)
    return similarity.logsumexp(2).unflatten(2, features.shape[2:])
