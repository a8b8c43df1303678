"""HSC: contrast of objects and background, of classes and of positions, between two views of a batch.

Source: Wu, Li, Dai, Li, Liu and Xie, Hierarchical Semantic Contrast for Weakly Supervised Semantic Segmentation, IJCAI
2023. The loss is the host's + ROI-level + class-level + pixel-level contrast; inference is the host's. The formulas are
those of the released code, without its defects: docs/methods.md says which.
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
        weight: Of the term in the loss; 0 leaves it out.
    """

    weight: float = Field(default=0.1, ge=0)


class ClassLevelOptions(Settings):
    """Classes against each other.

    Attributes:
        weight: Of the term in the loss; 0 leaves it out.
        temperature: Of the InfoNCE.
        positions: How many positions of a batch make up a class's embedding, those where its map is highest.
    """

    weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    positions: int = Field(default=128, ge=1)


class PixelLevelOptions(Settings):
    """Positions against the prototypes of classes.

    Attributes:
        weight: Of the term in the loss; 0 leaves it out.
        temperature: Of the InfoNCE.
    """

    weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.1, gt=0)


class RefinementOptions(Settings):
    """Pixel-adaptive refinement of the scores that pseudo labels are made of.

    Attributes:
        iterations: 0 leaves it out.
        dilations: Distances, in positions of the maps, at which a position has neighbours.
    """

    iterations: int = Field(default=0, ge=0)
    dilations: tuple[int, ...] = Field(default=(1, 2), min_length=1)


