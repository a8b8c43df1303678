"""Positions of an image that belong to a class, and positions around it: what the memory of positions is made of."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rca.models.resizing import resize_maps, size_of

REACH = 3
"""A position is shown with the cells of its region that lie up to so many cells away."""
BLOCK = 256
"""Positions are compared in blocks of so many, each pair of blocks once: their cosines are the same both ways."""


def find_objects(shares: Tensor, tags: Tensor, threshold: float) -> Tensor:
    """Where a class is sure: its map is high, and no other map of the image is higher.

    Args:
        shares: (B, C, h, w), each tagged map as a share of its peak, 0 elsewhere.
        tags: (B, C) of 0 and 1.
        threshold: The share of the peak that the map must exceed.

    Returns:
        (B, C, h, w), bool.
    """
    highest = shares == shares.amax(1, keepdim=True)
    return (shares > threshold) & highest & (tags[..., None, None] > 0)


def find_contexts(shares: Tensor, valid: Tensor, tags: Tensor, threshold: float) -> Tensor:
    """The context of each class of an image: where no class of the image is likely.

    Args:
        shares: (B, C, h, w), as for `find_objects`.
        valid: (B, 1, h, w), 0 on padding.
        tags: (B, C) of 0 and 1.
        threshold: The share of the peak that every map must stay below.

    Returns:
        (B, C, h, w), bool; the same positions for each tagged class, none for the other classes.
    """
    low = (shares.amax(1, keepdim=True) < threshold) & (valid > 0)
    return low & (tags[..., None, None] > 0)


def allot_slots(tags: Tensor, size: int) -> Tensor:
    """Divide the slots of each class's row evenly among the images that show the class.

    Args:
        tags: (N, C) of 0 and 1.
        size: Slots per row.

    Returns:
        (N, C), int64; the columns sum to the size, or to 0 for a class without an image.
    """
    shown = tags > 0
    order, count = shown.cumsum(0), shown.sum(0).clamp(min=1)
    until, before = ((place * size).div(count, rounding_mode="floor") for place in (order, order - 1))
    return (until - before).masked_fill(~shown, 0)


def pick_evenly(masks: Tensor, numbers: Tensor) -> Tensor:
    """Pick some places of each mask, at even steps through its places.

    Args:
        masks: (M, P), bool.
        numbers: (M,), int64: how many places to pick of each; a mask with fewer gives all.

    Returns:
        (M, P), bool.
    """
    count, order = masks.sum(1, keepdim=True), masks.cumsum(1)
    wanted = torch.minimum(numbers.to(masks.device)[:, None], count)
    # The n-th place of c is picked if n x wanted / c passes a whole number there.
    passed, before = ((place * wanted).div(count.clamp(min=1), rounding_mode="floor") for place in (order, order - 1))
    return masks & (passed > before)


def show_positions(masks: Tensor, place: Tensor) -> Tensor:
    """The part of a region around one of its positions, to show it and to measure its purity.

    Args:
        masks: (M, h, w), bool.
        place: (M,), int64: the position in each mask, counted row by row.

    Returns:
        (M, h, w), bool: the cells of its mask up to `REACH` cells away.
    """
    height, width = masks.shape[1:]
    down = (torch.arange(height, device=masks.device) - place[:, None] // width).abs() <= REACH
    across = (torch.arange(width, device=masks.device) - place[:, None] % width).abs() <= REACH
    return masks & down[:, :, None] & across[:, None]


def score_prototypes(features: Tensor, prototypes: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """Score each position against sets of prototypes: log of the mean of exp(cosine / T) over those of a set.

    A mean and not a sum, so that a set does not win by its size.

    Args:
        features: (B, D, h, w).
        prototypes: (R, K, D), the sets.
        usable: (R, K), bool: which prototypes are usable.
        temperature: T, above 0.

    Returns:
        (B, R, h, w); -10,000 for a set without a usable prototype.
    """
    flat = functional.normalize(features.flatten(2), dim=1)
    keys = functional.normalize(prototypes.flatten(0, 1), dim=1).to(flat)
    similarity = torch.unflatten(keys @ flat / temperature, 1, usable.shape)
    number = usable.sum(1).to(flat)[:, None]
    scores = similarity.masked_fill(~usable[..., None], -torch.inf).logsumexp(2) - number.clamp(min=1).log()
    return torch.unflatten(scores.masked_fill(number == 0, -1e4), 2, features.shape[2:])


def share_alike(features: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Each position's mean of the shares of all positions of its image, weighted by how much they resemble it.

    Args:
        features: (B, D, h, w).
        shares: (B, R, h', w'), at another resolution.
        temperature: Temperature of the softmax over the cosine similarities to all positions.

    Returns:
        (B, R, h, w); where the shares sum to 1, so do the results.
    """
    size = size_of(features)
    alike = functional.normalize(features.flatten(2), dim=1).transpose(1, 2).contiguous()
    values = functional.pad(resize_maps(shares, size).flatten(2).transpose(1, 2), (0, 1), value=1.0)
    sums = torch.zeros_like(values)  # the last column sums the weights
    blocks = list(zip(*(torch.split(tensor, BLOCK, 1) for tensor in (alike, values, sums)), strict=True))
    for number, (rows, row_values, row_sums) in enumerate(blocks):
        for columns, column_values, column_sums in blocks[number:]:
            # No cosine exceeds 1, so that the weights need no maximum of their row and are the same both ways.
            weights = (rows @ columns.transpose(1, 2)).sub_(1).div_(temperature).exp_()
            row_sums += weights @ column_values
            if column_sums is not row_sums:
                column_sums += weights.transpose(1, 2) @ row_values
    # A feature of zeros resembles all positions alike; its weights may vanish.
    mixed = torch.where(sums[..., -1:] > 0, sums / sums[..., -1:], values.mean(1, keepdim=True))
    return torch.unflatten(mixed[..., :-1].transpose(1, 2), 2, size)


def find_odds(shares: Tensor, background: Tensor) -> Tensor:
    """The odds of the background up to which each position is of a class rather than of all the rest together.

    With odds k the share s of a class becomes s / (f + k b), where b is the background's share and f = 1 - b. This is
    above one half as long as k < (2 s - f) / b.

    Args:
        shares: (B, C, h, w).
        background: (B, 1, h, w), 1 minus the sum of the shares.

    Returns:
        (B, h, w).
    """
    best, rest = shares.amax(1), background[:, 0]
    return (2 * best - (1 - rest)) / rest.clamp(min=1e-6)


def balance_areas(areas: Sequence[Tensor], odds: Sequence[Tensor]) -> float:
    """The prior of the background with which objects cover a given part of some images, on average.

    Args:
        areas: For each image (), the part of it that objects should cover, 0..1.
        odds: For each image (h, w), see `find_odds`.

    Returns:
        The odds, at least 0.001.
    """
    values = torch.cat([part.flatten() for part in odds])
    weights = torch.cat([torch.full_like(part.flatten(), 1 / part.numel(), dtype=torch.float64) for part in odds])
    order = values.argsort(descending=True)
    covered = weights[order].cumsum(0) / len(odds)
    place = int((covered < torch.stack(list(areas)).double().mean()).sum())
    return max(float(values[order[min(place, len(values) - 1)]]), 1e-3)
