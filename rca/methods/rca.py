"""RCA: regional semantic contrast and aggregation.

Source: Zhou, Zhang, Zhao and Li, Regional Semantic Contrast and Aggregation for Weakly Supervised Semantic
Segmentation, CVPR 2022. The loss is L_CE(aggregated) + 0.4 L_CE(auxiliary) + weight x L_NCE (equation of the total).
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rca.distributed import count_rows, gather_rows, mean_of_rows
from rca.methods.base import Method, Output
from rca.methods.contrast import contrast_mixed, contrast_regions
from rca.methods.memory import MemoryBank, Update
from rca.methods.prototypes import aggregate_prototypes, cluster_memory
from rca.models.pooling import pool_mean, pool_regions
from rca.settings import Settings


class MemoryOptions(Settings):
    """The memory bank.

    Attributes:
        size: Regions kept of each class.
        update: How a region takes its slot.
        momentum: How much of a slot remains under "momentum".
        gate: Regions enter only where the classifier's probability of their class is above this.
    """

    size: int = Field(default=500, ge=1)
    update: Update = "fifo"
    momentum: float = Field(default=0.99, ge=0, le=1)
    gate: float = Field(default=0.7, ge=0, lt=1)


class ContrastOptions(Settings):
    """The semantic contrast.

    Attributes:
        weight: Of the term in the loss; 0 leaves it out.
        temperature: Of the InfoNCE.
        start_epoch: The first epoch with contrast, counted from 0: the bank fills before.
        mixup: a of Beta(a, a), from which the share of a mixed embedding is drawn; null mixes none.
    """

    weight: float = Field(default=0.01, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    start_epoch: int = Field(default=2, ge=0)
    mixup: float | None = Field(default=8.0, gt=0)


class AggregationOptions(Settings):
    """The semantic aggregation.

    Attributes:
        enabled: Whether maps are scored on features joined with what they recall of the memory.
        prototypes: Of each class.
        temperature: Of the softmax over cosine similarities.
        start_epoch: The first epoch with prototypes, counted from 0; they are clustered anew before each epoch.
        auxiliary_weight: Of the classification loss on the plain features.
    """

    enabled: bool = True
    prototypes: int = Field(default=10, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    start_epoch: int = Field(default=1, ge=0)
    auxiliary_weight: float = Field(default=0.4, ge=0)


class RcaOptions(Settings):
    """The options of RCA; the defaults are the published ones.

    Attributes:
        region_threshold: A region is where its class's map exceeds its mean ("mean"), or this share of its maximum.
        memory: The memory bank.
        contrast: The semantic contrast.
        aggregation: The semantic aggregation.
    """

    region_threshold: Literal["mean"] | float = "mean"
    memory: MemoryOptions = MemoryOptions()
    contrast: ContrastOptions = ContrastOptions()
    aggregation: AggregationOptions = AggregationOptions()


class Rca(Method):
    """Regional semantic contrast and aggregation."""

    Options = RcaOptions
    keeps_memory = True
    prototypes: Tensor
    prototypes_usable: Tensor

    def __init__(
        self, options: RcaOptions, channels: int, classes: int, make_host: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        memory, aggregation = options.memory, options.aggregation
        self.memory = MemoryBank(classes, memory.size, channels, memory.update, memory.momentum)
        number = min(aggregation.prototypes, memory.size)
        self.register_buffer("prototypes", torch.zeros(classes, number, channels))
        self.register_buffer("prototypes_usable", torch.zeros(classes, number, dtype=torch.bool))
        if aggregation.enabled:
            self.join = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.ReLU())
            self.aggregated_host = make_host(channels, classes)

    def forward(self, features: Tensor, valid: Tensor) -> Output:
        """Score features (B, D, h, w), joined with what they recall of the memory."""
        plain = self.host(features)
        if not self.options.aggregation.enabled:
            return Output(plain, features, valid)
        recalled = aggregate_prototypes(
            features, self.prototypes, self.prototypes_usable, self.options.aggregation.temperature
        )
        joined = self.join(torch.cat([features, recalled], 1))
        return Output(self.aggregated_host(joined), features, valid, plain)

    def compute_losses(self, output: Output, tags: Tensor, positions: Tensor, epoch: int) -> dict[str, Tensor]:
        """Classification, auxiliary classification and contrast; then the batch's regions enter the memory."""
        losses = super().compute_losses(output, tags, positions, epoch)
        plain = output.maps
        if output.auxiliary is not None:
            plain = output.auxiliary
            weight = self.options.aggregation.auxiliary_weight
            losses["auxiliary"] = weight * self.host.classification_loss(plain, output.valid, tags)
        masks = find_regions(plain.detach(), output.valid, self.options.region_threshold)
        # A class whose map is constant has no region: a vector of zeros must not enter the memory in its place.
        image, classes = ((tags > 0) & masks.flatten(2).any(2)).nonzero(as_tuple=True)
        queries = functional.normalize(pool_regions(output.features, masks)[image, classes].float(), dim=1)
        contrast = self.options.contrast
        if contrast.weight and epoch >= contrast.start_epoch and count_rows(queries):
            losses["contrast"] = contrast.weight * mean_of_rows(self._contrast(queries, classes))
        confidence = pool_mean(output.maps.detach(), output.valid).sigmoid()[image, classes]
        sure = confidence > self.options.memory.gate
        # Every rank takes up the regions of all, so that their banks are one process's bank.
        queries, classes, positions, confidence = gather_rows(
            queries[sure], classes[sure], positions[image[sure]], confidence[sure]
        )
        self.memory.update(queries, classes, positions, confidence, epoch)
        return losses

    def _contrast(self, queries: Tensor, classes: Tensor) -> Tensor:
        entries, entry_classes = self.memory.read()
        options = self.options.contrast
        if options.mixup is None:
            return contrast_regions(queries, classes, entries, entry_classes, options.temperature)
        share = torch.distributions.Beta(options.mixup, options.mixup).sample((len(queries), 1)).to(queries)
        partner = torch.randperm(len(queries), device=queries.device)
        return contrast_mixed(queries, classes, entries, entry_classes, options.temperature, share, partner)

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Cluster the memory into prototypes."""
        aggregation = self.options.aggregation
        if aggregation.enabled and epoch >= aggregation.start_epoch:
            number = self.prototypes.shape[1]
            self.prototypes, self.prototypes_usable = cluster_memory(
                self.memory.entries, self.memory.filled(), number, iterations=50, seed=seed
            )

    def memory_state(self) -> dict[str, Tensor]:
        """The bank and the prototypes."""
        bank = {f"memory.{name}": tensor for name, tensor in self.memory.state_dict().items()}
        return {**bank, "prototypes": self.prototypes, "prototypes_usable": self.prototypes_usable}


def find_regions(maps: Tensor, valid: Tensor, threshold: Literal["mean"] | float) -> Tensor:
    """Pseudo regions: where a class's map is high.

    Args:
        maps: (B, C, h, w), before ReLU.
        valid: (B, 1, h, w), 0 on padding.
        threshold: "mean" for the map's own mean (RCA, section 3.2), a number for that share of its maximum.

    Returns:
        (B, C, h, w), 1 in the region and 0 outside. A constant map has an empty region.
    """
    if threshold == "mean":
        limit = pool_mean(maps, valid)[..., None, None]
    else:
        limit = threshold * maps.masked_fill(valid == 0, -torch.inf).amax((2, 3), keepdim=True)
    return ((maps > limit) & (valid > 0)).to(maps.dtype)


METHOD = Rca
