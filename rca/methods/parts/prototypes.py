"""Prototypes: the K centres of each class's memory, by K-means, for all classes at once."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def cluster_memory(entries: Tensor, filled: Tensor, number: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """K-means with a greedy k-means++ start (Arthur & Vassilvitskii, 2007), class by class, in one batch.

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
    norms = torch.linalg.vector_norm(entries, dim=2).square()
    centres = _choose_start(entries, norms, filled, number, seed)
    prototypes, stands = centres.clone(), usable
    # Classes settle at different times: all but `prototypes` and `stands` holds only those that still move.
    moving = torch.arange(classes, device=entries.device)
    assignment = torch.full((classes, slots), -1, device=entries.device)
    for _ in range(iterations):
        distance = _square_distance(entries, norms, centres).masked_fill(~usable[:, None], torch.inf)
        previous, assignment = assignment, distance.argmin(2).masked_fill(~filled, -1)
        moved = (assignment != previous).any(1)
        if not bool(moved.any()):
            break
        if not bool(moved.all()):
            entries, norms, filled, usable = (one[moved] for one in (entries, norms, filled, usable))
            centres, moving, assignment, distance = (one[moved] for one in (centres, moving, assignment, distance))
        centres = _move_centres(entries, filled, usable, assignment, distance, centres)
        prototypes[moving] = centres
    return prototypes * stands[..., None], stands


def _move_centres(
    entries: Tensor, filled: Tensor, usable: Tensor, assignment: Tensor, distance: Tensor, centres: Tensor
) -> Tensor:
    """The second half of an iteration: each centre goes to the mean of its regions."""
    member = (assignment[..., None] == torch.arange(centres.shape[1], device=entries.device)).to(entries.dtype)
    counts = member.sum(1)
    means = member.transpose(1, 2) @ entries / counts.clamp(min=1)[..., None]
    centres = torch.where((counts > 0)[..., None], means, centres)
    empty = (counts == 0) & usable
    return _move_empty(entries, filled, distance, centres, empty) if bool(empty.any()) else centres


def _square_distance(entries: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (C, N, K) of entries (C, N, D), whose squared norms are given, to centres (C, K, D).

    As one matrix product: without a pass over all entries for each centre.
    """
    products = entries @ centres.transpose(1, 2)
    return (norms[..., None] - 2 * products + centres.square().sum(2)[:, None]).clamp(min=0)


def _choose_start(entries: Tensor, norms: Tensor, filled: Tensor, number: int, seed: int) -> Tensor:
    """Greedy k-means++.

    Some candidates for each further centre are drawn with a chance that grows with their squared distance to the
    centres so far; the one that leaves the smallest sum of distances is taken.
    """
    generator = torch.Generator().manual_seed(seed)
    classes, slots, _ = entries.shape
    everyone = torch.arange(classes, device=entries.device)
    trials = 2 + int(math.log(number))  # as many as scikit-learn draws
    weight = filled.to(entries.dtype)
    distance = torch.full((classes, slots), torch.inf, dtype=entries.dtype, device=entries.device)
    centres = []
    for _ in range(number):
        # A class that has run out of distinct regions (or has none) takes any: `usable` tells which centres count.
        chances = torch.where(weight.sum(1, keepdim=True) > 0, weight, torch.ones_like(weight))
        edges = chances.cumsum(1)
        draws = torch.rand(classes, trials, generator=generator, dtype=torch.float64).to(edges) * edges[:, -1:]
        candidates = torch.searchsorted(edges, draws, right=True).clamp(max=slots - 1)
        to_each = _square_distance(entries, norms, entries[everyone[:, None], candidates])
        left = torch.minimum(distance[..., None], to_each)
        best = (left * filled[..., None]).sum(1).argmin(1)
        chosen = candidates[everyone, best]
        centres.append(entries[everyone, chosen])
        distance = left[everyone, :, best]
        distance[everyone, chosen] = 0  # which rounding may have missed: no region is taken twice
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
        (B, R, h, w); -10,000 or less for a row without a prototype.
    """
    flat = functional.normalize(features.flatten(2), dim=1)
    keys = functional.normalize(prototypes.flatten(0, 1), dim=1)
    similarity = (keys @ flat / temperature).unflatten(1, prototypes.shape[:2])
    similarity = similarity.masked_fill(~usable[..., None], -1e4)
    return similarity.logsumexp(2).unflatten(2, features.shape[2:])


def score_image(features: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Score an image by prototypes of its own: each row's is the mean of the positions that resemble the row most.

    Positions count by the square of their share. Image-specific prototypes are those of SIPE (Chen et al.,
    Self-supervised Image-specific Prototype Exploration, CVPR 2022), which takes them from class activation maps.

    Args:
        features: (B, D, h, w).
        shares: (B, R, h, w), 0..1: how far each position resembles each row; rows that are 0 everywhere stay so.
        temperature: Of the softmax over cosine similarities.

    Returns:
        (B, R, h, w): each position's shares anew, summing to 1.
    """
    flat = functional.normalize(features.flatten(2), dim=1)
    weights = shares.flatten(2).square()
    prototypes = functional.normalize(weights @ flat.transpose(1, 2), dim=2)
    similarity = (prototypes @ flat / temperature).unflatten(2, features.shape[2:])
    return similarity.masked_fill(~weights.any(2)[..., None, None], -torch.inf).softmax(1)
