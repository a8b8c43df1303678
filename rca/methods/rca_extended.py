"""RCA extended: the bank holds the background too, and maps are scores of the prototypes themselves.

Nobody published this. It starts from the regional memory and contrast of RCA (Zhou et al., CVPR 2022), which is the
method `rca`.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from rca.core.distributed import count_rows, divide_by_count, gather_rows, mean_of_rows, rank, world_size
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.methods.base import Method
from rca.methods.parts.contrast import contrast_mixed, contrast_regions
from rca.methods.parts.memory import MemoryBank, Update
from rca.methods.parts.prototypes import cluster_memory, score_image, score_rows
from rca.methods.parts.regions import Regions, find_background, find_regions, locate_regions
from rca.models.output import Output
from rca.models.pooling import pool_mean, pool_regions, share_of_peak

PLAIN = "plain"
"""The extra output (B, C, h, w): the host's maps of the plain features, if the method scores with other maps."""
UNSURE = -1
"""The target of a position that the loss on positions leaves out."""


class MemoryOptions(Settings):
    """The memory bank.

    Attributes:
        size: Slots per class; with 0 a batch is contrasted with itself only.
        update: How a region gets its slot.
        momentum: Share of a slot that remains under "momentum".
        gate: A region enters only if the classifier's probability of its class is above this.
        background: The background is where every tagged map is below this share of its maximum; its regions get a row
            of their own. null keeps no background.
    """

    size: int = Field(default=500, ge=0)
    update: Update = "fifo"
    momentum: float = Field(default=0.99, ge=0, le=1)
    gate: float = Field(default=0.7, ge=0, lt=1)
    background: float | None = Field(default=None, gt=0, lt=1)


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
        form: "scores" makes the map of a class the softmax of the similarities to its prototypes, against those of the
            other classes and of the background, trained where the plain maps are sure. "none" leaves the maps alone.
        prototypes: Prototypes per row of the memory.
        temperature: Temperature of the softmax over cosine similarities.
        start_epoch: The first epoch with prototypes, counted from 0; they are clustered before each epoch.
        position_weight: Weight of the loss at sure positions.
        sure: A position is sure of a class where its plain map exceeds this share of its maximum.
        image_rounds: Number of times that an image is scored again with prototypes of its own, which know its light
            and its individual objects.
    """

    form: Literal["none", "scores"] = "none"
    prototypes: int = Field(default=10, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    start_epoch: int = Field(default=1, ge=0)
    position_weight: float = Field(default=0.1, ge=0)
    sure: float = Field(default=0.7, gt=0, lt=1)
    image_rounds: int = Field(default=0, ge=0)


class RcaExtendedOptions(Settings):
    """The options of the extended RCA.

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
    def _aggregation_has_what_it_needs(self) -> "RcaExtendedOptions":
        if self.aggregation.form != "none" and self.memory.size == 0:
            raise ValueError("aggregation needs memory.size of at least 1, or aggregation.form none")
        if self.aggregation.form == "scores" and self.memory.background is None:
            raise ValueError("aggregation.form scores needs the background in the bank: set memory.background")
        return self


