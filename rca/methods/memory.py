"""The regional memory bank: embeddings of object regions from over the whole dataset, class by class.

Slots are filled with real regions only; what was never filled takes no part in anything. (The released code starts
from noise that still makes up most of a rare class's bank at the end of training.)
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Update = Literal["fifo", "momentum"]


class MemoryBank(nn.Module):
    """A bank of L2-normalised embeddings.

    Args:
        classes: How many object classes there are, C.
        size: Slots for each class, N.
        channels: Of an embedding, D.
        update: "fifo" writes each region over its class's oldest; "momentum" blends it into the slot of the same image
            where there is one, and is fifo otherwise.
        momentum: How much of a slot remains when a region is blended in, 0..1.

    Raises:
        ValueError: a size below 1 or a momentum outside 0..1.
    """

    entries: Tensor
    written: Tensor
    image: Tensor
    epoch: Tensor
    confidence: Tensor

    def __init__(self, classes: int, size: int, channels: int, update: Update = "fifo", momentum: float = 0.99) -> None:
        super().__init__()
        if min(classes, size, channels) < 1:
            raise ValueError(f"A bank needs at least one class, slot and channel, not {(classes, size, channels)}.")
        if not 0 <= momentum <= 1:
            raise ValueError(f"The momentum must lie in 0..1, not {momentum}.")
        self.size, self.update_rule, self.momentum = size, update, momentum
        self.register_buffer("entries", torch.zeros(classes, size, channels))
        # How many regions each class has ever written: the next slot is that modulo N, the fill that up to N.
        self.register_buffer("written", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("image", torch.full((classes, size), -1, dtype=torch.int64))
        self.register_buffer("epoch", torch.full((classes, size), -1, dtype=torch.int64))
        self.register_buffer("confidence", torch.zeros(classes, size))

    def filled(self) -> Tensor:
        """(C, N), bool: which slots hold a region."""
        slots = torch.arange(self.size, device=self.written.device)
        return slots < self.written[:, None]

    def read(self) -> tuple[Tensor, Tensor]:
        """All stored embeddings (M, D), a copy that later updates do not reach, and their classes (M,)."""
        filled = self.filled()
        return self.entries[filled].clone(), filled.nonzero()[:, 0]

    @torch.no_grad()
    def update(self, embeddings: Tensor, classes: Tensor, image: Tensor, confidence: Tensor, epoch: int) -> None:
        """Take up regions; an image has at most one region of a class in a call.

        Args:
            embeddings: (R, D); they are L2-normalised here.
            classes: (R,), int64.
            image: (R,), int64, the position of each region's image in the manifest.
            confidence: (R,), how sure the classifier was of the region's class, 0..1.
            epoch: When the regions were seen.
        """
        embeddings = functional.normalize(embeddings.detach().to(self.entries.dtype), dim=1)
        confidence = confidence.detach().to(self.confidence.dtype)
        if self.update_rule == "momentum":
            known = (self.image[classes] == image[:, None]) & self.filled()[classes]
            blend = known.any(1)
            slots = known[blend].int().argmax(1)
            old = self.entries[classes[blend], slots]
            mixed = functional.normalize(self.momentum * old + (1 - self.momentum) * embeddings[blend], dim=1)
            self._write(classes[blend], slots, mixed, image[blend], confidence[blend], epoch)
            embeddings, classes, image, confidence = (
                tensor[~blend] for tensor in (embeddings, classes, image, confidence)
            )
        rank, count = _rank_in_class(classes, len(self.written))
        slots = (self.written[classes] + rank) % self.size
        # Of more regions of a class than it has slots the last ones stay: no two may be written to one slot at once.
        last = rank >= count[classes] - self.size
        self._write(classes[last], slots[last], embeddings[last], image[last], confidence[last], epoch)
        self.written += count

    def _write(
        self, classes: Tensor, slots: Tensor, embeddings: Tensor, image: Tensor, confidence: Tensor, epoch: int
    ) -> None:
        self.entries[classes, slots] = embeddings
        self.image[classes, slots] = image
        self.epoch[classes, slots] = epoch
        self.confidence[classes, slots] = confidence


def _rank_in_class(classes: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """For each region its place among those of its class (R,), and the regions of each class (number,)."""
    member = functional.one_hot(classes, number)
    before = member.cumsum(0) - member
    return before.gather(1, classes[:, None])[:, 0], member.sum(0)
