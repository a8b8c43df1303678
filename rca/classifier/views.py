"""The views of an image that inference sums over, and their features."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor

from rca.core.precision import Precision, choose_precision
from rca.core.settings import Scales, Settings
from rca.data.loading.features import View
from rca.data.manifest import ImageRecord
from rca.models.resizing import rescale

Encoding = TypeVar("Encoding")


class InferenceSettings(Settings):
    """How images are scored.

    Attributes:
        longest_side: Photographs are first resized so that their longer side has so many pixels, and `scales` are
            relative to that; null leaves their size. A memory of positions needs many of them in a photograph.
        scales: Factors by which the image is resized; the maps of all scales are summed.
        flip: Also score the mirrored image.
        batch_size: Number of images of one size that are scored at once.
        precision: Precision of the backbone: "float32", or "bfloat16" on a GPU only.
    """

    longest_side: int | None = Field(default=None, ge=32, le=8192)
    scales: Scales = (0.5, 1.0, 1.5, 2.0)
    flip: bool = True
    batch_size: int = Field(default=8, ge=1, le=4096)
    precision: Precision = "bfloat16"

    @property
    def views(self) -> tuple[View, ...]:
        """All views of an image: each scale, as it is and mirrored."""
        mirrorings = (False, True) if self.flip else (False,)
        return tuple(View(scale, mirrored) for scale in self.scales for mirrored in mirrorings)

    def find_factor(self, height: int, width: int) -> float:
        """The factor by which images of a size are resized before their scales apply."""
        return 1.0 if self.longest_side is None else self.longest_side / max(height, width)


def encode_views(
    encode: Callable[[Tensor], Encoding],
    batch: Tensor,
    views: tuple[View, ...],
    precision: Precision,
    factor: float = 1.0,
) -> Iterator[Encoding]:
    """Encode each view of some images.

    Args:
        encode: Computes the features of images, in evaluation mode.
        batch: (B, 3, H, W), normalised, on the backbone's device.
        views: The views to encode.
        precision: As in `InferenceSettings`.
        factor: The factor of the images' size to which the scales of the views are relative.

    Yields:
        The encoding of each view, in their order.
    """
    for view in views:
        scaled = rescale(batch, view.scale * factor).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), choose_precision(batch.device, precision):
            encoding = encode(scaled.flip(3) if view.mirrored else scaled)
        yield encoding


def group_by_size(records: Iterable[ImageRecord], number: int) -> Iterator[list[ImageRecord]]:
    """Batches of up to `number` images of one height and width that belong to the same splits.

    The last digits of a score depend on the size of its batch. If batches mixed splits, new held-out photographs would
    change the scores of training images.
    """

    def key(record: ImageRecord) -> tuple[tuple[str, ...], int, int]:
        return record.splits, record.height, record.width

    for _, group in groupby(sorted(records, key=key), key):
        chosen = list(group)
        for start in range(0, len(chosen), number):
            yield chosen[start : start + number]
