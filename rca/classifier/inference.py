"""Score maps of images, summed over several scales and both mirrorings (the field's usual inference)."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rca.classifier.network import CamNetwork
from rca.classifier.references import Beside, References
from rca.classifier.views import InferenceSettings, encode_views, group_by_size
from rca.core.arrays import Float32Array, UInt8Array
from rca.core.files import read_photograph
from rca.core.normalisation import normalise_maps
from rca.data.loading.features import FeatureCache
from rca.data.loading.images import normalise
from rca.data.manifest import ImageRecord, Manifest
from rca.hosts.base import Levels
from rca.labels.score_maps import ScoreMaps
from rca.models.output import Output

Encoded = tuple[Tensor, Levels | None]
"""What `CamNetwork.encode` returns for one view of some images."""
Scored = tuple[Output, Levels | None]
"""The output for one view of some images, and the view's levels."""


def score_images(
    network: CamNetwork,
    manifest: Manifest,
    records: tuple[ImageRecord, ...],
    settings: InferenceSettings,
    stride: int,
    cache: FeatureCache | None = None,
    references: References | None = None,
) -> Iterator[tuple[ImageRecord, ScoreMaps]]:
    """Score images, given their tags; maps of other classes are dropped.

    Args:
        network: In evaluation mode.
        manifest: The dataset of the records.
        records: The images to score.
        settings: Scales, flip, batch size and precision.
        stride: Pixels of the image per value of a map.
        cache: The features of all views, if the backbone is frozen; None computes them.
        references: The references to score images beside, for a method that pairs images; None scores each alone.

    Yields:
        A record and its maps, in an order that depends on the image sizes.
    """
    for batch in group_by_size(records, settings.batch_size):
        tags = torch.from_numpy(np.stack([manifest.encode_tags(record) for record in batch]))
        beside = references.gather(batch) if references else None
        encoded = encode_images(network, manifest, batch, settings, cache)
        shape = (len(batch), batch[0].height, batch[0].width)
        maps, logits = score_features(network, encoded, shape, settings, stride, tags, beside)
        for record, of_image, scores in zip(batch, maps, logits, strict=True):
            labels = np.array([tag + 1 for tag in record.tags], np.uint8)
            tagged = normalise_tagged(network, of_image[list(record.tags)])
            yield record, ScoreMaps(labels, tagged.half().cpu().numpy(), scores.cpu().numpy())


def normalise_tagged(network: CamNetwork, maps: Tensor) -> Tensor:
    """Bring the maps (K, h, w) of an image's tags to 0..1, as the network's host defines.

    Maps that a method locates are shares, which mean the same in every photograph: they stay as they are.
    """
    return maps if network.method.locates else normalise_maps(maps, by=network.host.normalisation)


def encode_images(
    network: CamNetwork,
    manifest: Manifest,
    batch: Sequence[ImageRecord],
    settings: InferenceSettings,
    cache: FeatureCache | None,
) -> Iterator[Encoded]:
    """The result of `CamNetwork.encode` for each view of some images of one size; arguments as for `score_images`."""
    if cache is None:
        return encode_photographs(network, [read_photograph(manifest.photograph(one)) for one in batch], settings)
    return ((torch.stack([cache.read(record.id, view) for record in batch]), None) for view in settings.views)


def encode_photographs(
    network: CamNetwork, photographs: Iterable[UInt8Array], settings: InferenceSettings
) -> Iterator[Encoded]:
    """The result of `CamNetwork.encode` for each view of photographs (H, W, 3) of one size."""
    about = network.description
    device = next(network.parameters()).device
    batch = torch.stack([normalise(photograph, about.mean, about.std) for photograph in photographs]).to(device)
    factor = settings.find_factor(batch.shape[2], batch.shape[3])
    return encode_views(network.encode, batch, settings.views, settings.precision, factor)


def predict_tags(logits: Float32Array, threshold: float) -> tuple[int, ...]:
    """The classes that the classifier predicts for an image.

    Args:
        logits: (C,).
        threshold: The smallest probability of a predicted class, above 0 and below 1.

    Returns:
        The classes whose sigmoid reaches the threshold, ascending; the most probable class if none does, since every
        image of these datasets shows something.
    """
    reached = np.flatnonzero(logits >= math.log(threshold / (1 - threshold)))
    return tuple(reached.tolist()) or (int(logits.argmax()),)


