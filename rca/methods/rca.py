"""RCA: regional semantic contrast and aggregation.

Source: Zhou, Zhang, Zhao and Li, Regional Semantic Contrast and Aggregation for Weakly Supervised Semantic
Segmentation, CVPR 2022. The loss is L_CE(aggregated) + 0.4 L_CE(auxiliary) + weight x L_NCE (the paper's total loss).
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from rca.core.distributed import count_rows, gather_rows, mean_of_rows, rank, world_size
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.methods.base import Method
from rca.methods.parts.contrast import contrast_mixed, contrast_regions
from rca.methods.parts.memory import MemoryBank, Update
from rca.methods.parts.prototypes import ParametricAggregation, aggregate_prototypes, cluster_memory
from rca.methods.parts.regions import Regions, find_regions, locate_regions
from rca.models.output import Output
from rca.models.pooling import pool_mean, pool_regions

PLAIN = "plain"
"""The extra output (B, C, h, w): the host's maps of the plain features, if the method scores with other maps."""


class MemoryOptions(Settings):
    """The memory bank.

    Attributes:
        size: Slots per class; with 0 a batch is contrasted with itself only.
        update: How a region gets its slot.
        momentum: Share of a slot that remains under "momentum".
        gate: A region enters only if the classifier's probability of its class is above this.
    """

    size: int = Field(default=500, ge=0)
    update: Update = "fifo"
    momentum: float = Field(default=0.99, ge=0, le=1)
    gate: float = Field(default=0.7, ge=0, lt=1)


class ContrastOptions(Settings):
    """The semantic contrast.

    Attributes:
        weight: Weight of the term in the loss; 0 leaves it out.
        temperature: Temperature of the InfoNCE.
        start_epoch: The first epoch with contrast, counted from 0; the bank fills before.
        mixup: a of Beta(a, a), from which the shares of mixed embeddings are drawn; null does not mix.
        hard_negatives: Number of negatives that count, the most similar to the query; null for all.
    """

    weight: float = Field(default=0.01, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    start_epoch: int = Field(default=2, ge=0)
    mixup: float | None = Field(default=8.0, gt=0)
    hard_negatives: int | None = Field(default=None, ge=1)


class AggregationOptions(Settings):
    """The semantic aggregation.

    Attributes:
        form: "softmax" concatenates each position's features with the mixture of prototypes most similar to it (the
            paper); "parametric" does so with learned queries, keys and values (the released code, but normalised).
            "none" leaves the aggregation out.
        prototypes: Prototypes per class.
        temperature: Temperature of the softmax over cosine similarities.
        start_epoch: The first epoch with prototypes, counted from 0; they are clustered before each epoch.
        auxiliary_weight: Weight of the classification loss on the plain maps.
    """

    form: Literal["none", "softmax", "parametric"] = "softmax"
    prototypes: int = Field(default=10, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    start_epoch: int = Field(default=1, ge=0)
    auxiliary_weight: float = Field(default=0.4, ge=0)


class RcaOptions(Settings):
    """The options of RCA; the defaults are the published ones.

    Attributes:
        region_threshold: A region is where the map of its class exceeds its mean ("mean") or this share of its maximum.
        memory: The memory bank.
        contrast: The semantic contrast.
        aggregation: The semantic aggregation.
    """

    region_threshold: Literal["mean"] | float = "mean"
    memory: MemoryOptions = MemoryOptions()
    contrast: ContrastOptions = ContrastOptions()
    aggregation: AggregationOptions = AggregationOptions()

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
        memory, aggregation = options.memory, options.aggregation
        self.memory = MemoryBank(classes, memory.size, channels, memory.update, memory.momentum)
        number = min(aggregation.prototypes, memory.size)
        self.register_buffer("prototypes", torch.zeros(classes, number, channels))
        self.register_buffer("prototypes_usable", torch.zeros(classes, number, dtype=torch.bool))
        if aggregation.form == "parametric":
            self.attention = ParametricAggregation(channels)
        if aggregation.form != "none":
            self.join = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.ReLU())
            self.aggregated_host = make_host(channels, classes)

    def forward(self, features: Tensor, valid: Tensor) -> Output:
        """Score features (B, D, h, w), with the aggregated prototypes if aggregation is on."""
        plain, form = self.host(features), self.options.aggregation.form
        if form == "none":
            return Output(plain, features, valid)
        if form == "parametric":
            aggregated = self.attention(features, self.prototypes, self.prototypes_usable)
        else:
            temperature = self.options.aggregation.temperature
            aggregated = aggregate_prototypes(features, self.prototypes, self.prototypes_usable, temperature)
        joined = self.join(torch.cat([features, aggregated], 1))
        return Output(self.aggregated_host(joined), features, valid, extras={PLAIN: plain})

    def classify(self, output: Output) -> Tensor:
        """The scores of the plain maps: maps of prototypes say where a class would be, not whether it is there."""
        return pool_mean(_plain_maps(output), output.valid)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """Classification and the terms that the options add; then add the batch's regions to the memory."""
        aggregation, contrast = self.options.aggregation, self.options.contrast
        losses = super().compute_losses(output, batch, epoch)
        plain = _plain_maps(output)
        if aggregation.form != "none":
            auxiliary = self.host.classification_loss(plain, output.valid, batch.tags, batch.weight)
            losses["auxiliary"] = aggregation.auxiliary_weight * auxiliary
        regions = self._pool(output, plain.detach(), batch)
        if contrast.weight and epoch >= contrast.start_epoch and count_rows(regions.row):
            losses["contrast"] = contrast.weight * mean_of_rows(self._contrast(regions.embedding, regions.row))
        # Every rank adds the regions of all ranks, so that each bank equals the bank of a single process.
        sure = Regions(*gather_rows(*regions.select(regions.confidence > self.options.memory.gate)))
        self.memory.update(sure, epoch)
        return losses

    def _pool(self, output: Output, plain: Tensor, batch: Sample) -> Regions:
        """The regions of the batch, image by image, with gradients through their embeddings."""
        masks = find_regions(plain, output.valid, batch.tags, self.options.region_threshold)
        # A class with a constant map has no region, and a vector of zeros must not enter the memory.
        image, row = ((batch.tags > 0) & masks.flatten(2).any(2)).nonzero(as_tuple=True)
        embedding = functional.normalize(pool_regions(output.features, masks)[image, row], dim=1)
        confidence = pool_mean(output.maps.detach(), output.valid).sigmoid()[image, row]
        height, width = batch.valid.shape[-2:]
        box, region = locate_regions(masks[image, row], batch.frame[image], (height, width))
        return Regions(embedding, row, batch.position[image], confidence, box, region)

    def _contrast(self, queries: Tensor, rows: Tensor) -> Tensor:
        options = self.options.contrast
        (entries, entry_rows), own = self.memory.read(), None
        if self.memory.size == 0:
            number = torch.arange(len(rows), device=rows.device) * world_size() + rank()  # unique over all ranks
            entries, entry_rows, numbers = gather_rows(queries, rows, number)
            own = number[:, None] == numbers
        memory = (entries, entry_rows, options.temperature)
        if options.mixup is None:
            return contrast_regions(queries, rows, *memory, options.hard_negatives, own)
        share = torch.distributions.Beta(options.mixup, options.mixup).sample((len(queries), 1)).to(queries)
        partner = torch.randperm(len(queries), device=queries.device)
        return contrast_mixed(queries, rows, *memory, share, partner, options.hard_negatives, own)

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


def _plain_maps(output: Output) -> Tensor:
    """The host's maps of the plain features (B, C, h, w)."""
    return output.extras.get(PLAIN, output.maps)


METHOD = Rca
