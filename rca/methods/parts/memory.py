"""The regional memory bank: embeddings of object regions from the whole dataset, class by class.

Only real regions fill slots, and empty slots are never read. (The released code starts from noise, which still makes up
most of a rare class's bank at the end of the training.)
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.methods.parts.regions import GRID, Regions

Update = Literal["ring", "fifo", "momentum"]


class MemoryBank(nn.Module):
    """A bank of embeddings.

    Args:
        rows: Number of rows, R: one per object class, and perhaps one per context of a class.
        size: Slots per row, N; 0 keeps nothing.
        channels: Channels of an embedding, D.
        update: The slots of a row are taken in turn. "fifo" overwrites the oldest region with the new one; "ring"
            blends the new one into it, whatever image it came from (RCA's released code), so a slot becomes a moving
            average. "momentum" blends a region into the slot of the same image if there is one, and is fifo otherwise.
        momentum: Share of a slot that remains when a region is blended in, 0..1.
        normalise: Whether embeddings are L2-normalised; else they keep the scale of the features.

    Raises:
        ValueError: there is no row or no channel, the size is below 0, or the momentum is outside 0..1.
    """

    entries: Tensor
    written: Tensor
    image: Tensor
    epoch: Tensor
    confidence: Tensor
    box: Tensor
    region: Tensor

    def __init__(
        self,
        rows: int,
        size: int,
        channels: int,
        update: Update = "fifo",
        momentum: float = 0.99,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if min(rows, size + 1, channels) < 1:
            shape = (rows, size, channels)
            raise ValueError(f"A bank needs at least one row, one channel and a size of at least 0, not {shape}.")
        if not 0 <= momentum <= 1:
            raise ValueError(f"The momentum must lie in 0..1, not {momentum}.")
        self.size, self.update_rule, self.momentum, self.normalise = size, update, momentum, normalise
        self.register_buffer("entries", torch.zeros(rows, size, channels))
        # The number of regions ever written to each row: modulo N it is the next slot, capped at N the fill.
        self.register_buffer("written", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("image", torch.full((rows, size), -1, dtype=torch.int64))
        self.register_buffer("epoch", torch.full((rows, size), -1, dtype=torch.int64))
        self.register_buffer("confidence", torch.zeros(rows, size))
        self.register_buffer("box", torch.zeros(rows, size, 4))
        self.register_buffer("region", torch.zeros(rows, size, GRID, GRID, dtype=torch.uint8))

    def filled(self) -> Tensor:
        """Which slots hold a region, (R, N), bool."""
        slots = torch.arange(self.size, device=self.written.device)
        return slots < self.written[:, None]

    def read(self) -> tuple[Tensor, Tensor]:
        """All stored embeddings (M, D), copied so that later updates do not change them, and their rows (M,)."""
        filled = self.filled()
        return self.entries[filled], filled.nonzero()[:, 0]  # a mask copies

    @torch.no_grad()
    def update(self, regions: Regions, epoch: int) -> None:
        """Add regions; with "momentum", an image has at most one region per row in a call.

        A slot of a "ring" keeps the origin of the region that filled it, since that one has the largest share in it.

        Args:
            regions: The regions of a batch.
            epoch: The epoch in which they were seen.
        """
        if self.size == 0:
            return
        regions = regions._replace(embedding=self._scale(regions.embedding.detach().to(self.entries.dtype)))
        if self.update_rule == "momentum":
            known = (self.image[regions.row] == regions.image[:, None]) & self.filled()[regions.row]
            met = known.any(1)
            slots = known[met].int().argmax(1)
            self._write(slots, self._blend(slots, regions.select(met)), epoch)
            regions = regions.select(~met)
        rank, count = _rank_in_row(regions.row, len(self.written))
        number = self.written[regions.row] + rank
        # A row may get more regions than it has slots: in turns, so that no slot is written twice at once.
        for first in range(0, len(number), self.size):
            turn = (rank >= first) & (rank < first + self.size)
            self._take_slots(number[turn], regions.select(turn), epoch)
        self.written += count

    def _take_slots(self, number: Tensor, regions: Regions, epoch: int) -> None:
        """Add regions by their number in their row (R,), counted from the first region ever."""
        slots = number % self.size
        if self.update_rule == "ring":
            again = number >= self.size
            mixed = self._blend(slots[again], regions.select(again))
            self.entries[mixed.row, slots[again]] = mixed.embedding
            slots, regions = slots[~again], regions.select(~again)
        self._write(slots, regions, epoch)

    def _blend(self, slots: Tensor, regions: Regions) -> Regions:
        """The regions, their embeddings blended with those of slots (R,)."""
        old = self.entries[regions.row, slots]
        mixed = self.momentum * old + (1 - self.momentum) * regions.embedding
        return regions._replace(embedding=self._scale(mixed))

    def _scale(self, embedding: Tensor) -> Tensor:
        return functional.normalize(embedding, dim=1) if self.normalise else embedding

    def _write(self, slots: Tensor, regions: Regions, epoch: int) -> None:
        place = (regions.row, slots)
        self.entries[place] = regions.embedding
        self.image[place] = regions.image
        self.epoch[place] = epoch
        self.confidence[place] = regions.confidence.to(self.confidence.dtype)
        self.box[place] = regions.box.to(self.box.dtype)
        self.region[place] = regions.region


def _rank_in_row(rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The rank of each region among those of its row (R,), and the number of regions per row (number,)."""
    member = functional.one_hot(rows, number)
    before = member.cumsum(0) - member
    return before.gather(1, rows[:, None])[:, 0], member.sum(0)
