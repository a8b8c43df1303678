"""What a cross-image method is: the part in which CAM, RCA, HSC and MCIS differ, and nothing more.

A method is one module in this folder that defines `METHOD` (a subclass of `Method`). Backbone, data, loop, optimiser,
inference, labels and evaluation are shared, so that a comparison compares the methods alone.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from rca.data.loading import Sample
from rca.settings import Settings


class NoOptions(Settings):
    """The options of a method that has none."""


class Output(NamedTuple):
    """What a network gives for a batch.

    Attributes:
        maps: (B, C, h, w), the class activation maps that inference scores with, before ReLU.
        features: (B, D, h, w), what the maps were computed from.
        valid: (B, 1, h, w), the part of each feature's field that lies on the image, 0..1.
        auxiliary: (B, C, h, w), maps of the plain features, where a method scores with others; else None.
    """

    maps: Tensor
    features: Tensor
    valid: Tensor
    auxiliary: Tensor | None = None


class Method(nn.Module):
    """The plain CAM, which adds nothing; other methods override what they change.

    Args:
        options: The method's own settings.
        channels: Of the features.
        classes: How many object classes there are.
        make_host: Builds the host's head for a number of feature channels.
    """

    host: Any
    Options: ClassVar[type[Settings]] = NoOptions
    keeps_memory: ClassVar[bool] = False

    def __init__(
        self, options: Settings, channels: int, classes: int, make_host: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.host = make_host(channels, classes)

    def forward(self, features: Tensor, valid: Tensor) -> Output:
        """Score features (B, D, h, w)."""
        return Output(self.host(features), features, valid)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The weighted terms of the training loss, by name. A method with a memory takes up the batch here.

        Args:
            output: Of `forward`.
            batch: What it was computed from.
            epoch: Counted from 0.
        """
        return {"classification": self.host.classification_loss(output.maps, output.valid, batch.tags)}

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Prepare for an epoch, e.g. cluster the memory."""

    def memory_state(self) -> dict[str, Tensor]:
        """The tensors of the memory, by their name in the method's state; empty for a method without."""
        return {}

    def name_rows(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """What the rows of the memory stand for."""
        return classes
