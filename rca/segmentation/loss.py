"""The loss of a segmentation network on masks with unbalanced labels and wrong pixels."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rca.core.distributed import divide_by_count, sum_over_ranks
from rca.core.files import IGNORE
from rca.core.settings import Settings
from rca.segmentation.correction import CorrectionSettings
from rca.segmentation.mixture import MixtureSettings, drop_noisy

Balance = Literal["none", "background_foreground", "labels"]


class NoiseSettings(Settings):
    """Down-weighting of pixels whose label the network contradicts.

    The weight of a pixel is the network's probability of its label, to the power of `exponent`. The gradient is that of
    the generalised cross-entropy (Zhang & Sabuncu, NeurIPS 2018): 0 gives the plain cross-entropy, 1 the mean absolute
    error, which is the most robust and learns the slowest.

    Attributes:
        exponent: 0.7 in the paper.
        start_epoch: The first epoch with down-weighting, counted from 0: the network must learn something first.
    """

    exponent: float = Field(default=0.7, gt=0, le=1)
    start_epoch: int = Field(default=1, ge=0)


class LossSettings(Settings):
    """The weights of pixels.

    Attributes:
        balance: "none" is the mean over all pixels. "background_foreground" is half the mean over background pixels and
            half the mean over object pixels (as in the balanced seeding loss of Huang et al., DSRG, CVPR 2018), since
            most of an image is background. "labels" is the mean, over the labels in the batch, of the mean over the
            pixels of each label.
        noise: Down-weighting of contradicted pixels; null for none.
        mixture: Leaving out pixels that a mixture of two Gaussians takes for wrong (DivideMix); null for none.
        correction: Correction of the labels of classes that the network has learnt (ADELE); null for none.
    """

    balance: Balance = "none"
    noise: NoiseSettings | None = None
    mixture: MixtureSettings | None = None
    correction: CorrectionSettings | None = None


def compute_segmentation_loss(scores: Tensor, mask: Tensor, settings: LossSettings, epoch: int) -> Tensor:
    """Cross-entropy over the pixels that are not ignored, over the batches of all processes.

    Args:
        scores: (B, C+1, H, W), logits.
        mask: (B, H, W), int64, 0 background, 1..C, 255 for ignore.
        settings: The weights of pixels.
        epoch: Counted from 0.

    Returns:
        (). A part without pixels (a batch with ignored pixels only, or one half of the balance) counts as 0.
    """
    if settings.mixture is not None and epoch >= settings.mixture.start_epoch:
        losses = functional.cross_entropy(scores.detach(), mask, ignore_index=IGNORE, reduction="none")
        mask = drop_noisy(losses, mask, scores.shape[1], settings.mixture.least)
    weighs = settings.noise is not None and epoch >= settings.noise.start_epoch
    if settings.balance == "none" and not weighs:
        # A batch with ignored pixels only has no mean.
        total = functional.cross_entropy(scores, mask, ignore_index=IGNORE, reduction="sum")
        return divide_by_count(total, (mask != IGNORE).sum())
    losses = functional.cross_entropy(scores, mask, ignore_index=IGNORE, reduction="none")
    if settings.noise is not None and weighs:
        with torch.no_grad():
            weights = torch.exp(
                -losses * settings.noise.exponent
            )  # the label's probability to the power of the exponent
        losses = losses * weights
    parts = list_parts(mask, scores.shape[1], settings.balance)
    counts = torch.stack([part.sum() for part in parts])
    means = divide_by_count(torch.stack([(losses * part).sum() for part in parts]), counts)
    if settings.balance == "labels":
        return means.sum() / (sum_over_ranks(counts) > 0).sum().clamp(min=1)
    return means.mean()


def list_parts(mask: Tensor, labels: int, balance: Balance) -> list[Tensor]:
    """The sets of pixels, each of the shape of the mask, whose means have equal weight."""
    if balance == "background_foreground":
        return [mask == 0, (mask > 0) & (mask != IGNORE)]
    if balance == "labels":
        return [mask == label for label in range(labels)]
    return [mask != IGNORE]
