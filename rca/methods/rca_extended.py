"""RCA extended: a memory of positions on objects and around them locates the classes.

Nobody published this. RCA (Zhou et al., CVPR 2022, the method `rca`) keeps an embedding of each region of a class. This
method keeps single positions of each class and, beside them, positions of the same images that show none of their
classes: the class's context. A class is where an image resembles the prototypes of the class more than those of all
contexts. The memory is filled by a pass over the training images with a trained network, so it needs no training.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rca.core.settings import Settings
from rca.hosts.base import MakeHost
from rca.methods.base import Method, WholeImages
from rca.methods.parts.memory import MemoryBank
from rca.methods.parts.positions import (
    allot_slots,
    balance_areas,
    find_contexts,
    find_objects,
    find_odds,
    pick_evenly,
    score_prototypes,
    share_alike,
    show_positions,
)
from rca.methods.parts.prototypes import cluster_memory
from rca.methods.parts.regions import Regions, locate_regions
from rca.models.output import Output, require
from rca.models.pooling import share_of_peak
from rca.models.resizing import resize_maps, size_of

CONTEXT = "context of "
"""How the name of a context's row in the memory begins."""

MEASURED = 200
"""The number of training images whose areas are measured."""


class MemoryOptions(Settings):
    """The memory.

    Attributes:
        size: Positions per row; each class has a row, and its context another.
        object: A position is the class's where its map exceeds this share of its peak and is the highest.
        context: A position is context where the map of every class of the image is below this share of its peak.
        prototypes: Prototypes per row.
        passes: Passes over the training images. The first chooses positions by the network's maps, a later one by the
            mean of these and of the shares that the memory of the pass before gives.
        area: The background gets the prior with which objects cover as much of the training images as the positions
            where the network's maps exceed this share of their peak; null leaves the background without a prior.
    """

    size: int = Field(default=500, ge=1, le=1_000_000)
    object: float = Field(default=0.8, gt=0, lt=1)
    context: float = Field(default=0.1, gt=0, lt=1)
    prototypes: int = Field(default=8, ge=1, le=1 << 16)
    passes: int = Field(default=1, ge=1, le=1000)
    area: float | None = Field(default=0.1, gt=0, lt=1)


class RcaExtendedOptions(Settings):
    """The options of the extended RCA.

    Attributes:
        memory: The memory.
        temperature: Temperature of the softmax over cosine similarities to prototypes.
        image_temperature: Temperature of the softmax over cosine similarities within an image, by which each position
            takes the mean shares of the positions that resemble it; null leaves this step out.
    """

    memory: MemoryOptions = MemoryOptions()
    temperature: float = Field(default=0.1, gt=0)
    image_temperature: float | None = Field(default=0.1, gt=0)


