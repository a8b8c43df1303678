"""From a batch to the terms of its loss: what a training of the classification network minimises."""

from torch import Tensor

from rca.classifier.network import CamNetwork
from rca.data.loading.images import Sample
from rca.models.resizing import rescale

SECOND_VIEW = 0.3
"""The scale of the second view in SEAM's released code."""


def compute_losses(
    network: CamNetwork, batch: Sample, epoch: int, second_view: float = SECOND_VIEW
) -> dict[str, Tensor]:
    """The terms of the loss of a batch; where host or method look twice, also of its second view, at another scale."""
    output = network(batch.image, batch.valid, batch.tags)
    if network.needs_second_view:
        output = output._replace(second=network(rescale(batch.image, second_view), batch.valid, batch.tags))
    return network.compute_losses(output, batch, epoch)


def compute_losses_of_features(network: CamNetwork, batch: Sample, epoch: int) -> dict[str, Tensor]:
    """The same for a batch of cached features."""
    output = network.score(batch.features, batch.valid, tags=batch.tags)
    return network.compute_losses(output, batch, epoch)
