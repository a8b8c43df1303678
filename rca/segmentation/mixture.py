"""Leaving out pixels whose label is likely to be wrong, by a mixture of two Gaussians of their losses.

Source: Li, Socher and Hoi, DivideMix: Learning with Noisy Labels as Semi-supervised Learning (ICLR 2020), section 3.1,
which fits a mixture to the losses of all images after each epoch. Here it is fitted to each label's pixels in a batch,
since rare labels have higher losses. A pixel up to the mean of the lower Gaussian is always kept: a narrow lower
Gaussian would otherwise leave the surest pixels to a wide upper one.
"""

import torch
from pydantic import Field
from torch import Tensor

from rca.core.distributed import sum_over_ranks
from rca.core.files import IGNORE
from rca.core.settings import Settings

HIGHEST = 11.5
"""The loss above which all are alike, -log(1e-5); the losses of a mixture are shares of it."""
BINS = 1024
ITERATIONS = 10
LEAST_VARIANCE = 5e-4
"""Added to each variance, as in DivideMix's code."""


class MixtureSettings(Settings):
    """Leaving out pixels whose loss belongs to the upper of two Gaussians (DivideMix, Li et al., ICLR 2020).

    Attributes:
        least: The lowest probability of the lower Gaussian at which a pixel is kept: 0.5 in the paper.
        start_epoch: The first epoch that leaves out pixels, counted from 0: the network must learn something first.
    """

    least: float = Field(default=0.5, ge=0, le=1)
    start_epoch: int = Field(default=1, ge=0)


@torch.no_grad()
def drop_noisy(losses: Tensor, mask: Tensor, labels: int, least: float) -> Tensor:
    """Ignore the pixels whose label is likely to be wrong, in the batches of all processes.

    Args:
        losses: (B, H, W), the cross-entropy of each pixel.
        mask: (B, H, W), int64, the labels, 255 for ignore.
        labels: Number of labels, the background included.
        least: As in `MixtureSettings`.

    Returns:
        (B, H, W), the mask with 255 at these pixels.
    """
    places = (losses.nan_to_num(nan=HIGHEST) / HIGHEST * BINS).long().clamp(0, BINS - 1)
    known = mask != IGNORE
    places = (places + mask * BINS).where(known, 0)
    counts = sum_over_ranks(torch.bincount(places[known], minlength=labels * BINS)).view(labels, BINS)
    kept = score_bins(counts) >= least
    return mask.where(kept.flatten()[places], IGNORE)


def score_bins(counts: Tensor) -> Tensor:
    """The probability of the lower of two Gaussians in each bin of the losses of each label.

    Expectation maximisation begins with Gaussians one standard deviation below and above the mean.

    Args:
        counts: (L, BINS), the number of pixels.

    Returns:
        (L, BINS), float64, 0..1; 1 up to the mean of the lower Gaussian.
    """
    counts = counts.double()
    number = counts.sum(1, keepdim=True).clamp(min=1)
    centres = (torch.arange(BINS, device=counts.device).double() + 0.5) / BINS
    mean = (counts * centres).sum(1, keepdim=True) / number
    variance = (counts * (centres - mean).square()).sum(1, keepdim=True) / number
    means = mean + variance.sqrt() * torch.tensor([-1, 1], device=counts.device)
    variances = (variance + LEAST_VARIANCE).expand_as(means)
    shares = torch.full_like(means, 0.5)
    for _ in range(ITERATIONS):
        weights = _compare(centres, means, variances, shares) * counts[:, None]
        totals = weights.sum(2).clamp(min=1e-6)
        shares = totals / number
        means = (weights * centres).sum(2) / totals
        variances = (weights * (centres - means[:, :, None]).square()).sum(2) / totals + LEAST_VARIANCE
    lower = means.argmin(1, keepdim=True)
    found = _compare(centres, means, variances, shares).gather(1, lower[:, :, None].expand(-1, 1, BINS))[:, 0]
    return torch.where(centres <= means.gather(1, lower), 1.0, found)


def _compare(centres: Tensor, means: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """The probability of each Gaussian (L, 2, BINS) at each centre (BINS,)."""
    distances = (centres - means[:, :, None]).square() / variances[:, :, None]
    return (shares.clamp(min=1e-12).log()[:, :, None] - 0.5 * (variances.log()[:, :, None] + distances)).softmax(1)