class RcaExtended(Method):
    """Regional semantic contrast with the background, and scores of prototypes."""

    Options = RcaExtendedOptions
    keeps_memory = True
    prototypes: Tensor
    prototypes_usable: Tensor

    def __init__(self, options: RcaExtendedOptions, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        memory, aggregation = options.memory, options.aggregation
        rows = classes + (memory.background is not None)
        self.memory = MemoryBank(rows, memory.size, channels, memory.update, memory.momentum)
        number = min(aggregation.prototypes, memory.size)
        self.register_buffer("prototypes", torch.zeros(rows, number, channels))
        self.register_buffer("prototypes_usable", torch.zeros(rows, number, dtype=torch.bool))

    def locate(self, output: Output, tags: Tensor | None) -> Output:
        """The maps of "scores": shares 0..1 among the possible classes; the plain maps until there are prototypes."""
        if self.options.aggregation.form != "scores" or not self.prototypes_usable[-1].any():
            return output
        rows = self._score_rows(output.features)
        if tags is not None:
            present = functional.pad(tags, (0, 1), value=1)  # the background is always possible
            rows = rows.masked_fill(present[..., None, None] == 0, -torch.inf)
        shares = rows.softmax(1)
        for _ in range(self.options.aggregation.image_rounds):
            shares = score_image(output.features, shares * output.valid, self.options.aggregation.temperature)
        return output._replace(maps=shares[:, :-1], background=shares[:, -1:], extras={PLAIN: output.maps})

    def classify(self, output: Output) -> Tensor:
        """The scores of the plain maps: maps of prototypes say where a class would be, not whether it is there."""
        return pool_mean(_plain_maps(output), output.valid)

    def _score_rows(self, features: Tensor) -> Tensor:
        """The logits of each row of the memory at each position (B, R, h, w)."""
        temperature = self.options.aggregation.temperature
        return score_rows(features, self.prototypes, self.prototypes_usable, temperature)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """Classification and the terms that the options add; then add the batch's regions to the memory."""
        aggregation, contrast = self.options.aggregation, self.options.contrast
        losses = super().compute_losses(output, batch, epoch)
        plain = _plain_maps(output)
        background = self._find_background(plain.detach(), output.valid, batch.tags)
        if aggregation.form == "scores" and self.prototypes_usable.any() and aggregation.position_weight:
            positions = self._position_loss(output.features, plain.detach(), output.valid, background, batch.tags)
            losses["positions"] = aggregation.position_weight * positions
        regions = self._pool(output, plain.detach(), background, batch)
        # The background is no class: objects must differ from it, but its regions need not resemble each other.
        queries = regions.select(regions.row < batch.tags.shape[1])
        if contrast.weight and epoch >= contrast.start_epoch and count_rows(queries.row):
            losses["contrast"] = contrast.weight * mean_of_rows(self._contrast(queries.embedding, queries.row))
        # Every rank adds the regions of all ranks, so that each bank equals the bank of a single process.
        sure = Regions(*gather_rows(*regions.select(regions.confidence > self.options.memory.gate)))
        self.memory.update(sure, epoch)
        return losses

    def _find_background(self, plain: Tensor, valid: Tensor, tags: Tensor) -> Tensor:
        """The background region of each image (B, 1, h, w), or no channel (B, 0, h, w) if no background is kept."""
        threshold = self.options.memory.background
        return plain[:, :0] if threshold is None else find_background(plain, valid, tags, threshold)

    def _pool(self, output: Output, plain: Tensor, background: Tensor, batch: Sample) -> Regions:
        """The regions of the batch, image by image, with gradients through their embeddings."""
        regions = find_regions(plain, output.valid, batch.tags, self.options.region_threshold)
        masks = torch.cat([regions, background], 1)
        everywhere = background.flatten(2).any(2)
        # A class with a constant map has no region, and a vector of zeros must not enter the memory.
        present = torch.cat([batch.tags > 0, everywhere], 1) & masks.flatten(2).any(2)
        image, row = present.nonzero(as_tuple=True)
        embedding = functional.normalize(pool_regions(output.features, masks)[image, row], dim=1)
        confidence = pool_mean(output.maps.detach(), output.valid).sigmoid()
        # The background has no classifier, so its regions always enter.
        confidence = torch.cat([confidence, torch.ones_like(everywhere, dtype=confidence.dtype)], 1)[image, row]
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

    def _position_loss(
        self, features: Tensor, plain: Tensor, valid: Tensor, background: Tensor, tags: Tensor
    ) -> Tensor:
        """Cross-entropy over the rows present in an image, at the positions where a plain map is sure."""
        highest, label = share_of_peak(plain, valid, tags).max(1)
        target = label.masked_fill(highest <= self.options.aggregation.sure, UNSURE)
        target = target.masked_fill(background[:, 0] > 0, plain.shape[1]).masked_fill(valid[:, 0] == 0, UNSURE)
        present = torch.cat([tags > 0, torch.ones_like(tags[:, :1], dtype=torch.bool)], 1)
        rows = self._score_rows(features).masked_fill(~present[..., None, None], -1e4)
        total = functional.cross_entropy(rows, target, ignore_index=UNSURE, reduction="sum")
        return divide_by_count(total, (target != UNSURE).sum())

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

    def name_rows(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The classes, and the background if the bank holds it."""
        return classes if self.options.memory.background is None else (*classes, "background")


def _plain_maps(output: Output) -> Tensor:
    """The host's maps of the plain features (B, C, h, w)."""
    return output.extras.get(PLAIN, output.maps)


METHOD = RcaExtended