class RcaExtended(Method):
    """A memory of positions and their contexts, filled after the training."""

    Options = RcaExtendedOptions
    keeps_memory = True
    locates = True
    prototypes: Tensor
    prototypes_usable: Tensor
    prior: Tensor

    def __init__(self, options: RcaExtendedOptions, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        # One pass more measures areas.
        self.passes = options.memory.passes + (options.memory.area is not None)
        rows, number = 2 * classes, min(options.memory.prototypes, options.memory.size)
        self.memory = MemoryBank(rows, options.memory.size, channels)
        self.register_buffer("prototypes", torch.zeros(rows, number, channels))
        self.register_buffer("prototypes_usable", torch.zeros(rows, number, dtype=torch.bool))
        self.register_buffer("prior", torch.ones(()))  # the odds of the background

    def locate(self, views: Sequence[Output], finest: int, tags: Tensor | None) -> Output:
        """The share of each class, 0..1, among the possible classes and all contexts; see `Method.locate`."""
        size = size_of(views[finest].maps)
        logits = torch.stack([resize_maps(self._score_rows(view.features), size) for view in views]).mean(0)
        known = self.prototypes_usable.chunk(2)[0].any(1).expand(len(logits), -1)
        possible = known if tags is None else known & (tags > 0)
        possible = functional.pad(possible, (0, 1), value=True)  # the context always is
        shares = logits.masked_fill(~possible[..., None, None], -torch.inf).softmax(1)
        if (temperature := self.options.image_temperature) is not None:
            alike = [resize_maps(share_alike(view.features, shares, temperature), size) for view in views]
            shares = torch.stack(alike).mean(0)
        weighted = torch.cat([shares[:, :-1], shares[:, -1:] * self.prior], 1)
        shares = weighted / weighted.sum(1, keepdim=True)
        return views[finest]._replace(maps=shares[:, :-1], background=shares[:, -1:], refined=None)

    def _score_rows(self, features: Tensor) -> Tensor:
        """The logits of each class and, last, of the contexts of all classes together (B, C + 1, h, w)."""
        (prototypes, contexts), (usable, contexts_usable) = self.prototypes.chunk(2), self.prototypes_usable.chunk(2)
        temperature = self.options.temperature
        classes = score_prototypes(features, prototypes, usable, temperature)
        context = score_prototypes(features, contexts.flatten(0, 1)[None], contexts_usable.flatten()[None], temperature)
        return torch.cat([classes, context], 1)

    def start_pass(self, number: int, tags: Tensor) -> int:
        """Empty the memory and divide its slots among the images; in the last pass measure areas instead."""
        self.areas: list[Tensor] = []
        self.odds: list[Tensor] = []
        self.measures = number == self.options.memory.passes
        if self.measures:
            return MEASURED
        if number == 0:
            self.prototypes_usable.zero_()
            self.prior.fill_(1)
        self.memory.written.zero_()
        self.slots = allot_slots(tags, self.memory.size).repeat(1, 2)
        return len(tags)

    def memorise(self, views: Sequence[Output], finest: int, images: WholeImages, epoch: int) -> None:
        """Store positions of some training images, or measure the areas of objects; see `Method.memorise`."""
        size = size_of(views[finest].maps)
        maps = torch.stack([resize_maps(view.scores.relu(), size) for view in views]).sum(0)
        shares = share_of_peak(maps, views[finest].valid, images.tags)
        if self.measures:
            self._measure(shares, self.locate(views, finest, images.tags))
            return
        if self.prototypes_usable.any():
            shares = (shares + self.locate(views, finest, images.tags).maps) / 2
        self._store(shares, views, images, epoch)

    def _measure(self, shares: Tensor, located: Output) -> None:
        """Measure how much of each image objects should cover, and the odds that give objects each position."""
        area = self.options.memory.area or 0.0
        self.areas += (shares.amax(1) > area).double().mean((1, 2))
        self.odds += find_odds(located.maps, require(located.background, "locates"))

    def _store(self, shares: Tensor, views: Sequence[Output], images: WholeImages, epoch: int) -> None:
        """Store positions, chosen by the shares (B, C, h, w) of each class, of all views."""
        options, tags = self.options.memory, images.tags
        found = []
        for view in views:
            resized = resize_maps(shares, size_of(view.maps))
            objects = find_objects(resized, tags, options.object)
            found.append(torch.cat([objects, find_contexts(resized, view.valid, tags, options.context)], 1))
        # The slots of an image are shared by its views: positions are picked at even steps through all of them.
        masks = torch.cat([mask.flatten(2) for mask in found], 2)
        chosen = pick_evenly(masks.flatten(0, 1), self.slots[images.position].flatten()).reshape(masks.shape)
        parts = torch.split(chosen, [mask[0, 0].numel() for mask in found], 2)
        confidence = torch.stack([self.classify(view) for view in views]).mean(0).sigmoid()
        confidence = torch.cat([confidence, torch.ones_like(confidence)], 1)
        for view, mask, picked in zip(views, found, parts, strict=True):
            image, row, place = picked.nonzero(as_tuple=True)
            embedding = view.features.flatten(2).transpose(1, 2)[image, place]
            frame = torch.tensor([1.0, 0.0, 1.0, 0.0], device=embedding.device).expand(len(image), -1)
            box, region = locate_regions(show_positions(mask[image, row], place), frame, images.size)
            regions = Regions(embedding, row, images.position[image], confidence[image, row], box, region)
            self.memory.update(regions, epoch)

    def finish_pass(self, seed: int) -> None:
        """Cluster the memory into prototypes; after the last pass find the background's prior."""
        if self.measures:
            self.prior.fill_(balance_areas(self.areas, self.odds))
            return
        number = self.prototypes.shape[1]
        self.prototypes, self.prototypes_usable = cluster_memory(
            self.memory.entries, self.memory.filled(), number, iterations=50, seed=seed
        )

    def memory_state(self) -> dict[str, Tensor]:
        """The memory and the prototypes."""
        bank = {f"memory.{name}": tensor for name, tensor in self.memory.state_dict().items()}
        return {**bank, "prototypes": self.prototypes, "prototypes_usable": self.prototypes_usable, "prior": self.prior}

    def name_rows(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The classes, and then their contexts."""
        return (*classes, *(f"{CONTEXT}{name}" for name in classes))


METHOD = RcaExtended
