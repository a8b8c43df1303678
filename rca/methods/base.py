"""The interface of a cross-image method: the only part in which CAM, RCA, HSC and MCIS differ.

A method is one module in this folder that declares `METHOD`, a subclass of `Method`. Backbone, data, training loop,
optimiser, inference, labels and evaluation are shared, so a comparison compares the methods alone.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from rca.core.settings import Settings
from rca.data.loading.features import View
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.models.output import Output
from rca.models.pooling import pool_mean


class WholeImages(NamedTuple):
    """Some training images that a finished network has scored.

    Attributes:
        tags: (B, C) of 0 and 1.
        position: (B,), int64: the positions of the images in the manifest.
        size: Height and width of the photographs.
    """

    tags: Tensor
    position: Tensor
    size: tuple[int, int]


class Method(nn.Module):
    """The plain CAM, which adds nothing; other methods override what they change.

    Args:
        options: The method's own settings.
        channels: Number of feature channels, D.
        classes: Number of object classes, C.
        make_host: Builds a host for features of so many channels and so many classes.

    Attributes:
        host: Turns features into maps and learns from tags.
        Options: The settings class of the method's options.
        keeps_memory: Whether inference needs the memory, which is then saved as a snapshot of its own.
        passes: Number of passes over the training images that fill the memory after the training (`memorise`).
        needs_second_view: Whether the loss needs the batch at a second scale (`Output.second`).
        locates: Whether inference takes its maps from `locate`, and not from a sum of the views' maps.
        views: Further views of the images, without their partners, that the loss needs (`Output.copies`), see
            `list_views`.
        pairs_images: Whether each image of a training batch comes with a partner that shares a class, the partners as
            the second half of the batch. Inference then also scores images beside references (`score_beside`).
        refuses: The hosts that the method cannot run on, by name, each with the reason as the end of a sentence.
    """

    Options: ClassVar[type[Settings]] = Settings
    keeps_memory: ClassVar[bool] = False
    passes: int = 0
    needs_second_view: ClassVar[bool] = False
    locates: ClassVar[bool] = False
    views: tuple[View, ...] = ()
    pairs_images: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: Settings, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__()
        self.views = self.list_views(options)
        self.host = make_host(channels, classes)

    @classmethod
    def list_views(cls, options: Settings) -> tuple[View, ...]:
        """The further views of the images that the loss needs with these options."""
        return ()

    def forward(self, features: Tensor, valid: Tensor) -> Output:
        """Score features (B, D, h, w)."""
        return Output(self.host(features), features, valid)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The weighted terms of the training loss, by name: the host's terms, then the method's own.

        A method with a memory adds the batch to it here.

        Args:
            output: The network's output for the batch, refined by the host, with the second view if one is needed.
            batch: The batch.
            epoch: Counted from 0.
        """
        return self.host.compute_losses(output, batch, epoch)

    def locate(self, views: Sequence[Output], finest: int, tags: Tensor | None) -> Output:
        """Locate the classes at inference in all views of some images together; for methods that `locates`.

        Args:
            views: The output for each view, refined by the host, in the frame of the photographs (not mirrored).
            finest: The number of the view whose size the result has.
            tags: (B, C) of 0 and 1, the classes that may be present; None for all.

        Returns:
            The output of the finest view, its maps shares 0..1 that sum to 1 with its `background`.
        """
        raise NotImplementedError

    def classify(self, output: Output) -> Tensor:
        """The image-level scores (B, C), before the sigmoid, of an output of `forward`."""
        return pool_mean(output.maps, output.valid)

    def score_beside(self, features: Tensor, others: Tensor, valid: Tensor) -> Tensor:
        """Score each image beside another one; for methods with `pairs_images`.

        Args:
            features: (B, D, h, w).
            others: (B, D, h', w'), the features of the other images.
            valid: (B, 1, h', w'), 0 on padding of the other images.

        Returns:
            (B, C, h, w), class activation maps before ReLU.
        """
        raise NotImplementedError

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Prepare for an epoch, e.g. cluster the memory."""

    def memorise(self, views: Sequence[Output], finest: int, images: WholeImages, epoch: int) -> None:
        """Look at some training images after the training, e.g. to add them to the memory; for methods with `passes`.

        Args:
            views: As for `locate`.
            finest: As for `locate`.
            images: The images.
            epoch: The last epoch of the training, counted from 0.
        """
        raise NotImplementedError

    def start_pass(self, number: int, tags: Tensor) -> int:
        """Begin a pass over the training images; for methods with `passes`.

        Args:
            number: The number of the pass, counted from 0.
            tags: (N, C) of 0 and 1, of all training images.

        Returns:
            The number of images that the pass looks at; if there are more, images at even steps are taken.
        """
        raise NotImplementedError

    def finish_pass(self, seed: int) -> None:
        """End a pass over the training images, e.g. cluster the memory; for methods with `passes`."""
        raise NotImplementedError

    def memory_state(self) -> dict[str, Tensor]:
        """The tensors of the memory, by their names in the method's state; empty without a memory."""
        return {}

    def name_rows(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the memory's rows."""
        return classes
