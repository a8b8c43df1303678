"""HSC: contrast objects with background, classes with classes, and positions with classes, in two views of a batch.

Source: Wu, Li, Dai, Li, Liu and Xie, Hierarchical Semantic Contrast for Weakly Supervised Semantic Segmentation, IJCAI
2023. The loss is the host's loss + ROI-level + class-level + pixel-level contrast; inference is the host's. The
formulas are those of the released code without its defects, which docs/methods.md lists.
"""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rca.core.distributed import divide_by_count, gather_rows, gather_with_gradient
from rca.core.normalisation import normalise_maps
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.methods.base import Method
from rca.methods.parts.pixel_refinement import refine_by_pixels
from rca.methods.parts.view_contrast import MovingPrototypes, attract, contrast_prototypes, pool_strongest, repel
from rca.models.output import Output, require
from rca.models.pooling import pool_regions


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
        positions: Number of positions of a batch that make up the embedding of a class: those where its map is highest.
    """

    weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    positions: int = Field(default=128, ge=1)


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

    iterations: int = Field(default=0, ge=0)
    dilations: tuple[int, ...] = Field(default=(1, 2), min_length=1)


class HscOptions(Settings):
    """The options of HSC; the defaults are the published ones, without the dense CRF on each pseudo label.

    Attributes:
        background: A pseudo label is background where no tagged map exceeds this, with each map normalised as the host
            does at inference.
        start_epoch: The first epoch with contrast, counted from 0.
        cross_supervision: Whether the pseudo labels and prototypes of one view also supervise the other.
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
    start_epoch: int = Field(default=0, ge=0)
    cross_supervision: bool = True
    momentum: float = Field(default=0.5, ge=0, lt=1)
    prototype_positions: int = Field(default=16, ge=1)
    region_channels: int = Field(default=256, ge=1)
    pixel_channels: int = Field(default=128, ge=1)
    roi_level: RoiLevelOptions = RoiLevelOptions()
    class_level: ClassLevelOptions = ClassLevelOptions()
    pixel_level: PixelLevelOptions = PixelLevelOptions()
    refinement: RefinementOptions = RefinementOptions()


