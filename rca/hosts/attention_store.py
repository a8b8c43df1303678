"""Attention maps that grow over a training, one per image and tagged class, in a memory-mapped file.

The maps are in the frame of the photograph, whatever crop or mirrored view the training sees. Each epoch has its own
file, which starts as a copy of the last one: an epoch that was stopped starts again from the state before it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import write_file
from rca.data.manifest import ImageRecord


class AttentionStore:
    """The element-wise maximum of all accumulated maps of an image and a class (OAA, section 3.2).

    Args:
        records: The images; the position of an image is its index here.
        folder: The folder of the files; its content is deleted when the first epoch begins.
        stride: Pixels of the photograph per value of a map.
        first: The first epoch that accumulates maps.
    """

    def __init__(self, records: Sequence[ImageRecord], folder: Path, stride: int, first: int) -> None:
        self.records, self.folder, self.first = records, folder, first
        self.sizes = [(-(-record.height // stride), -(-record.width // stride)) for record in records]
        areas = [len(record.tags) * height * width for record, (height, width) in zip(records, self.sizes, strict=True)]
        self._ends = np.cumsum(areas, dtype=np.int64)
        self._epoch = -1
        self._values: np.memmap[tuple[int, ...], np.dtype[np.uint8]]

    def open(self, epoch: int) -> None:
        """Open the file of an epoch for reading and writing.

        Raises:
            UserError: the file of the epoch before is missing.
        """
        if epoch == self._epoch:
            return
        path, previous = self._name(epoch), self._name(epoch - 1)
        if self._epoch >= 0:
            self._values.flush()
        if epoch == self.first:
            shutil.rmtree(self.folder, ignore_errors=True)
            with write_file(path) as draft:
                np.lib.format.open_memmap(draft, "w+", np.uint8, (max(1, int(self._ends[-1])),)).flush()
        elif previous.is_file():
            with write_file(path) as draft:
                shutil.copyfile(previous, draft)
        else:
            raise UserError(f"{previous} is missing: delete {self.folder.with_suffix('.pt')} to train from the start.")
        self._values, self._epoch = np.lib.format.open_memmap(path, "r+"), epoch
        for old in set(self.folder.glob("*.npy")) - {path, previous}:
            old.unlink()

    def _name(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04}.npy"

    def read(self, position: int) -> UInt8Array:
        """The maps of an image (K, h, w), one per tag in their order; a writable view of the file."""
        shape = (len(self.records[position].tags), *self.sizes[position])
        end = self._ends[position]
        return self._values[end - np.prod(shape, dtype=np.int64) : end].reshape(shape)

    def accumulate(
        self,
        position: int,
        chosen: Sequence[int],
        maps: Tensor,
        frame: Tensor,
        size: Sequence[int],
        shown: Sequence[int],
    ) -> None:
        """Accumulate maps of an image.

        Args:
            position: The position of the image.
            chosen: The tags of the maps, by their index among the image's tags.
            maps: (len(chosen), h, w), 0..1, over the image in the batch, padding included.
            frame: (4,), the image's `rca.data.loading.images.Sample.frame`.
            size: Height and width of the image in the batch, padding included.
            shown: Height and width of the image in the batch without padding.
        """
        record, (height, width) = self.records[position], self.sizes[position]
        across, left, down, top = frame.tolist()
        x = ((torch.arange(width) + 0.5) * (record.width / width) - left) / across
        y = ((torch.arange(height) + 0.5) * (record.height / height) - top) / down
        seen = sample(maps, y / size[0], x / size[1])
        seen *= ((y >= 0) & (y < shown[0]))[:, None] & ((x >= 0) & (x < shown[1]))
        kept = self.read(position)
        kept[list(chosen)] = np.maximum(kept[list(chosen)], (255 * seen).round().to(torch.uint8).numpy())

    def look_up(self, position: int, frame: Tensor, size: Sequence[int], cells: Sequence[int]) -> Tensor:
        """The accumulated maps of an image, in the frame of an augmented view of it.

        Args:
            position: The position of the image.
            frame: As in `accumulate`.
            size: As in `accumulate`.
            cells: Height and width of the result.

        Returns:
            (K, *cells), float32, 0..1, one map per tag.
        """
        record = self.records[position]
        across, left, down, top = frame.tolist()
        x = across * (torch.arange(cells[1]) + 0.5) * (size[1] / cells[1]) + left
        y = down * (torch.arange(cells[0]) + 0.5) * (size[0] / cells[0]) + top
        kept = torch.from_numpy(self.read(position).astype(np.float32) / 255)
        return sample(kept, y / record.height, x / record.width)


def sample(maps: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Sample maps bilinearly on a grid; outside the maps, their outer values are repeated.

    Args:
        maps: (K, h, w).
        down: (m,), the rows of the grid, 0..1 from the upper to the lower edge of the maps.
        across: (n,), the columns of the grid, 0..1 from the left to the right edge.

    Returns:
        (K, m, n).
    """
    grid = torch.stack([across.expand(len(down), -1), down[:, None].expand(-1, len(across))], 2).to(maps.dtype)
    return functional.grid_sample(maps[None], 2 * grid[None] - 1, padding_mode="border", align_corners=False)[0]
