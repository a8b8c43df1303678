"""Prototypes: the K centres of each class's memory, found by K-means for all classes at once."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


def cluster_memory(entries: Tensor, filled: Tensor, number: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """K-means with a greedy k-means++ start (Arthur & Vassilvitskii, 2007), all classes in one batch.

    A class with fewer than `number` regions gets one prototype per region. An emptied cluster moves to the region that
    is furthest from its centre. The same seed gives the same prototypes.

    Args:
        entries: (C, N, D), the memory.
        filled: (C, N), bool.
        number: Prototypes per class, K.
        iterations: Maximum number of iterations of Lloyd's algorithm, which stops when no assignment changes.
        seed: Seed of the start.

    Returns:
        The prototypes (C, K, D), and which of them are usable (C, K), bool.
    """
    classes, slots, _ = entries.shape
    number = min(number, slots)
    usable = torch.arange(number, device=entries.device) < filled.sum(1, keepdim=True)
    norms = torch.linalg.vector_norm(entries, dim=2).square()
    centres = _choose_start(entries, norms, filled, number, seed)
    prototypes, all_usable = centres.clone(), usable
    # Classes settle at different times: all variables but `prototypes` and `all_usable` hold the unsettled ones only.
    moving = torch.arange(classes, device=entries.device)
    assignment = torch.full((classes, slots), -1, device=entries.device)
    for _ in range(iterations):
        distance = _square_distance(entries, norms, centres).masked_fill(~usable[:, None], torch.inf)
        previous, assignment = assignment, distance.argmin(2).masked_fill(~filled, -1)
        moved = (assignment != previous).any(1)
        if not bool(moved.any()):
            break
        if not bool(moved.all()):
            entries, norms, filled, usable = (part[moved] for part in (entries, norms, filled, usable))
            centres, moving, assignment, distance = (part[moved] for part in (centres, moving, assignment, distance))
        centres = _move_centres(entries, filled, usable, assignment, distance, centres)
        prototypes[moving] = centres
    return prototypes * all_usable[..., None], all_usable


def _move_centres(
    entries: Tensor, filled: Tensor, usable: Tensor, assignment: Tensor, distance: Tensor, centres: Tensor
) -> Tensor:
    """The second half of an iteration: move each centre to the mean of its regions."""
    member = (assignment[..., None] == torch.arange(centres.shape[1], device=entries.device)).to(entries.dtype)
    counts = member.sum(1)
    means = member.transpose(1, 2) @ entries / counts.clamp(min=1)[..., None]
    centres = torch.where((counts > 0)[..., None], means, centres)
    empty = (counts == 0) & usable
    return _move_empty(entries, filled, distance, centres, empty) if bool(empty.any()) else centres


def _square_distance(entries: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (C, N, K) of entries (C, N, D) with squared norms (C, N) to centres (C, K, D).

    One matrix product instead of a pass over all entries per centre.
    """
    products = entries @ centres.transpose(1, 2)
    return (norms[..., None] - 2 * products + centres.square().sum(2)[:, None]).clamp(min=0)


def _choose_start(entries: Tensor, norms: Tensor, filled: Tensor, number: int, seed: int) -> Tensor:
    """Greedy k-means++.

    Candidates for the next centre are drawn with a probability proportional to their squared distance from the centres
    so far; the candidate that leaves the smallest sum of distances becomes the centre.
    """
    generator = torch.Generator().manual_seed(seed)
    classes, slots, _ = entries.shape
    everyone = torch.arange(classes, device=entries.device)
    trials = 2 + int(math.log(number))  # as in scikit-learn
    weight = filled.to(entries.dtype)
    distance = torch.full((classes, slots), torch.inf, dtype=entries.dtype, device=entries.device)
    centres = []
    for _ in range(number):
        # A class without further distinct regions takes any region: `usable` says which centres count.
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
        distance[everyone, chosen] = 0  # exactly, despite rounding: no region is taken twice
        weight = distance * filled
    return torch.stack(centres, 1)


def _move_empty(entries: Tensor, filled: Tensor, distance: Tensor, centres: Tensor, empty: Tensor) -> Tensor:
    """Move the centre of each empty cluster to a region far from its centre, no two to the same region."""
    far = distance.amin(2).masked_fill(~filled, -1)
    order = far.argsort(1, descending=True)
    rank = (empty.cumsum(1) - 1).clamp(min=0)
    target = entries.gather(1, order.gather(1, rank)[..., None].expand(-1, -1, entries.shape[2]))
    return torch.where(empty[..., None], target, centres)


def aggregate_prototypes(
    features: Tensor,
    prototypes: Tensor,
    usable: Tensor,
    temperature: float,
    similarity: Literal["dot", "cosine"] = "cosine",
) -> Tensor:
    """Semantic aggregation (RCA): for each position the mixture of the prototypes most similar to it; no parameters.

    The weights are a softmax of similarity / temperature over the prototypes of all classes.

    Args:
        features: (B, D, h, w).
        prototypes: (C, K, D).
        usable: (C, K), bool: which prototypes are usable.
        temperature: Above 0.
        similarity: The dot product of a feature and a prototype (the paper), or their cosine.

    Returns:
        (B, D, h, w), on the scale of the prototypes; 0 everywhere while no prototype is usable.
    """
    chosen = prototypes[usable]
    if len(chosen) == 0:
        return torch.zeros_like(features)
    flat, keys = features.flatten(2), chosen.to(features.dtype)
    if similarity == "cosine":
        flat, keys = functional.normalize(flat, dim=1), functional.normalize(keys, dim=1)
    weights = (keys @ flat / temperature).softmax(1)
    return torch.unflatten(chosen.T.to(flat.dtype) @ weights, 2, features.shape[2:])


class ParametricAggregation(nn.Module):
    """Semantic aggregation with learned queries, keys and values.

    Args:
        channels: Channels of the features and of the prototypes, D.
        scale: The weights are the dot products times this, as in the released code of RCA, and a 1x1 convolution
            follows. None for those of scaled dot-product attention (Vaswani et al., 2017), which sum to 1 for any
            number of prototypes.
    """

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    def __init__(self, channels: int, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        if scale is not None:
            self.merge = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor, prototypes: Tensor, usable: Tensor) -> Tensor:
        """Aggregate; arguments and result as for `aggregate_prototypes`."""
        chosen = prototypes[usable]
        if len(chosen) == 0:
            return torch.zeros_like(features)
        queries = self.query(features).flatten(2).transpose(1, 2)
        keys, values = (layer(chosen).to(queries).expand(len(features), -1, -1) for layer in (self.key, self.value))
        if self.scale is None:
            recalled = functional.scaled_dot_product_attention(queries, keys, values)
        else:
            recalled = self.scale * queries @ keys.transpose(1, 2) @ values
        aggregated = torch.unflatten(recalled.transpose(1, 2), 2, features.shape[2:])
        return aggregated if self.scale is None else self.merge(aggregated)
