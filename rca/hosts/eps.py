"""EPS: saliency maps give the outlines of objects, tags their classes.

Source: Lee, Lee, Lee and Shim, Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised
Semantic Segmentation, CVPR 2021. The loss is L_cls + L_sal. docs/methods.md lists the differences from the released
code.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from rca.core.distributed import mean_of_rows
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import Host, Levels
from rca.models.output import Output
from rca.models.pooling import shrink_valid


class EpsOptions(Settings):
    """The options of EPS; the defaults are those of the released code for VOC.

    Attributes:
        saliency_weight: Weight of the saliency loss.
        overlap: The map of a tagged class counts as foreground if more than this share of the area that it covers is
            salient (tau); otherwise it counts as background, as a class that saliency misses.
        foreground_share: Weight of the foreground in the estimated saliency, against 1 - background (lambda; 0.9 for
            COCO).
    """

    saliency_weight: float = Field(default=1.0, ge=0)
    overlap: float = Field(default=0.4, ge=0, lt=1)
    foreground_share: float = Field(default=0.5, ge=0, le=1)


class EpsHost(Host):
    """The classifier of the plain CAM with a map of the background beside it, both also trained on saliency."""

    Options = EpsOptions
    needs_saliency = True

    def __init__(
        self, channels: int, classes: int, options: EpsOptions | None = None, level_channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__(channels, classes, options, level_channels)
        self.options = options or EpsOptions()
        self.background = nn.Conv2d(channels, 1, 1, bias=False)

    def refine(self, output: Output, levels: Levels | None, tags: Tensor | None) -> Output:
        """Add the probability of each class (B, C, h, w), 0..1, against the others and the background.

        If the method's maps are shares already, they stay as they are.
        """
        if output.background is not None:
            return output
        return output._replace(refined=self.compare(output)[:, :-1] * (output.valid > 0))

    def compare(self, output: Output) -> Tensor:
        """The probability of each class and, as the last channel, of the background (B, C + 1, h, w)."""
        return torch.cat([output.maps, self.background(output.features)], 1).softmax(1)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """Classification, and the difference between estimated and given saliency, averaged over the views."""
        losses = super().compute_losses(output, batch, epoch)
        if self.options.saliency_weight:
            views = (output,) if output.second is None else (output, output.second)
            differences = [self.compare_saliency(view, batch) for view in views]
            loss = mean_of_rows(batch.weight * torch.stack(differences).mean(0))
            losses["saliency"] = self.options.saliency_weight * loss
        return losses

    def compare_saliency(self, output: Output, batch: Sample) -> Tensor:
        """The saliency loss of each image of a view (B,)."""
        return self.saliency_loss(self.compare(output), output.valid, batch)

    def saliency_loss(self, probabilities: Tensor, valid: Tensor, batch: Sample) -> Tensor:
        """The mean squared difference between estimated and given saliency, per image.

        Args:
            probabilities: (B, C + 1, h, w), of the classes and, last, the background.
            valid: (B, 1, h, w), weights of 0..1.
            batch: The batch.

        Returns:
            (B,).
        """
        saliency = shrink_saliency(batch.saliency, batch.valid, (valid.shape[2], valid.shape[3]))
        estimate = estimate_saliency(
            probabilities, saliency, batch.tags, valid, self.options.overlap, self.options.foreground_share
        )
        return ((estimate - saliency).square() * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))


def shrink_saliency(saliency: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean saliency of the part of the image in each feature's field.

    Args:
        saliency: (B, 1, H, W), 0 on padding.
        valid: (B, 1, H, W), 1 on the image and 0 on padding.
        size: Height and width of the features.

    Returns:
        (B, 1, h, w), 0 on padding.
    """
    return shrink_valid(saliency * valid, size) / shrink_valid(valid, size).clamp(min=1e-5)


def estimate_saliency(
    probabilities: Tensor, saliency: Tensor, tags: Tensor, valid: Tensor, overlap: float, foreground_share: float
) -> Tensor:
    """The saliency that the maps predict (EPS, section 3.2).

    Args:
        probabilities: (B, C + 1, h, w), of the classes and, last, the background.
        saliency: (B, 1, h, w), 0..1.
        tags: (B, C) of 0 and 1.
        valid: (B, 1, h, w), 0 on padding.
        overlap: The share of the area covered by a class's map that must be salient, exclusive. A map covers the
            positions where it exceeds 0.5.
        foreground_share: The weight of the foreground, against 1 - background.

    Returns:
        (B, 1, h, w), 0..1.
    """
    objects, background = probabilities[:, :-1], probabilities[:, -1:]
    covered = ((objects > 0.5) & (valid > 0)).float()
    shared = (covered * (saliency > 0.5)).sum((2, 3)) / covered.sum((2, 3)).clamp(min=1)
    foreground = (tags * (shared > overlap))[..., None, None]
    missed = tags[..., None, None] - foreground
    salient = (objects * foreground).sum(1, keepdim=True)
    rest = 1 - background - (objects * missed).sum(1, keepdim=True)
    return foreground_share * salient + (1 - foreground_share) * rest


HOST = EpsHost
