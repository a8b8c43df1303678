"""Semantic contrast: pull regions of one class together and push regions of different classes apart.

Source: Zhou et al., Regional Semantic Contrast and Aggregation for Weakly Supervised Semantic Segmentation, CVPR 2022.
"""

import torch
from torch import Tensor
from torch.nn import functional


def contrast_regions(
    queries: Tensor,
    classes: Tensor,
    entries: Tensor,
    entry_classes: Tensor,
    temperature: float,
    hard_negatives: int | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Region-level InfoNCE against a memory.

    For a query f and each stored region f+ of its class, -log(e(f+) / (e(f+) + sum of e(f-) over all stored regions of
    other classes)) with e(x) = exp(f.x / temperature), averaged over the positives of the query.

    Args:
        queries: (R, D), L2-normalised.
        classes: (R,), int64.
        entries: (M, D), L2-normalised.
        entry_classes: (M,), int64.
        temperature: Above 0.
        hard_negatives: Number of negatives that count, the most similar to the query; None for all.
        own: (R, M), bool: which entries are the query itself, neither positive nor negative; None for none.

    Returns:
        (R,), at least 0; 0 for a query without a positive or without a negative.
    """
    similarity = queries @ entries.T / temperature
    positive = classes[:, None] == entry_classes[None]
    negative = ~positive
    if own is not None:
        positive, negative = positive & ~own, negative & ~own
    usable = positive.any(1) & negative.any(1)
    # Without entries there is no dimension to reduce, and an unusable query would give -inf - -inf.
    if not bool(usable.any()):
        return queries.sum(1) * 0
    against = similarity[usable].masked_fill(~negative[usable], -torch.inf)
    if hard_negatives is not None:
        against = against.topk(min(hard_negatives, against.shape[1]), dim=1).values
    terms = functional.softplus(against.logsumexp(1, keepdim=True) - similarity[usable]) * positive[usable]
    losses = terms.sum(1) / positive[usable].sum(1)
    return queries.new_zeros(len(queries)).index_put((usable.nonzero()[:, 0],), losses)


def contrast_mixed(
    queries: Tensor,
    classes: Tensor,
    entries: Tensor,
    entry_classes: Tensor,
    temperature: float,
    weight: Tensor,
    partner: Tensor,
    hard_negatives: int | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Region contrast of mixed embeddings: each query is blended with a partner and contrasted for both classes.

    Args:
        queries: (R, D); the mixture is L2-normalised here, so queries of different norms count by their norm too.
        classes: (R,), int64.
        entries: (M, D), L2-normalised.
        entry_classes: (M,), int64.
        temperature: Above 0.
        weight: (R, 1), the share of the query itself, 0..1, drawn from Beta(a, a).
        partner: (R,), int64, the query that each query is blended with.
        hard_negatives: As in `contrast_regions`.
        own: As in `contrast_regions`; the partner's entry is left out as well.

    Returns:
        (R,), at least 0.
    """
    mixed = functional.normalize(weight * queries + (1 - weight) * queries[partner], dim=1)
    own = None if own is None else own | own[partner]
    memory = (entries, entry_classes, temperature, hard_negatives, own)
    first = contrast_regions(mixed, classes, *memory)
    second = contrast_regions(mixed, classes[partner], *memory)
    return weight[:, 0] * first + (1 - weight[:, 0]) * second


def draw_partners(image: Tensor) -> Tensor:
    """Draw a partner for each region to be mixed with: an image of the batch, then one of its regions.

    So the classes of images with many classes are not drawn more often. A region may be its own partner.

    Args:
        image: (R,), int64: the image of each region, by its place in the batch.

    Returns:
        (R,), int64, places in `image`.
    """
    if len(image) == 0:
        return image
    chances = 1 / image.bincount()[image].double()
    return torch.multinomial(chances, len(image), replacement=True)
