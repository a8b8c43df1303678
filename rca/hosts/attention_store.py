"""Attention maps that grow over a training, one for each image and tagged class, in a file mapped into memory.

They lie in the frame of the photograph, whatever crop or mirrored view a training sees. Each epoch has a file of its
own that begins as a copy of the last one: an epoch that was stopped starts again from what the epochs before it left.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rca.core.errors import UserError
from rca.core.files import write_file
from rca.data.manifest import ImageRecord


class AttentionStore:
    """The element-wise maximum of all maps of an image and a class that were taken in (OAA, section 3.2).

    Args:
        records: The images; an image's position is its place among them.
        folder: Where the files lie; what it holds is deleted as the first epoch begins.
        stride: Pixels of the photograph for each value of a map.
        first: The first epoch that takes maps in.
    """

    def __init__(self, records: Sequence[ImageRecord], folder: Path, stride: int, first: int) -> None:
        self.records, self.folder, self.first = records, folder, first
        self.sizes = [(-(-record.height // stride), -(-record.width // stride)) for record in records]
        areas = [len(record.tags) * height * width for record, (height, width) in zip(records, self.sizes, strict=True)]
        self._ends = np.cumsum(areas, dtype=np.int64)
        self._epoch = -1
        self._values: np.memmap

    def open(self, epoch: int) -> None:
        """Make an epoch's file the one that is read and written.

        Raises:
            UserError: that of the epoch before is missing.
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

    def read(self, position: int) -> np.ndarray:
        """An image's maps (K, h, w), uint8, one for each of its tags in their order; to write to them is to keep."""
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
        """Take in maps of an image.

        Args:
            position: Of the image.
            chosen: Which of its tags the maps are of, by their number among them.
            maps: (len(chosen), h, w), 0..1, over the whole of the batch's image, padding included.
            frame: (4,), as `rca.data.loading.images.Sample.frame`.
            size: Height and width of the batch's image, padding included.
            shown: Height and width of it without the padding.
        """
        record, (height, width) = self.records[position], self.sizes[position]
        across, left, down, top = frame.tolist()
        x = ((torch.arange(width) + 0.5) * (record.width / width) - left) / across
        y = ((torch.arange(height) + 0.5) * (record.height / height) - top) / down
        found = sample(maps, y / size[0], x / size[1])
        found *= ((y >= 0) & (y < shown[0]))[:, None] & ((x >= 0) & (x < shown[1]))
        kept = self.read(position)
        kept[list(chosen)] = np.maximum(kept[list(chosen)], (255 * found).round().to(torch.uint8).numpy())

    def look_up(self, position: int, frame: Tensor, size: Sequence[int], cells: Sequence[int]) -> Tensor:
        """What was accumulated for an image, as an augmented view of it shows it.

        Args:
            position: Of the image.
            frame: As in `accumulate`.
            size: Likewise.
            cells: Height and width of the maps.

        Returns:
            (K, *cells), float32, 0..1, one for each tag.
        """
        record = self.records[position]
        across, left, down, top = frame.tolist()
        x = across * (torch.arange(cells[1]) + 0.5) * (size[1] / cells[1]) + left
        y = down * (torch.arange(cells[0]) + 0.5) * (size[0] / cells[0]) + top
        kept = torch.from_numpy(self.read(position).astype(np.float32) / 255)
        return sample(kept, y / record.height, x / record.width)


def sample(maps: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Read maps on a grid, bilinearly; beyond their outer values those go on.

    Args:
        maps: (K, h, w).
        down: (m,), where the rows of the grid lie, 0..1 from the maps' upper edge to the lower one.
        across: (n,), where the columns lie, likewise.

    Returns:
        (K, m, n).
    """
    grid = torch.stack([across.expand(len(down), -1), down[:, None].expand(-1, len(across))], 2).to(maps.dtype)
    return functional.grid_sample(maps[None], 2 * grid[None] - 1, padding_mode="border", align_corners=False)[0]
