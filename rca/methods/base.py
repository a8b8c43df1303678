"""What a cross-image method is: the part in which CAM, RCA, HSC and MCIS differ, and nothing more.

A method is one module in this folder that defines `METHOD` (a subclass of `Method`). Backbone, data, loop, optimiser,
inference, labels and evaluation are shared, so that a comparison compares the methods alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from rca.core.settings import Settings
from rca.data.loading.images import Sample


class NoOptions(Settings):
    """The options of a method that has none."""


class Output(NamedTuple):
    """What a network gives for a batch.

    Attributes:
        maps: (B, C, h, w), the method's class activation maps, before ReLU.
        features: (B, D, h, w), what the maps were computed from.
        valid: (B, 1, h, w), the part of each feature's field that lies on the image, 0..1.
        auxiliary: (B, C, h, w), maps of the plain features, where a method scores with others; else None.
        refined: (B, C, h, w), what the host makes of the maps for inference, at least 0, where it refines them; else
            None.
        background: (B, 1, h, w), what the maps leave to the background, where they are shares that sum to 1 with it;
            None where they are raw scores.
        second: The same of the second view of the batch, where host or method ask for one; else None.
    """

    maps: Tensor
    features: Tensor
    valid: Tensor
    auxiliary: Tensor | None = None
    refined: Tensor | None = None
    background: Tensor | None = None
    second: "Output | None" = None

    @property
    def scores(self) -> Tensor:
        """The maps that inference takes (B, C, h, w): the refined ones where the host refines."""
        return self.maps if self.refined is None else self.refined


class Method(nn.Module):
    """The plain CAM, which adds nothing; other methods override what they change.

    Args:
        options: The method's own settings.
        channels: Of the features.
        classes: How many object classes there are.
        make_host: Builds the host for a number of feature channels.

    Attributes:
        host: How maps come about and learn from tags; a `rca.hosts.base.Host`.
        Options: The settings class of the method's options.
        keeps_memory: Whether inference needs the memory, which then travels as a snapshot of its own.
        needs_second_view: Whether the loss looks at the batch a second time, at another scale (`Output.second`).
        pairs_images: Whether each image of a training batch comes with a partner that shares a class, the partners as
            the second half of the batch; inference then also scores an image beside references (`score_beside`).
        refuses: The hosts that the method does not go with, by name: why, as the end of a sentence.
    """

    host: Any
    Options: ClassVar[type[Settings]] = NoOptions
    keeps_memory: ClassVar[bool] = False
    needs_second_view: ClassVar[bool] = False
    pairs_images: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self, options: Settings, channels: int, classes: int, make_host: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.host = make_host(channels, classes)

    def forward(self, features: Tensor, valid: Tensor) -> Output:
        """Score features (B, D, h, w)."""
        return Output(self.host(features), features, valid)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The weighted terms of the training loss, by name: the host's, to which a method adds its own.

        A method with a memory takes up the batch here.

        Args:
            output: Of `forward`, with what the host refined and the second view added.
            batch: What it was computed from.
            epoch: Counted from 0.
        """
        return self.host.compute_losses(output, batch, epoch)

    def locate(self, output: Output, tags: Tensor | None) -> Output:
        """What inference takes in place of `forward`'s maps, knowing which classes may be there.

        Args:
            output: Of `forward`.
            tags: (B, C) of 0 and 1; None where nothing is known.
        """
        return output

    def score_beside(self, features: Tensor, others: Tensor, valid: Tensor) -> Tensor:
        """The maps of images that are each seen beside another one, for methods that pair images.

        Args:
            features: (B, D, h, w).
            others: (B, D, h', w'), of the other image of each.
            valid: (B, 1, h', w'), of the others: 0 on padding.

        Returns:
            (B, C, h, w), class activation maps before ReLU.
        """
        raise NotImplementedError

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Prepare for an epoch, e.g. cluster the memory."""

    def memory_state(self) -> dict[str, Tensor]:
        """The tensors of the memory, by their name in the method's state; empty for a method without."""
        return {}

    def name_rows(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """What the rows of the memory stand for."""
        return classes
