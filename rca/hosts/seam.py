"""SEAM: the maps of an image and of a rescaled view agree, and a pixel correlation module refines them.

Source: Wang, Zhang, Kan, Shan and Chen, Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
Segmentation, CVPR 2020. The loss is L_cls + L_ER + L_ECR. docs/methods.md lists the differences from the released code.
"""

import torch
from pydantic import Field
from torch import Tensor

from rca.core.distributed import mean_of_rows
from rca.core.normalisation import Normalisation, normalise_maps
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import Host, Levels
from rca.hosts.pixel_correlation import PixelCorrelation
from rca.models.output import Output, require
from rca.models.resizing import resize_maps


class SeamOptions(Settings):
    """The options of SEAM; the defaults are those of the released code.

    Attributes:
        equivariance_weight: Weight of the equivariant regularisation (ER) in the loss.
        cross_weight: Weight of the equivariant cross regularisation (ECR).
        min_pooling_weight: Weight of the adaptive min pooling, which keeps refined maps from covering the whole image.
        hard_share: ECR is the mean over this share of the values, those with the largest differences.
        normalisation: How inference brings the refined maps to 0..1. They are means over many positions, so they are
            nowhere 0; "max" leaves them so, which is better if an object may fill its image.
    """

    equivariance_weight: float = Field(default=1.0, ge=0)
    cross_weight: float = Field(default=1.0, ge=0)
    min_pooling_weight: float = Field(default=1.0, ge=0)
    hard_share: float = Field(default=0.2, gt=0, le=1)
    normalisation: Normalisation = "min_max"


class SeamHost(Host):
    """The classifier of the plain CAM, its maps refined by the pixel correlation module."""

    Options = SeamOptions
    needs_second_view = True
    needs_levels = True

    def __init__(
        self, channels: int, classes: int, options: SeamOptions | None = None, level_channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__(channels, classes, options, level_channels)
        self.options = options or SeamOptions()
        self.normalisation = self.options.normalisation
        self.correlation = PixelCorrelation(level_channels)

    def refine(self, output: Output, levels: Levels | None, tags: Tensor | None) -> Output:
        """Add the maps (B, C, h, w), 0..1, that the pixel correlation module refines from the method's.

        Each position spreads its strongest class only, and the background as the rest to 1. If the method's maps are
        shares already, it spreads these, and the method's background. So the refined maps and the spread background sum
        to 1 either way.
        """
        maps, valid = output.maps.detach(), output.valid
        if output.background is None:
            # Damped peaks lie below 1 by their height, so of two classes with their peaks at one position one is kept.
            strength = normalise_maps(maps.relu(), valid) * (1 if tags is None else tags[..., None, None])
            maps = strength * (strength == strength.amax(1, keepdim=True))
        return output._replace(refined=self.correlation(maps, require(levels, "needs_levels"), valid))

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """Classification of both views, ER, ECR and adaptive min pooling."""
        options, first, second = self.options, output, require(output.second, "needs_second_view")
        losses = super().compute_losses(output, batch, epoch)
        views = ((first.scores, first.valid), (second.scores, second.valid))
        tags, valid = batch.tags[..., None, None], second.valid
        size = (valid.shape[2], valid.shape[3])
        scaled = [scale_maps(view.maps, view.valid, size) * tags for view in (first, second)]
        if options.equivariance_weight:
            difference = find_difference(scaled[0], scaled[1], valid)
            losses["equivariance"] = options.equivariance_weight * mean_of_rows(difference)
        if options.cross_weight:
            refined = [scale_maps(add_background(maps), inside, size) for maps, inside in views]
            targets = [keep_strongest(maps.detach()) for maps in reversed(scaled)]
            shown = torch.cat([tags, torch.ones_like(tags[:, :1])], 1)
            crossed = [
                find_hardest(maps * shown, target, valid, options.hard_share)
                for maps, target in zip(refined, targets, strict=True)
            ]
            losses["cross"] = options.cross_weight * mean_of_rows(crossed[0] + crossed[1])
        if options.min_pooling_weight:
            lowest = [pool_lowest((maps * tags).amax(1), inside[:, 0]) for maps, inside in views]
            losses["min_pooling"] = options.min_pooling_weight * mean_of_rows((lowest[0] + lowest[1]) / 2)
        return losses


def scale_maps(maps: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps (B, C, h, w) to 0..1 each, after ReLU, and then to another size."""
    return resize_maps(normalise_maps(maps.relu(), valid, "min_max"), size)


def add_background(refined: Tensor) -> Tensor:
    """Refined maps (B, C, h, w) with the background as the last channel: 1 minus their sum."""
    return torch.cat([refined, 1 - refined.sum(1, keepdim=True)], 1)


def keep_strongest(maps: Tensor) -> Tensor:
    """The target of refined maps: the strongest class of maps (B, C, h, w) only, and 1 minus it as background."""
    best = maps.amax(1, keepdim=True)
    return torch.cat([maps * (maps == best), 1 - best], 1)


def find_difference(first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
    """Equivariant regularisation: the mean absolute difference between the maps of two views, per image.

    Args:
        first: (B, C, h, w).
        second: (B, C, h, w).
        valid: (B, 1, h, w), weights of 0..1.

    Returns:
        (B,).
    """
    return ((first - second).abs().mean(1, keepdim=True) * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))


def find_hardest(maps: Tensor, targets: Tensor, valid: Tensor, share: float) -> Tensor:
    """Equivariant cross regularisation: the mean of the largest absolute differences, per image.

    Args:
        maps: (B, K, h, w).
        targets: (B, K, h, w).
        valid: (B, 1, h, w), 0 on padding.
        share: The share of an image's values, without padding, that enter the mean.

    Returns:
        (B,).
    """
    differences = ((maps - targets).abs() * valid).flatten(1)
    counts = (share * (maps.shape[1] * (valid > 0).sum((1, 2, 3))).double()).long().clamp(min=1)
    largest = differences.topk(max(1, int(share * differences.shape[1]))).values
    return _mean_of_first(largest, counts)


def pool_lowest(maps: Tensor, valid: Tensor) -> Tensor:
    """Adaptive min pooling: the mean over the quarter of an image with the lowest values.

    Args:
        maps: (B, h, w), at least 0.
        valid: (B, h, w), 0 on padding.

    Returns:
        (B,).
    """
    flat = maps.masked_fill(valid == 0, torch.inf).flatten(1)
    counts = ((valid > 0).sum((1, 2)) // 4).clamp(min=1)
    return _mean_of_first(flat.topk(max(1, flat.shape[1] // 4), largest=False).values, counts)


def _mean_of_first(values: Tensor, counts: Tensor) -> Tensor:
    """The mean (B,) of the first `counts` (B,) of each row of values (B, K)."""
    first = torch.arange(values.shape[1], device=values.device) < counts[:, None]
    return values.where(first, 0).sum(1) / counts


HOST = SeamHost
