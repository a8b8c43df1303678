"""From a batch to the terms of its loss: what a training of the classification network minimises."""

from torch import Tensor

from rca.classifier.network import CamNetwork
from rca.data.loading.features import View
from rca.data.loading.images import Sample
from rca.models.output import Output
from rca.models.resizing import rescale

SECOND_VIEW = 0.3
"""The scale of the second view in SEAM's released code."""


def compute_losses(
    network: CamNetwork, batch: Sample, epoch: int, second_view: float = SECOND_VIEW
) -> dict[str, Tensor]:
    """The terms of the loss of a batch, and of its further views where host or method need them.

    Args:
        network: The network in training.
        batch: The batch.
        epoch: Counted from 0.
        second_view: The scale of the second view, see `CamNetwork.needs_second_view`.
    """
    output = network(batch.image, batch.valid, batch.tags)
    if network.needs_second_view:
        output = output._replace(second=network(rescale(batch.image, second_view), batch.valid, batch.tags))
    if network.method.views:
        output = output._replace(copies=tuple(_copy(network, batch, view) for view in network.method.views))
    return network.compute_losses(output, batch, epoch)


def _copy(network: CamNetwork, batch: Sample, view: View) -> Output:
    """The output for a view of the images of a batch, without their partners."""
    number = len(batch.image) // (2 if network.method.pairs_images else 1)
    images, valid = rescale(batch.image[:number], view.scale), batch.valid[:number]
    return network.look(images.flip(3), valid.flip(3)) if view.mirrored else network.look(images, valid)


def compute_losses_of_features(network: CamNetwork, batch: Sample, epoch: int) -> dict[str, Tensor]:
    """The same for a batch of cached features."""
    output = network.score(batch.features, batch.valid, tags=batch.tags)
    return network.compute_losses(output, batch, epoch)
