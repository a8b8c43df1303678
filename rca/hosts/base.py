"""The interface of a host: how the base network turns features into maps and learns from tags.

A host is one module in this folder that declares `HOST`, a subclass of `Host`. Any method runs on any host.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from rca.core.distributed import mean_of_rows
from rca.core.normalisation import Normalisation
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.data.manifest import ImageRecord
from rca.models.output import Output
from rca.models.pooling import pool_mean

Levels = tuple[Tensor, Tensor, Tensor]
"""The images (B, 3, H, W) and the features of the backbone's two earlier levels (B, D, h, w)."""


class Host(nn.Module):
    """The plain CAM: a 1x1 classifier on the features; other hosts override what they change.

    Args:
        channels: Number of feature channels, D.
        classes: Number of object classes, C.
        options: The host's own settings; None for the defaults.
        level_channels: Channels of the backbone's two earlier levels, for a host that needs them.

    Attributes:
        Options: The settings class of the host's options.
        needs_second_view: Whether the loss needs the batch at a second scale (`Output.second`).
        needs_levels: Whether `refine` needs the images and earlier levels of the backbone.
        needs_saliency: Whether the loss needs saliency maps (`Sample.saliency`).
        needs_one_process: Whether a training must run in one process.
        normalisation: How inference brings the summed maps to 0..1.
    """

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    Options: ClassVar[type[Settings]] = Settings
    needs_second_view: ClassVar[bool] = False
    needs_levels: ClassVar[bool] = False
    needs_saliency: ClassVar[bool] = False
    needs_one_process: ClassVar[bool] = False
    normalisation: Normalisation = "max"

    def __init__(
        self, channels: int, classes: int, options: Settings | None = None, level_channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, classes, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Class activation maps (B, C, h, w), before ReLU, of features (B, D, h, w)."""
        maps: Tensor = self.classifier(features)
        return maps

    def refine(self, output: Output, levels: Levels | None, tags: Tensor | None) -> Output:
        """Add the maps that inference uses instead of the method's (`Output.refined`), if the host refines them.

        Args:
            output: The method's output.
            levels: The images and earlier levels; None unless `needs_levels`.
            tags: (B, C) of 0 and 1, the classes that may be present; None for all.
        """
        return output

    def begin(self, records: Sequence[ImageRecord], folder: Path, epochs: int) -> None:
        """Prepare for a training, for a host that stores something for each image.

        Args:
            records: The images; `Sample.position` is the index in this order.
            folder: The folder of the host's files, kept while a training is stopped and removed when it is done.
            epochs: Number of epochs of the training.

        Raises:
            UserError: the host needs more epochs.
        """

    def observe(self, output: Output, batch: Sample, epoch: int) -> None:
        """Store something of a training batch, before its losses are computed.

        An epoch that was stopped is observed again from its start.

        Args:
            output: The network's output for the batch.
            batch: The batch.
            epoch: Counted from 0.
        """

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The weighted terms of the host's loss, by name.

        Args:
            output: The network's output for the batch.
            batch: The batch.
            epoch: Counted from 0.

        Returns:
            `classification`, the mean over the views if there are two, and further terms of other hosts.
        """
        loss = self.classification_loss(output.maps, output.valid, batch.tags, batch.weight)
        if output.second is not None:
            second = self.classification_loss(output.second.maps, output.second.valid, batch.tags, batch.weight)
            loss = (loss + second) / 2
        return {"classification": loss}

    def classification_loss(self, maps: Tensor, valid: Tensor, tags: Tensor, weight: Tensor) -> Tensor:
        """Multi-label soft margin loss: binary cross-entropy of the pooled maps, averaged over images and classes.

        Args:
            maps: (B, C, h, w).
            valid: (B, 1, h, w), 1 on the image and 0 on padding.
            tags: (B, C) of 0 and 1.
            weight: (B,) or (), the factor of each image's loss.
        """
        losses = functional.multilabel_soft_margin_loss(pool_mean(maps, valid), tags, reduction="none")
        return mean_of_rows(weight * losses)


MakeHost = Callable[[int, int], Host]
"""Builds a host for so many feature channels and so many classes."""
