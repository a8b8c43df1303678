"""RCA: regional semantic contrast and aggregation.

Source: Zhou, Zhang, Zhao and Li, Regional Semantic Contrast and Aggregation for Weakly Supervised Semantic
Segmentation, CVPR 2022. The loss is L_CE(aggregated) + 0.4 L_CE(auxiliary) + weight x L_NCE (the paper's total loss).
Where paper and released code differ, the default is the code's and the paper's is an option (docs/methods.md).
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from rca.core.distributed import (
    count_rows,
    draw_once,
    find_first_row,
    gather_rows,
    gather_with_gradient,
    mean_of_rows,
    rank,
    world_size,
)
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.methods.base import Method
from rca.methods.parts.contrast import contrast_mixed, contrast_regions, draw_partners
from rca.methods.parts.heads import build_head, build_projection
from rca.methods.parts.memory import MemoryBank, Update
from rca.methods.parts.prototypes import ParametricAggregation, aggregate_prototypes, cluster_memory
from rca.methods.parts.regions import Regions, find_regions, locate_regions
from rca.models.output import Output
from rca.models.pooling import pool_mean, pool_regions

PLAIN = "plain"
"""The extra output (B, C, h, w): the auxiliary head's maps of the features alone, if there is an aggregation."""
RELEASED_SCALE = 20.0
"""The released code's factor on dot products, which it also divides by the number of prototypes."""


class MemoryOptions(Settings):
    """The memory bank, of regions' mean features as they are.

    Attributes:
        size: Slots per class; with 0 a batch is contrasted with itself only.
        update: "ring" blends a region into the next slot of its class, whatever image that one came from (the released
            code); "momentum" into the slot of the same image (the paper); "fifo" overwrites the oldest region.
        momentum: Share of a slot that remains when a region is blended in.
        gate: A region enters only if the classifier's probability of its class is above this.
    """

    size: int = Field(default=500, ge=0, le=1_000_000)
    update: Update = "ring"
    momentum: float = Field(default=0.99, ge=0, le=1)
    gate: float = Field(default=0.7, ge=0, lt=1)


class ContrastOptions(Settings):
    """The semantic contrast.

    Attributes:
        weight: Weight of the term in the loss; 0 leaves it out.
        reduction: "sum" of the images' means over their regions (the released code), or the "mean" over all regions of
            a batch.
        projection: What is projected before the contrast (3x3, BatchNorm, ReLU, 3x3): "queries" but not the bank (the
            released code), or "none".
        temperature: Temperature of the InfoNCE.
        start_epoch: The first epoch with contrast, counted from 0; the bank fills before.
        mixup: a of Beta(a, a), from which the shares of mixed embeddings are drawn; null does not mix.
        hard_negatives: Number of negatives that count, the most similar to the query; null for all.
    """

    weight: float = Field(default=0.01, ge=0)
    reduction: Literal["sum", "mean"] = "sum"
    projection: Literal["queries", "none"] = "queries"
    temperature: float = Field(default=0.07, gt=0)
    start_epoch: int = Field(default=2, ge=0)
    mixup: float | None = Field(default=8.0, gt=0)
    hard_negatives: int | None = Field(default=None, ge=1)


class AggregationOptions(Settings):
    """The semantic aggregation: a 1x1 convolution of each position's features and their mixture of prototypes.

    Attributes:
        form: How prototypes are mixed. "released": with learned queries, keys and values, and dot products times
            20 / prototypes as weights (the released code). "softmax": without parameters, the weights a softmax over
            all prototypes (the paper). "parametric": as released, but with the weights of scaled dot-product
            attention. "none" leaves the aggregation out, and the auxiliary head is the only one.
        prototypes: Prototypes per class.
        similarity: What the softmax is over: the dot product (the paper) or the cosine ("softmax").
        temperature: The similarity is divided by it ("softmax").
        start_epoch: The first epoch with prototypes, counted from 0; they are clustered before each epoch.
        auxiliary_weight: Weight of the classification loss of the auxiliary head.
    """

    form: Literal["none", "softmax", "parametric", "released"] = "released"
    prototypes: int = Field(default=10, ge=1, le=1 << 16)
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(default=1.0, gt=0)
    start_epoch: int = Field(default=1, ge=0)
    auxiliary_weight: float = Field(default=0.4, ge=0)


