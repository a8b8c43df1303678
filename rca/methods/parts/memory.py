"""The regional memory bank: embeddings of object regions from over the whole dataset, class by class.

Slots are filled with real regions only; what was never filled takes no part in anything. (The released code starts
from noise that still makes up most of a rare class's bank at the end of training.)
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
        rows: How many kinds of regions are kept apart, R: the object classes, and the background where it is kept.
        size: Slots for each row, N; with 0 nothing is kept.
        channels: Of an embedding, D.
        update: "fifo" writes each region over its row's oldest; "momentum" blends it into the slot of the same image
            where there is one, and is fifo otherwise.
        momentum: How much of a slot remains when a region is blended in, 0..1.

    Raises:
        ValueError: no row or channel, a size below 0 or a momentum outside 0..1.
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
            given = (rows, size, channels)
            raise ValueError(f"A bank needs at least one row and channel, and no size below 0, not {given}.")
        if not 0 <= momentum <= 1:
            raise ValueError(f"The momentum must lie in 0..1, not {momentum}.")
        self.size, self.update_rule, self.momentum = size, update, momentum
        self.register_buffer("entries", torch.zeros(rows, size, channels))
        # How many regions each row has ever taken up: the next slot is that modulo N, the fill that up to N.
        self.register_buffer("written", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("image", torch.full((rows, size), -1, dtype=torch.int64))
        self.register_buffer("epoch", torch.full((rows, size), -1, dtype=torch.int64))
        self.register_buffer("confidence", torch.zeros(rows, size))
        self.register_buffer("box", torch.zeros(rows, size, 4))
        self.register_buffer("region", torch.zeros(rows, size, GRID, GRID, dtype=torch.uint8))

    def filled(self) -> Tensor:
        """(R, N), bool: which slots hold a region."""
        slots = torch.arange(self.size, device=self.written.device)
        return slots < self.written[:, None]

    def read(self) -> tuple[Tensor, Tensor]:
        """All stored embeddings (M, D), a copy that later updates do not reach, and their rows (M,)."""
        filled = self.filled()
        return self.entries[filled].clone(), filled.nonzero()[:, 0]

    @torch.no_grad()
    def update(self, regions: Regions, epoch: int) -> None:
        """Take up regions; an image has at most one region of a row in a call.

        Args:
            regions: Of a batch; embeddings are L2-normalised here.
            epoch: When they were seen.
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
        # Of more regions of a row than it has slots the last ones stay: no two may be written to one slot at once.
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
    """For each region its place among those of its row (R,), and the regions of each row (number,)."""
    member = functional.one_hot(rows, number)
    before = member.cumsum(0) - member
    return before.gather(1, rows[:, None])[:, 0], member.sum(0)
