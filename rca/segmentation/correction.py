"""Correction of labels by the network itself, class by class, once it has learnt a class and turns to its errors.

Source: Liu, Liu, Zhang and Fernandez-Granda, Adaptive Early-Learning Correction for Segmentation from Noisy Annotations
(ADELE, CVPR 2022), section 4.1. The IoU of the network's labels with the given ones, epoch by epoch, is fitted by
f(t) = a (1 - exp(-b t ^ c)). When its slope has fallen by a share of that at t = 1, the class is corrected: pixels that
carry it get the label that the network is sure of.

Here the labels are those of the training's own pass over the augmented image, each time anew, and of the image's tags:
a class that is not tagged cannot come about. The paper predicts at several scales, and has a second term on their
agreement; and its criterion takes a slope that rises like one that falls.
"""

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import least_squares
from torch import Tensor, nn

from rca.core.arrays import Float64Array
from rca.core.distributed import sum_over_ranks
from rca.core.files import IGNORE
from rca.core.settings import Settings

FEWEST = 3
"""Epochs that the three numbers of a curve are fitted to."""


class CorrectionSettings(Settings):
    """Correction of labels once a class is learnt (ADELE, Liu et al., CVPR 2022).

    Attributes:
        slowing: A class is corrected once the slope of its IoU has fallen by more than this share: 0.9 in the paper.
        confidence: The probability above which the network's label takes the place of the given one: 0.8 in the paper.
    """

    slowing: float = Field(default=0.9, gt=0, lt=1)
    confidence: float = Field(default=0.8, ge=0, lt=1)


class EarlyLearning(nn.Module):
    """What the correction remembers of a training: the IoU of each label and epoch.

    Args:
        settings: When and what is corrected.
        labels: Number of labels, the background included.
        epochs: Number of epochs of the training.
    """

    curves: Tensor
    counts: Tensor
    learnt: Tensor

    def __init__(self, settings: CorrectionSettings, labels: int, epochs: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("curves", torch.full((epochs, labels), torch.nan, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(2, labels, dtype=torch.int64))  # intersections and unions
        self.register_buffer("learnt", torch.zeros(labels, dtype=torch.bool))

    def start_epoch(self, epoch: int) -> None:
        """Close the epoch before this one, counted from 0, and find the labels that are learnt.

        Once learnt, a label stays so.
        """
        if epoch == 0:
            return
        both, either = self.counts.clone()
        self.counts.zero_()
        self.curves[epoch - 1] = both / either  # NaN for a label that no image shows
        for label in (~self.learnt).nonzero()[:, 0].tolist():
            self.learnt[label] = has_slowed(self.curves[:epoch, label].cpu().numpy(), self.settings.slowing)

    @torch.no_grad()
    def correct(self, scores: Tensor, mask: Tensor, tags: Tensor) -> Tensor:
        """Count the batch for the IoU, and correct its labels.

        Args:
            scores: (B, C+1, H, W), logits.
            mask: (B, H, W), int64, the given labels, 255 for ignore.
            tags: (B, C), 0 or 1.

        Returns:
            (B, H, W), the labels to learn from.
        """
        probabilities = scores.softmax(1)
        known = mask != IGNORE
        found = probabilities.argmax(1)
        counts = torch.zeros_like(self.counts)
        for label in range(scores.shape[1]):
            given, own = mask == label, (found == label) & known
            counts[0, label], counts[1, label] = (given & own).sum(), (given | own).sum()
        self.counts += sum_over_ranks(counts)
        allowed = torch.cat([torch.ones_like(tags[:, :1]), tags], 1)[:, :, None, None]
        sure, best = (probabilities * allowed).max(1)
        corrected = known & self.learnt[mask.where(known, 0)] & (sure > self.settings.confidence)
        return best.where(corrected, mask)


def has_slowed(curve: Float64Array, share: float) -> bool:
    """Whether the slope of an IoU at its last epoch has fallen by more than a share of that at the first.

    Args:
        curve: (T,), the IoU after each epoch.
        share: 0..1.
    """
    if len(curve) < FEWEST or not np.isfinite(curve).all() or not curve.any():
        return False
    times = np.arange(1, len(curve) + 1)

    def miss(numbers: Float64Array) -> Float64Array:
        a, b, c = numbers
        residuals: Float64Array = a * (1 - np.exp(-b * times**c)) - curve
        return residuals

    a, b, c = least_squares(miss, (0.5, 1.0, 1.0), bounds=([0, 0, 0], [1, np.inf, np.inf])).x

    def slope(time: float) -> float:
        return float(a * b * c * time ** (c - 1) * np.exp(-b * time**c))

    first = slope(1)
    return first > 0 and 1 - slope(len(curve)) / first > share