class HscOptions(Settings):
    """The options of HSC; the defaults are the published ones, but for the dense CRF on each pseudo label.

    Attributes:
        background: A position is background in a pseudo label where no tagged map exceeds this, each brought to 0..1
            as the host does at inference.
        start_epoch: The first epoch with contrast, counted from 0.
        cross_supervision: Whether one view's pseudo labels and prototypes supervise the other too.
        momentum: How much of a prototype remains in an update.
        prototype_positions: How many positions of a batch make up a class's prototype.
        region_channels: Of the embeddings at ROI and class level.
        pixel_channels: Of those at pixel level.
        roi_level: Objects against background.
        class_level: Classes against each other.
        pixel_level: Positions against the prototypes of classes.
        refinement: Of the pseudo labels.
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


class View(NamedTuple):
    """What HSC takes from one view of a batch, all at the size of the second view's maps; N is B x h x w.

    Attributes:
        weights: (N, C + 1), 0..1: how far each position is of each tagged class, and of the background (last).
        labels: (N,), int64: the pseudo label, C for the background, -1 on padding.
        pixels: (N, P), L2-normalised, the embeddings of positions.
        regions: (N, E), likewise, those that regions are pooled from, before normalisation.
        objects: (B, E), L2-normalised, each image's object region.
        backgrounds: (B, E), likewise its background.
        present: (B, 2), bool: whether the image has either.
    """

    weights: Tensor
    labels: Tensor
    pixels: Tensor
    regions: Tensor
    objects: Tensor
    backgrounds: Tensor
    present: Tensor


Pair = tuple[View, View]


class Hsc(Method):
    """Hierarchical semantic contrast."""

    Options = HscOptions
    needs_second_view = True

    def __init__(self, options: HscOptions, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        wide, narrow, rows = options.region_channels, options.pixel_channels, classes + 1
        # The released code has a BatchNorm after the first, which is frozen as it begins and so does nothing.
        layers = (nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, wide, 1))
        self.project_regions = nn.Sequential(*layers)
        self.project_pixels = nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.ReLU())
        self.roi_prototypes = MovingPrototypes((2, wide), options.momentum)
        self.class_prototypes = MovingPrototypes((2, rows, wide), options.momentum)
        self.pixel_prototypes = MovingPrototypes((rows, narrow), options.momentum)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The host's terms and the contrast at three levels; then the prototypes move."""
        options, losses = self.options, super().compute_losses(output, batch, epoch)
        if epoch < options.start_epoch:
            return losses
        second_view = require(output.second, "needs_second_view")
        first, second = (self._look(view, second_view.valid, batch) for view in (output, second_view))
        if options.roi_level.weight:
            losses["roi"] = options.roi_level.weight * self._contrast_regions((first, second))
        if options.class_level.weight:
            losses["class"] = options.class_level.weight * self._contrast_classes((first, second))
        if options.pixel_level.weight:
            losses["pixel"] = options.pixel_level.weight * self._contrast_pixels((first, second))
        return losses

    def _look(self, view: Output, valid: Tensor, batch: Sample) -> View:
        """Embeddings and pseudo labels of a view; `valid` is that of the second one."""
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
        return View(
            _to_rows(torch.cat([shares, background], 1)),
            labels.flatten(),
            functional.normalize(_to_rows(pixels), dim=1),
            _to_rows(regions),
            objects,
            backgrounds,
            masks.flatten(2).any(2),
        )

    def _label(self, shares: Tensor, valid: Tensor, images: Tensor) -> Tensor:
        """Pseudo labels (B, h, w) of the tagged maps' shares: the highest, or the background (C); -1 on padding."""
        scores = torch.cat([shares, torch.full_like(shares[:, :1], self.options.background)], 1)
        refinement = self.options.refinement
        if refinement.iterations:
            small = functional.adaptive_avg_pool2d(images, (valid.shape[2], valid.shape[3]))
            scores = refine_by_pixels(scores, small, valid, refinement.dilations, refinement.iterations)
        return scores.argmax(1).masked_fill(valid[:, 0] == 0, -1)

    def _contrast_regions(self, views: Pair) -> Tensor:
        """ROI level: objects and backgrounds of the whole batch apart, each close to what it is in other batches."""
        objects = [gather_with_gradient(view.objects) for view in views]
        backgrounds = [gather_with_gradient(view.backgrounds) for view in views]
        present = [gather_rows(view.present)[0] for view in views]

        def repel_views(one: int, two: int) -> Tensor:
            return repel(backgrounds[one], objects[two], present[one][:, 1], present[two][:, 0])

        loss = (repel_views(0, 0) + repel_views(1, 1)) / 2
        if self.options.cross_supervision:
            loss = loss + (repel_views(0, 1) + repel_views(1, 0)) / 2
        vectors, known = self.roi_prototypes.vectors.clone(), self.roi_prototypes.known
        here, means = torch.cat(present), []
        for number, rows in enumerate((torch.cat(objects), torch.cat(backgrounds))):
            loss = loss + attract(rows, here[:, number] & known[number], vectors[number])
            means.append(functional.normalize((rows.detach() * here[:, number, None]).sum(0), dim=0))
        self.roi_prototypes.update(torch.stack(means), here.any(0))
        return loss

    def _contrast_classes(self, views: Pair) -> Tensor:
        """Class level: each class's embedding against the prototypes of its own view, and of the other."""
        options, prototypes = self.options.class_level, self.class_prototypes
        vectors, known = prototypes.vectors.clone(), prototypes.known.clone()
        loss, found = vectors.new_zeros(()), []
        for number, view in enumerate(views):
            queries, present = pool_strongest(view.regions, view.weights[:, :-1], options.positions)
            labels = torch.arange(len(queries), device=queries.device).where(present, -1)
            for bank in (number, 1 - number) if self.options.cross_supervision else (number,):
                total, count = contrast_prototypes(queries, labels, vectors[bank], known[bank], options.temperature)
                loss = loss + total / count.clamp(min=1)
            found.append(pool_strongest(view.regions.detach(), view.weights, self.options.prototype_positions))
        prototypes.update(*(torch.stack(parts) for parts in zip(*found, strict=True)))
        return loss / 4

    def _contrast_pixels(self, views: Pair) -> Tensor:
        """Pixel level: positions against the batch's prototypes of either view, and against the moving ones."""
        bank, number = self.pixel_prototypes, self.options.prototype_positions
        own = [pool_strongest(view.pixels.detach(), view.weights, number) for view in views]
        moving = (bank.vectors.clone(), bank.known.clone())
        terms = []
        for one, two in ((0, 1), (1, 0)):
            pixels, labels = views[one].pixels, views[one].labels
            terms += [(pixels, labels, *own[one]), (pixels, labels, *moving)]
            if self.options.cross_supervision:
                terms += [(pixels, labels, *own[two]), (pixels, views[two].labels, *own[one])]
        temperature = self.options.pixel_level.temperature
        losses = [divide_by_count(*contrast_prototypes(*term, temperature)) for term in terms]
        (first, first_present), (second, second_present) = own
        joined = first * first_present[:, None] + second * second_present[:, None]
        bank.update(functional.normalize(joined, dim=1), first_present | second_present)
        return torch.stack(losses).sum() / 2


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else functional.interpolate(maps, size, mode="bilinear")


def _to_rows(maps: Tensor) -> Tensor:
    """(B, D, h, w) as (N, D)."""
    return maps.movedim(1, 3).flatten(0, 2)


METHOD = Hsc