class EmbeddedView(NamedTuple):
    """The embeddings and pseudo labels of one view of a batch, at the size of the second view's maps; N is B x h x w.

    Attributes:
        weights: (N, C + 1), 0..1: the share of each tagged class at each position, and of the background (last).
        labels: (N,), int64: the pseudo label, C for the background, -1 on padding.
        pixels: (N, P), the embeddings of positions, L2-normalised.
        regions: (N, E), the embeddings that regions are pooled from, not normalised.
        objects: (B, E), the embedding of each image's objects, L2-normalised.
        backgrounds: (B, E), the embedding of each image's background, L2-normalised.
        present: (B, 2), bool: whether the image has objects, and whether it has background.
    """

    weights: Tensor
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
        self.roi_prototypes = MovingPrototypes((2, wide), options.momentum)
        self.class_prototypes = MovingPrototypes((2, rows, wide), options.momentum)
        self.pixel_prototypes = MovingPrototypes((rows, narrow), options.momentum)

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
        size = (valid.shape[2], valid.shape[3])
        scaled = normalise_maps(view.scores.detach().relu(), view.valid, self.host.normalisation)
        shares = _resize(scaled, size) * batch.tags[..., None, None] * (valid > 0)
        labels = self._label(shares, valid, batch.image)
        masks = torch.stack([(labels >= 0) & (labels < shares.shape[1]), labels == shares.shape[1]], 1)
        background = (1 - shares.amax(1, keepdim=True)) * masks[:, 1:]
        pixels, regions = (
            _resize(project(view.features), size) for project in (self.project_pixels, self.project_regions)
        )
        objects, backgrounds = functional.normalize(pool_regions(regions, masks.float()), dim=2).unbind(1)
        return EmbeddedView(
            weights=_to_rows(torch.cat([shares, background], 1)),
            labels=labels.flatten(),
            pixels=functional.normalize(_to_rows(pixels), dim=1),
            regions=_to_rows(regions),
            objects=objects,
            backgrounds=backgrounds,
            present=masks.flatten(2).any(2),
        )

    def _label(self, shares: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """Pseudo labels (B, h, w) from the shares of the tagged maps: the highest, or background (C); -1 on padding."""
        scores = torch.cat([shares, torch.full_like(shares[:, :1], self.options.background)], 1)
        refinement = self.options.refinement
        if refinement.iterations:
            small = functional.adaptive_avg_pool2d(images, (valid.shape[2], valid.shape[3]))
            scores = refine_by_pixels(scores, small, valid, refinement.dilations, refinement.iterations)
        return scores.argmax(1).masked_fill(valid[:, 0] == 0, -1)

    def _contrast_regions(self, views: ViewPair) -> Tensor:
        """ROI level: push objects and backgrounds of the whole batch apart, pull each towards its moving prototype."""
        objects = [gather_with_gradient(view.objects) for view in views]
        backgrounds = [gather_with_gradient(view.backgrounds) for view in views]
        present = [gather_rows(view.present)[0] for view in views]

        def repel_views(of_background: int, of_objects: int) -> Tensor:
            present_parts = present[of_background][:, 1], present[of_objects][:, 0]
            return repel(backgrounds[of_background], objects[of_objects], *present_parts)

        loss = (repel_views(0, 0) + repel_views(1, 1)) / 2
        if self.options.cross_supervision:
            loss = loss + (repel_views(0, 1) + repel_views(1, 0)) / 2
        vectors, known = self.roi_prototypes.vectors.clone(), self.roi_prototypes.known
        both_present, means = torch.cat(present), []
        for number, rows in enumerate((torch.cat(objects), torch.cat(backgrounds))):
            loss = loss + attract(rows, both_present[:, number] & known[number], vectors[number])
            means.append(functional.normalize((rows.detach() * both_present[:, number, None]).sum(0), dim=0))
        self.roi_prototypes.update(torch.stack(means), both_present.any(0))
        return loss

    def _contrast_classes(self, views: ViewPair) -> Tensor:
        """Class level: the embedding of each class against the prototypes of its own view and of the other view."""
        options, prototypes = self.options.class_level, self.class_prototypes
        vectors, known = prototypes.vectors.clone(), prototypes.known.clone()
        loss, updates = vectors.new_zeros(()), []
        for number, view in enumerate(views):
            queries, present = pool_strongest(view.regions, view.weights[:, :-1], options.positions)
            labels = torch.arange(len(queries), device=queries.device).where(present, -1)
            for bank in (number, 1 - number) if self.options.cross_supervision else (number,):
                total, count = contrast_prototypes(queries, labels, vectors[bank], known[bank], options.temperature)
                loss = loss + total / count.clamp(min=1)
            updates.append(pool_strongest(view.regions.detach(), view.weights, self.options.prototype_positions))
        prototypes.update(*(torch.stack(parts) for parts in zip(*updates, strict=True)))
        return loss / 4

    def _contrast_pixels(self, views: ViewPair) -> Tensor:
        """Pixel level: positions against the prototypes of the batch, of either view, and against the moving ones."""
        bank, positions = self.pixel_prototypes, self.options.prototype_positions
        current = [pool_strongest(view.pixels.detach(), view.weights, positions) for view in views]
        moving = (bank.vectors.clone(), bank.known.clone())
        terms = []
        for number, other in ((0, 1), (1, 0)):
            pixels, labels = views[number].pixels, views[number].labels
            terms += [(pixels, labels, *current[number]), (pixels, labels, *moving)]
            if self.options.cross_supervision:
                terms += [(pixels, labels, *current[other]), (pixels, views[other].labels, *current[number])]
        temperature = self.options.pixel_level.temperature
        losses = [divide_by_count(*contrast_prototypes(*term, temperature)) for term in terms]
        (first, first_present), (second, second_present) = current
        joined = first * first_present[:, None] + second * second_present[:, None]
        bank.update(functional.normalize(joined, dim=1), first_present | second_present)
        return torch.stack(losses).sum() / 2


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else functional.interpolate(maps, size, mode="bilinear")


def _to_rows(maps: Tensor) -> Tensor:
    """(B, D, h, w) as (N, D)."""
    return maps.movedim(1, 3).flatten(0, 2)


METHOD = Hsc