def score_batch(
    network: CamNetwork,
    images: UInt8Array,
    settings: InferenceSettings,
    stride: int,
    tags: Tensor | None = None,
    beside: Beside | None = None,
) -> tuple[Tensor, Tensor]:
    """Score images of one size.

    Args:
        network: In evaluation mode.
        images: (B, H, W, 3), RGB.
        settings: Scales, flip and precision.
        stride: Pixels of the image per value of a map.
        tags: As for `score_features`.
        beside: As for `score_features`.

    Returns:
        As for `score_features`.
    """
    encoded = encode_photographs(network, images, settings)
    return score_features(network, encoded, images.shape[:3], settings, stride, tags, beside)


@torch.no_grad()
def score_features(
    network: CamNetwork,
    encoded: Iterable[Encoded],
    shape: tuple[int, ...],
    settings: InferenceSettings,
    stride: int,
    tags: Tensor | None = None,
    beside: Beside | None = None,
) -> tuple[Tensor, Tensor]:
    """Score images of one size from the features of their views.

    Args:
        network: In evaluation mode.
        encoded: The result of `CamNetwork.encode` for each of `settings.views`, in their order.
        shape: Number, height and width of the images.
        settings: Scales and flip.
        stride: Pixels of the image per value of a map.
        tags: (B, C) of 0 and 1, the classes that may be present; None for all.
        beside: The images' references, for a method that pairs images; None scores each image alone.

    Returns:
        The class activation maps after ReLU, summed over the views (B, C, ceil(H/stride), ceil(W/stride)), and the
        classifier's scores, averaged over the views (B, C), both float32. With references, the maps are a weighted mean
        of the image's maps alone and beside references, each normalised. A method that locates gives shares instead.
    """
    device, classes = next(network.parameters()).device, len(network.description.classes)
    number, height, width = shape
    size = (-(-height // stride), -(-width // stride))
    sums = torch.zeros(1 if beside is None else 2, number, classes, *size, device=device)
    logits = torch.zeros(number, classes, device=device)
    tags = None if tags is None else tags.to(device)
    kept: list[Scored] = []
    for view, (features, levels) in zip(settings.views, encoded, strict=True):
        output, levels = score_view(network, (features, levels), tags)
        logits += network.method.classify(output)
        if network.method.locates:
            kept.append((output.mirror() if view.mirrored else output, levels))
            continue
        outputs = [output]
        if beside is not None:
            paired = output._replace(maps=beside.score(network.method, output), refined=None)
            outputs.append(network.host.refine(paired, levels, tags))
        for total, output in zip(sums, outputs, strict=True):
            activation = output.scores.relu()
            activation = activation.flip(3) if view.mirrored else activation
            total += functional.interpolate(activation, size, mode="bilinear")
    maps = locate(network, kept, tags, size) if kept else sums[0]
    if beside is not None:
        alone, together = (normalise_maps(total, by=network.host.normalisation) for total in sums)
        maps = (1 - beside.share) * alone + beside.share * together
    return maps, logits / len(settings.views)


def score_view(network: CamNetwork, encoded: Encoded, tags: Tensor | None) -> Scored:
    """Score one view of whole images, and pass its levels on."""
    features, levels = encoded[0].to(next(network.parameters()).device), encoded[1]
    return network.score(features, torch.ones_like(features[:, :1]), levels, tags), levels


def find_finest(views: Sequence[Output]) -> int:
    """The number of the view with the most positions; the mirrored one of a scale comes last and is never it."""
    return max(range(len(views)), key=lambda number: views[number].maps[0, 0].numel())


def locate(network: CamNetwork, views: Sequence[Scored], tags: Tensor | None, size: tuple[int, int]) -> Tensor:
    """The shares of the classes (B, C, h, w), 0..1, that the method finds in all views together, refined by the host.

    Args:
        network: In evaluation mode, with a method that `locates`.
        views: Each view, in the frame of the photographs.
        tags: As for `score_features`.
        size: h and w.
    """
    outputs = [output for output, _ in views]
    finest = find_finest(outputs)
    refined = network.host.refine(network.method.locate(outputs, finest, tags), views[finest][1], tags)
    return functional.interpolate(refined.scores, size, mode="bilinear")
