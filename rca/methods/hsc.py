"""HSC: contrast objects with background, classes with classes, and positions with classes, in two views of a batch.

Source: Wu, Li, Dai, Li, Liu and Xie, Hierarchical Semantic Contrast for Weakly Supervised Semantic Segmentation, IJCAI
2023. The loss is the host's loss + ROI-level + class-level + pixel-level contrast; inference is the host's. The
formulas are those of the released code without its defects, which docs/methods.md lists.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rca.core.distributed import divide_by_count, gather_rows, gather_with_gradient
from rca.core.normalisation import Normalisation, normalise_maps
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.methods.base import Method
from rca.methods.parts.pixel_refinement import refine_by_pixels
from rca.methods.parts.view_contrast import MovingPrototypes, attract, contrast_prototypes, pool_strongest, repel
from rca.models.output import Output, require
from rca.models.pooling import pool_regions
from rca.models.resizing import resize_maps


class RoiLevelOptions(Settings):
    """Objects against background.

    Attributes:
        weight: Weight of the term in the loss; 0 leaves it out.
    """

    weight: float = Field(default=0.1, ge=0)


class ClassLevelOptions(Settings):
    """Classes against each other.

    Attributes:
        weight: Weight of the term in the loss; 0 leaves it out.
        temperature: Temperature of the InfoNCE.
        positions: Number of positions of a batch that make up the embedding of a class: those with the largest weights.
        pooling: The weights. "softmax" is the softmax of the tagged maps, with 0 for the other classes; with maps of
            0..1 it is nearly uniform. "shares" is the class's map itself.
    """

    weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    positions: int = Field(default=128, ge=1, le=1 << 16)
    pooling: Literal["softmax", "shares"] = "softmax"


class PixelLevelOptions(Settings):
    """Positions against the prototypes of classes.

    Attributes:
        weight: Weight of the term in the loss; 0 leaves it out.
        temperature: Temperature of the InfoNCE.
    """

    weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.1, gt=0)


class RefinementOptions(Settings):
    """Pixel-adaptive refinement of the scores before they become pseudo labels.

    Attributes:
        iterations: Number of steps; 0 leaves it out.
        dilations: Distances of a position's neighbours, in positions of the maps.
    """

    iterations: int = Field(default=0, ge=0, le=1000)
    dilations: tuple[int, ...] = Field(default=(1, 2), min_length=1)


class HscOptions(Settings):
    """The options of HSC; the defaults are the published ones, without the dense CRF on each pseudo label.

    Attributes:
        background: A pseudo label is background where no tagged map exceeds this.
        normalisation: How the maps of a view are brought to 0..1.
        start_epoch: The first epoch with contrast, counted from 0.
        cross_supervision: Whether the embeddings, pseudo labels and prototypes of one view also supervise the other.
        momentum: Share of a prototype that remains in an update.
        prototype_positions: Number of positions of a batch that make up the prototype of a class.
        region_channels: Channels of the embeddings at ROI and class level.
        pixel_channels: Channels of the embeddings at pixel level.
        roi_level: Objects against background.
        class_level: Classes against each other.
        pixel_level: Positions against the prototypes of classes.
        refinement: Refinement of the pseudo labels.
    """

    background: float = Field(default=0.1, gt=0, lt=1)
    normalisation: Normalisation = "min_max"
    start_epoch: int = Field(default=0, ge=0)
    cross_supervision: bool = True
    momentum: float = Field(default=0.5, ge=0, lt=1)
    prototype_positions: int = Field(default=16, ge=1, le=1 << 16)
    region_channels: int = Field(default=256, ge=1, le=1 << 16)
    pixel_channels: int = Field(default=128, ge=1, le=1 << 16)
    roi_level: RoiLevelOptions = RoiLevelOptions()
    class_level: ClassLevelOptions = ClassLevelOptions()
    pixel_level: PixelLevelOptions = PixelLevelOptions()
    refinement: RefinementOptions = RefinementOptions()


class EmbeddedView(NamedTuple):
    """The embeddings and pseudo labels of one view of a batch, at the size of the second view's maps; N is B x h x w.

    Attributes:
        weights: (N, C + 1), 0..1: the share of each tagged class at each position, and of the background (last).
        class_weights: (N, C + 1), 0..1: the weights of class level, the background's as in `weights`.
        shown: (C + 1,), bool: which classes an image of the whole batch shows; the background always.
        labels: (N,), int64: the pseudo label, C for the background, -1 on padding.
        pixels: (N, P), the embeddings of positions, not normalised.
        regions: (N, E), the embeddings that regions are pooled from, not normalised.
        objects: (B, E), the embedding of each image's objects, L2-normalised.
        backgrounds: (B, E), the embedding of each image's background, L2-normalised.
        present: (B, 2), bool: whether the image has objects, and whether it has background.
    """

    weights: Tensor
    class_weights: Tensor
    shown: Tensor
    labels: Tensor
    pixels: Tensor
    regions: Tensor
    objects: Tensor
    backgrounds: Tensor
    present: Tensor


ViewPair = tuple[EmbeddedView, EmbeddedView]


class Hsc(Method):
    """Hierarchical semantic contrast."""

    Options = HscOptions
    needs_second_view = True

    def __init__(self, options: HscOptions, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        wide, narrow, rows = options.region_channels, options.pixel_channels, classes + 1
        # The released code has a BatchNorm after the first layer; it is frozen at its initial values and does nothing.
        layers = (nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, wide, 1))
        self.project_regions = nn.Sequential(*layers)
        self.project_pixels = nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.ReLU())
        # The first dimension is the view: each has a bank of its own. ROI level has a row of objects and of background.
        self.roi_prototypes = MovingPrototypes((2, 2, wide), options.momentum, normalised=False)
        self.class_prototypes = MovingPrototypes((2, rows, wide), options.momentum, normalised=False)
        self.pixel_prototypes = MovingPrototypes((2, rows, narrow), options.momentum, normalised=False)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The host's terms and the contrast at three levels; then update the prototypes."""
        options, losses = self.options, super().compute_losses(output, batch, epoch)
        if epoch < options.start_epoch:
            return losses
        second_view = require(output.second, "needs_second_view")
        views = self._embed(output, second_view.valid, batch), self._embed(second_view, second_view.valid, batch)
        if options.roi_level.weight:
            losses["roi"] = options.roi_level.weight * self._contrast_regions(views)
        if options.class_level.weight:
            losses["class"] = options.class_level.weight * self._contrast_classes(views)
        if options.pixel_level.weight:
            losses["pixel"] = options.pixel_level.weight * self._contrast_pixels(views)
        return losses

    def _embed(self, view: Output, valid: Tensor, batch: Sample) -> EmbeddedView:
        """Embeddings and pseudo labels of a view; `valid` is that of the second view."""
        size, tags = (valid.shape[2], valid.shape[3]), batch.tags[..., None, None]
        scores = resize_maps(view.scores.detach().relu() * (view.valid > 0), size)
        shares = normalise_maps(scores, valid, self.options.normalisation) * tags * (valid > 0)
        labels = self._label(shares, valid, batch.image)
        masks = torch.stack([(labels >= 0) & (labels < shares.shape[1]), labels == shares.shape[1]], 1)
        background = (1 - shares.amax(1, keepdim=True)) * masks[:, 1:]
        class_weights = shares
        if self.options.class_level.pooling == "softmax":
            class_weights = self._add_background(shares).softmax(1)[:, :-1] * (valid > 0)
        pixels, regions = (
            resize_maps(project(view.features), size) for project in (self.project_pixels, self.project_regions)
        )
        objects, backgrounds = functional.normalize(pool_regions(regions, masks.to(regions.dtype)), dim=2).unbind(1)
        return EmbeddedView(
            weights=_to_rows(torch.cat([shares, background], 1)),
            class_weights=_to_rows(torch.cat([class_weights, background], 1)),
            shown=functional.pad(gather_rows(batch.tags)[0].any(0), (0, 1), value=True),
            labels=labels.flatten(),
            pixels=_to_rows(pixels),
            regions=_to_rows(regions),
            objects=objects,
            backgrounds=backgrounds,
            present=masks.flatten(2).any(2),
        )

    def _add_background(self, shares: Tensor) -> Tensor:
        """The shares and, as the last channel, the constant score of the background."""
        return torch.cat([shares, torch.full_like(shares[:, :1], self.options.background)], 1)

    def _label(self, shares: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """Pseudo labels (B, h, w) from the shares of the tagged maps: the highest, or background (C); -1 on padding."""
        scores = self._add_background(shares)
        refinement = self.options.refinement
        if refinement.iterations:
            small = functional.adaptive_avg_pool2d(images, (valid.shape[2], valid.shape[3]))
            scores = refine_by_pixels(scores, small, valid, refinement.dilations, refinement.iterations)
        return scores.argmax(1).masked_fill(valid[:, 0] == 0, -1)

    def _contrast_regions(self, views: ViewPair) -> Tensor:
        """ROI level: push objects and backgrounds of the batch apart, pull each towards the moving one of its view."""
        parts = [[gather_with_gradient(one) for one in (view.objects, view.backgrounds)] for view in views]
        present = [gather_rows(view.present)[0].unbind(1) for view in views]

        def repel_views(of_background: int, of_objects: int) -> Tensor:
            rows, others = parts[of_background][1], parts[of_objects][0]
            return repel(rows, others, present[of_background][1], present[of_objects][0])

        loss = (repel_views(0, 0) + repel_views(1, 1)) / 2
        if self.options.cross_supervision:
            loss = loss + (repel_views(0, 1) + repel_views(1, 0)) / 2
        vectors, known = self.roi_prototypes.vectors.clone(), self.roi_prototypes.known.clone()
        means = torch.zeros_like(vectors)
        for view, part in ((0, 0), (0, 1), (1, 0), (1, 1)):
            rows, there = parts[view][part], present[view][part]
            loss = loss + attract(rows, there & known[view, part], vectors[view, part]) / 2
            means[view, part] = (rows.detach() * there[:, None]).sum(0) / there.sum().clamp(min=1)
        self.roi_prototypes.update(means, torch.stack([torch.stack(view).any(1) for view in present]))
        return loss

    def _contrast_classes(self, views: ViewPair) -> Tensor:
        """Class level: the embedding of each class against the prototypes of its own view and of the other view."""
        options, prototypes = self.options.class_level, self.class_prototypes
        vectors, known = functional.normalize(prototypes.vectors, dim=2), prototypes.known.clone()
        loss, updates = vectors.new_zeros(()), []
        for number, view in enumerate(views):
            queries, present = pool_strongest(view.regions, view.class_weights[:, :-1], options.positions)
            labels = torch.arange(len(queries), device=queries.device).where(present & view.shown[:-1], -1)
            for bank in (number, 1 - number) if self.options.cross_supervision else (number,):
                total, count = contrast_prototypes(queries, labels, vectors[bank], known[bank], options.temperature)
                loss = loss + total / count.clamp(min=1)
            means, present = pool_strongest(view.regions.detach(), view.class_weights, self.options.prototype_positions)
            updates.append((means, present & view.shown))
        prototypes.update(*(torch.stack(parts) for parts in zip(*updates, strict=True)))
        return loss / 4

    def _contrast_pixels(self, views: ViewPair) -> Tensor:
        """Pixel level: positions against the prototypes of the batch, of either view, and against the moving ones."""
        banks, positions = self.pixel_prototypes, self.options.prototype_positions
        current = [pool_strongest(view.pixels.detach(), view.weights, positions) for view in views]
        vectors, known = banks.vectors.clone(), banks.known.clone()
        terms = []
        for number, other in ((0, 1), (1, 0)):
            pixels, labels = functional.normalize(views[number].pixels, dim=1), views[number].labels
            terms += [(pixels, labels, *current[number]), (pixels, labels, vectors[number], known[number])]
            if self.options.cross_supervision:
                terms += [(pixels, labels, *current[other]), (pixels, views[other].labels, *current[number])]
        temperature = self.options.pixel_level.temperature
        losses = [divide_by_count(*contrast_prototypes(*term, temperature)) for term in terms]
        banks.update(*(torch.stack(parts) for parts in zip(*current, strict=True)))
        return torch.stack(losses).sum() / 2


def _to_rows(maps: Tensor) -> Tensor:
    """(B, D, h, w) as (N, D)."""
    return maps.movedim(1, 3).flatten(0, 2)


METHOD = Hsc
