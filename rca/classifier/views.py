"""The views of an image that inference sums over, and what a backbone makes of them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor

from rca.core.precision import Precision, choose_precision
from rca.core.settings import Settings
from rca.data.loading.features import View
from rca.data.manifest import ImageRecord
from rca.models.resizing import rescale

Encoding = TypeVar("Encoding")


class InferenceSettings(Settings):
    """How images are scored.

    Attributes:
        scales: Factors by which the image is resized; the maps of all are summed.
        flip: Score the mirrored image as well.
        batch_size: Images of one size that are scored at once.
        precision: Of the backbone: "float32", or "bfloat16" on a GPU (a CPU always takes float32).
    """

    scales: tuple[float, ...] = Field(default=(0.5, 1.0, 1.5, 2.0), min_length=1)
    flip: bool = True
    batch_size: int = Field(default=8, ge=1)
    precision: Precision = "bfloat16"

    @property
    def views(self) -> tuple[View, ...]:
        """All ways in which an image is looked at."""
        mirrorings = (False, True) if self.flip else (False,)
        return tuple(View(scale, mirrored) for scale in self.scales for mirrored in mirrorings)


def encode_views(
    encode: Callable[[Tensor], Encoding], batch: Tensor, views: tuple[View, ...], precision: Precision
) -> Iterator[Encoding]:
    """What a backbone makes of each view of some images.

    Args:
        encode: From images to what it makes of them; in evaluation mode.
        batch: (B, 3, H, W), normalised, on the backbone's device.
        views: How the images are looked at.
        precision: As in `InferenceSettings`.

    Yields:
        That for each view, in their order.
    """
    for view in views:
        scaled = rescale(batch, view.scale)
        with torch.no_grad(), choose_precision(batch.device, precision):
            encoding = encode(scaled.flip(3) if view.mirrored else scaled)
        yield encoding


def group_by_size(records: Iterable[ImageRecord], number: int) -> Iterator[list[ImageRecord]]:
    """Batches of up to `number` images of one height and width that belong to the same splits.

    The last digits of a score depend on the size of its batch: with images of other splits in it, new photographs that
    are held out would score those anew that are trained on.
    """

    def key(record: ImageRecord) -> tuple[tuple[str, ...], int, int]:
        return record.splits, record.height, record.width

    for _, group in groupby(sorted(records, key=key), key):
        chosen = list(group)
        for start in range(0, len(chosen), number):
            yield chosen[start : start + number]
