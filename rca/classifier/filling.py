"""Fill the memory of a finished network from its training images, for a method that does so after the training."""

import torch

from rca.classifier.inference import encode_images, find_finest, score_view
from rca.classifier.network import CamNetwork
from rca.classifier.views import InferenceSettings, group_by_size
from rca.core.progress import track
from rca.data.loading.features import FeatureCache
from rca.data.manifest import Manifest
from rca.methods.base import WholeImages


@torch.no_grad()
def fill_memory(
    network: CamNetwork, manifest: Manifest, settings: InferenceSettings, seed: int, cache: FeatureCache | None = None
) -> None:
    """Fill the memory in as many passes as the method asks for.

    Args:
        network: In evaluation mode, with a method that has `passes`; its memory is changed in place.
        manifest: The training images.
        settings: The views of an image, as for its score maps.
        seed: Seed of the clustering.
        cache: The features of all views, if the backbone is frozen; None computes them.
    """
    method, epoch = network.method, max(network.description.epochs - 1, 0)
    tags = torch.stack([torch.from_numpy(manifest.encode_tags(record)) for record in manifest.images])
    device = next(network.parameters()).device
    for number in range(method.passes):
        wanted = method.start_pass(number, tags.to(device))
        step = max(1, len(manifest.images) // max(wanted, 1))
        batches = list(group_by_size(manifest.images[::step], settings.batch_size))
        for batch in track(batches, f"pass {number + 1} of {method.passes} to fill the memory", len(batches)):
            position = torch.tensor([manifest.index[record.id] for record in batch])
            size = (batch[0].height, batch[0].width)
            images = WholeImages(tags[position].to(device), position.to(device), size)
            views = []
            for view, encoded in zip(
                settings.views, encode_images(network, manifest, batch, settings, cache), strict=True
            ):
                output, _ = score_view(network, encoded, images.tags)
                views.append(output.mirror() if view.mirrored else output)
            method.memorise(views, find_finest(views), images, epoch)
        method.finish_pass(seed)
