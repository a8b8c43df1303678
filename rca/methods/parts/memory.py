"""The regional memory bank: embeddings of object regions from the whole dataset, class by class.

Only real regions fill slots, and empty slots are never read. (The released code starts from noise, which still makes up
most of a rare class's bank at the end of the training.)
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.methods.parts.regions import GRID, Regions

Update = Literal["fifo", "momentum"]


class MemoryBank(nn.Module):
    """A bank of L2-normalised embeddings.

    Args:
        rows: Number of rows, R: one per object class, and one for the background if it is kept.
        size: Slots per row, N; 0 keeps nothing.
        channels: Channels of an embedding, D.
        update: "fifo" overwrites the oldest region of the row; "momentum" blends a region into the slot of the same
            image if there is one, and is fifo otherwise.
        momentum: Share of a slot that remains when a region is blended in, 0..1.

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

    def __init__(self, rows: int, size: int, channels: int, update: Update = "fifo", momentum: float = 0.99) -> None:
        super().__init__()
        if min(rows, size + 1, channels) < 1:
            shape = (rows, size, channels)
            raise ValueError(f"A bank needs at least one row, one channel and a size of at least 0, not {shape}.")
        if not 0 <= momentum <= 1:
            raise ValueError(f"The momentum must lie in 0..1, not {momentum}.")
        self.size, self.update_rule, self.momentum = size, update, momentum
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
        return self.entries[filled].clone(), filled.nonzero()[:, 0]

    @torch.no_grad()
    def update(self, regions: Regions, epoch: int) -> None:
        """Add regions; an image has at most one region per row in a call.

        Args:
            regions: The regions of a batch; their embeddings are L2-normalised here.
            epoch: The epoch in which they were seen.
        """
        if self.size == 0:
            return
        embedding = functional.normalize(regions.embedding.detach().to(self.entries.dtype), dim=1)
        regions = regions._replace(embedding=embedding)
        if self.update_rule == "momentum":
            known = (self.image[regions.row] == regions.image[:, None]) & self.filled()[regions.row]
            blend = known.any(1)
            slots = known[blend].int().argmax(1)
            old = self.entries[regions.row[blend], slots]
            mixed = functional.normalize(self.momentum * old + (1 - self.momentum) * embedding[blend], dim=1)
            self._write(slots, regions.select(blend)._replace(embedding=mixed), epoch)
            regions = regions.select(~blend)
        rank, count = _rank_in_row(regions.row, len(self.written))
        slots = (self.written[regions.row] + rank) % self.size
        # If a row gets more regions than it has slots, the last ones stay: no slot is written twice in one step.
        last = rank >= count[regions.row] - self.size
        self._write(slots[last], regions.select(last), epoch)
        self.written += count

    def _write(self, slots: Tensor, regions: Regions, epoch: int) -> None:
        place = (regions.row, slots)
        self.entries[place] = regions.embedding
        self.image[place] = regions.image
        self.epoch[place] = epoch
        self.confidence[place] = regions.confidence.to(self.confidence.dtype)
        self.box[place] = regions.box
        self.region[place] = regions.region


def _rank_in_row(rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The rank of each region among those of its row (R,), and the number of regions per row (number,)."""
    member = functional.one_hot(rows, number)
    before = member.cumsum(0) - member
    return before.gather(1, rows[:, None])[:, 0], member.sum(0)