class HeadOptions(Settings):
    """The classifiers: the main one on aggregated features, the auxiliary one on the features alone.

    Attributes:
        convolutions: Number of 3x3 convolutions, each with a ReLU, before the 1x1 classifier; 0 for a plain linear
            classifier.
        channels: Channels of each of them in each branch, and of the hidden layer of `contrast.projection`.
        branches: Whether the main head has convolutions of its own for each class (the released code), or all classes
            share them. The auxiliary head's are always shared.
    """

    convolutions: int = Field(default=3, ge=0, le=64)
    channels: int = Field(default=512, ge=1, le=1 << 16)
    branches: Literal["per_class", "shared"] = "per_class"


class RcaOptions(Settings):
    """The options of RCA; the defaults are the published ones.

    RCA sees the backbone's own features only with `train_cam.neck: 0`.

    Attributes:
        region_maps: The maps of regions: their softmax over all classes (the released code), or the raw "logits" (the
            paper's formula).
        region_threshold: A region is where the map of its class exceeds its mean ("mean") or this share of its maximum.
        memory: The memory bank.
        contrast: The semantic contrast.
        aggregation: The semantic aggregation.
        head: The classifiers.
    """

    region_maps: Literal["softmax", "logits"] = "softmax"
    region_threshold: Literal["mean"] | float = "mean"
    memory: MemoryOptions = MemoryOptions()
    contrast: ContrastOptions = ContrastOptions()
    aggregation: AggregationOptions = AggregationOptions()
    head: HeadOptions = HeadOptions()

    @model_validator(mode="after")
    def _aggregation_has_what_it_needs(self) -> "RcaOptions":
        if self.aggregation.form != "none" and self.memory.size == 0:
            raise ValueError("aggregation needs memory.size of at least 1, or aggregation.form none")
        return self


