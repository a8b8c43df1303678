"""What a host is: how the base network turns features into maps and learns from tags; the plain CAM unless overridden.

A host is one module in this folder that defines `HOST` (a subclass of `Host`). Any method goes on any host.
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
"""The images (B, 3, H, W) and the features of the backbone's two earlier levels."""


class Host(nn.Module):
    """A 1x1 classifier on the features, trained on image-level tags; other hosts override what they change.

    Args:
        channels: Of the features.
        classes: How many object classes there are.
        options: The host's own settings; None for the defaults.
        level_channels: Of the features of the backbone's two earlier levels, for a host that needs them.

    Attributes:
        Options: The settings class of the host's options.
        needs_second_view: Whether the loss looks at the batch a second time, at another scale (`Output.second`).
        needs_levels: Whether `refine` looks at the images and at earlier levels of the backbone.
        needs_saliency: Whether the loss goes by saliency maps (`Sample.saliency`).
        needs_one_process: Whether a training cannot be shared by several processes.
        normalisation: How inference brings the summed maps to 0..1.
    """

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
        return self.classifier(features)

    def refine(self, output: Output, levels: Levels | None, tags: Tensor | None) -> Output:
        """Add the maps that inference takes in place of the method's (`Output.refined`), for a host that has others.

        Args:
            output: Of the method.
            levels: What `needs_levels` asked for; None where it did not.
            tags: (B, C) of 0 and 1, the classes that may be there; None for all.
        """
        return output

    def begin(self, records: Sequence[ImageRecord], folder: Path, epochs: int) -> None:
        """Prepare for a training, for a host that keeps something of each image.

        Args:
            records: The images, in the order that `Sample.position` counts in.
            folder: For the host's files. It outlasts a training that is stopped and goes on later, and no other.
            epochs: How many the training has.

        Raises:
            UserError: they are too few.
        """

    def observe(self, output: Output, batch: Sample, epoch: int) -> None:
        """Take in what the network makes of a training batch, before the batch's losses are computed.

        An epoch that was stopped is observed again from its start.

        Args:
            output: Of the network.
            batch: What it was computed from.
            epoch: Counted from 0.
        """

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The weighted terms of the host's loss, by name.

        Args:
            output: Of the network.
            batch: What it was computed from.
            epoch: Counted from 0.

        Returns:
            `classification`, a mean over the views where there are two, and what a host adds.
        """
        loss = self.classification_loss(output.maps, output.valid, batch.tags, batch.weight)
        if output.second is not None:
            second = self.classification_loss(output.second.maps, output.second.valid, batch.tags, batch.weight)
            loss = (loss + second) / 2
        return {"classification": loss}

    def classification_loss(self, maps: Tensor, valid: Tensor, tags: Tensor, weight: Tensor) -> Tensor:
        """Multi-label soft margin: binary cross-entropy of the pooled maps, a mean over images and classes.

        Args:
            maps: (B, C, h, w).
            valid: (B, 1, h, w), 1 on the image and 0 on padding.
            tags: (B, C) of 0 and 1.
            weight: (B,) or (), what each image's term is multiplied with.
        """
        losses = functional.multilabel_soft_margin_loss(pool_mean(maps, valid), tags, reduction="none")
        return mean_of_rows(weight * losses)


MakeHost = Callable[[int, int], Host]
"""Builds a host for so many feature channels and so many classes."""