class Rca(Method):
    """Regional semantic contrast and aggregation."""

    Options = RcaOptions
    keeps_memory = True
    prototypes: Tensor
    prototypes_usable: Tensor

    def __init__(self, options: RcaOptions, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        memory, aggregation, head = options.memory, options.aggregation, options.head
        self.memory = MemoryBank(classes, memory.size, channels, memory.update, memory.momentum, normalise=False)
        number = min(aggregation.prototypes, memory.size)
        self.register_buffer("prototypes", torch.zeros(classes, number, channels))
        self.register_buffer("prototypes_usable", torch.zeros(classes, number, dtype=torch.bool))
        if head.convolutions:
            # Wherever the host would score with its 1x1 classifier, it scores with the auxiliary head.
            self.host.add_module("classifier", build_head(channels, classes, head.convolutions, head.channels))
        if options.contrast.weight and options.contrast.projection == "queries":
            self.projection = build_projection(channels, head.channels)
        if aggregation.form in ("parametric", "released"):
            scale = RELEASED_SCALE / number if aggregation.form == "released" else None
            self.attention = ParametricAggregation(channels, scale)
        if aggregation.form != "none":
            self.join = nn.Conv2d(2 * channels, channels, 1)
            branches = classes if head.branches == "per_class" else 1
            self.main_head = build_head(channels, classes, head.convolutions, head.channels, branches)

    def forward(self, features: Tensor, valid: Tensor) -> Output:
        """Score features (B, D, h, w), with the aggregated prototypes if aggregation is on."""
        plain = self.host(features)
        if self.options.aggregation.form == "none":
            return Output(plain, features, valid)
        joined = self.join(torch.cat([features, self._aggregate(features)], 1))
        return Output(self.main_head(joined), features, valid, extras={PLAIN: plain})

    def _aggregate(self, features: Tensor) -> Tensor:
        """The mixture of prototypes (B, D, h, w) at each position."""
        options, prototypes = self.options.aggregation, (self.prototypes, self.prototypes_usable)
        if options.form == "softmax":
            return aggregate_prototypes(features, *prototypes, options.temperature, options.similarity)
        return self.attention(features, *prototypes)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """Classification and the terms that the options add; then add the batch's regions to the memory."""
        aggregation, contrast = self.options.aggregation, self.options.contrast
        losses = super().compute_losses(output, batch, epoch)
        plain = output.extras.get(PLAIN, output.maps)
        if aggregation.form != "none":
            auxiliary = self.host.classification_loss(plain, output.valid, batch.tags, batch.weight)
            losses["auxiliary"] = aggregation.auxiliary_weight * auxiliary
        maps = plain.detach().softmax(1) if self.options.region_maps == "softmax" else plain.detach()
        masks = find_regions(maps, output.valid, batch.tags, self.options.region_threshold)
        # A class with a constant map has no region, and a vector of zeros must not enter the memory.
        image, row = ((batch.tags > 0) & masks.flatten(2).any(2)).nonzero(as_tuple=True)
        if contrast.weight and epoch >= contrast.start_epoch and count_rows(row):
            queries = self._pool_queries(output.features, masks, image, row)
            place = image + find_first_row(batch.tags)  # in the batch of all ranks
            if contrast.mixup is None:
                term = self._contrast(queries, place, row)
            else:
                term = self._contrast_mixed(queries, place, row, contrast.mixup)
            losses["contrast"] = contrast.weight * term
        regions = self._pool(output, masks, image, row, batch)
        # Every rank adds the regions of all ranks, so that each bank equals the bank of a single process.
        sure = Regions(*gather_rows(*regions.select(regions.confidence > self.options.memory.gate)))
        self.memory.update(sure, epoch)
        return losses

    def _pool_queries(self, features: Tensor, masks: Tensor, image: Tensor, row: Tensor) -> Tensor:
        """The embedding of each region for the contrast (R, D), with gradients."""
        if self.options.contrast.projection == "queries":
            features = self.projection(features)
        return pool_regions(features, masks)[image, row]

    @torch.no_grad()
    def _pool(self, output: Output, masks: Tensor, image: Tensor, row: Tensor, batch: Sample) -> Regions:
        """The regions of the batch as the memory takes them, image by image."""
        embedding = pool_regions(output.features, masks)[image, row]
        confidence = pool_mean(output.maps, output.valid).sigmoid()[image, row]
        height, width = batch.valid.shape[-2:]
        box, region = locate_regions(masks[image, row], batch.frame[image], (height, width))
        return Regions(embedding, row, batch.position[image], confidence, box, region)

    def _contrast(self, queries: Tensor, image: Tensor, row: Tensor) -> Tensor:
        """The contrast of this rank's regions, reduced."""
        options = self.options.contrast
        (entries, entry_rows), own = self.memory.read(), None
        if self.memory.size == 0:
            number = torch.arange(len(row), device=row.device) * world_size() + rank()  # unique over all ranks
            entries, entry_rows, numbers = gather_rows(queries, row, number)
            own = number[:, None] == numbers
        memory = (functional.normalize(entries, dim=1), entry_rows, options.temperature)
        losses = contrast_regions(functional.normalize(queries, dim=1), row, *memory, options.hard_negatives, own)
        if options.reduction == "mean":
            return mean_of_rows(losses)
        # The ranks' losses are averaged afterwards: their sum is the loss of a single process.
        return world_size() * (losses / image.bincount()[image]).sum()

    def _contrast_mixed(self, queries: Tensor, image: Tensor, row: Tensor, mixup: float) -> Tensor:
        """The contrast of mixed regions, reduced: on each rank that of the whole batch, from which partners come."""
        options = self.options.contrast
        queries, (image, row) = gather_with_gradient(queries), gather_rows(image, row)
        (entries, entry_rows), own = self.memory.read(), None
        if self.memory.size == 0:
            entries, entry_rows = queries.detach(), row
            own = torch.eye(len(row), dtype=torch.bool, device=row.device)
        beta = torch.distributions.Beta(mixup, mixup)
        share = draw_once(lambda: beta.sample((len(queries), 1)).to(queries))
        partner = draw_once(lambda: draw_partners(image))
        memory = (functional.normalize(entries, dim=1), entry_rows, options.temperature)
        losses = contrast_mixed(queries, row, *memory, share, partner, options.hard_negatives, own)
        return losses.mean() if options.reduction == "mean" else (losses / image.bincount()[image]).sum()

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Cluster the memory into prototypes."""
        aggregation = self.options.aggregation
        if aggregation.form != "none" and epoch >= aggregation.start_epoch:
            number = self.prototypes.shape[1]
            self.prototypes, self.prototypes_usable = cluster_memory(
                self.memory.entries, self.memory.filled(), number, iterations=50, seed=seed
            )

    def memory_state(self) -> dict[str, Tensor]:
        """The bank and the prototypes."""
        bank = {f"memory.{name}": tensor for name, tensor in self.memory.state_dict().items()}
        return {**bank, "prototypes": self.prototypes, "prototypes_usable": self.prototypes_usable}


METHOD = Rca
