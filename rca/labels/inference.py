"""Score maps of images: several scales, mirrored and not, summed (the field's common inference)."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rca.artifacts import read_photograph
from rca.data.loading import normalise
from rca.data.manifest import ImageRecord, Manifest
from rca.labels.score_maps import ScoreMaps
from rca.models.cam_network import CamNetwork
from rca.models.pooling import pool_mean
from rca.settings import Settings


class InferenceSettings(Settings):
    """How images are scored.

    Attributes:
        scales: Factors by which the image is resized; the maps of all are summed.
        flip: Score the mirrored image as well.
        batch_size: Images of one size that are scored at once.
        precision: "float32", or "bfloat16" on a GPU (a CPU always takes float32).
    """

    scales: tuple[float, ...] = Field(default=(0.5, 1.0, 1.5, 2.0), min_length=1)
    flip: bool = True
    batch_size: int = Field(default=8, ge=1)
    precision: str = Field(default="bfloat16", pattern="^(float32|bfloat16)$")


def score_images(
    network: CamNetwork, manifest: Manifest, records: tuple[ImageRecord, ...], settings: InferenceSettings, stride: int
) -> Iterator[tuple[ImageRecord, ScoreMaps]]:
    """Score images with their tags given; maps of other classes are not kept.

    Args:
        network: In evaluation mode.
        manifest: The dataset that the records are of.
        records: What to score.
        settings: How.
        stride: Pixels of the image for each value of a map.

    Yields:
        A record and its maps, in an order that depends on the images' sizes.
    """
    for batch in _batches_of_one_size(records, settings.batch_size):
        images = np.stack([read_photograph(manifest.photograph(record)) for record in batch])
        maps, logits = score_batch(network, images, settings, stride)
        for record, one, scores in zip(batch, maps, logits, strict=True):
            labels = np.array([tag + 1 for tag in record.tags], np.uint8)
            kept = normalise_maps(one[list(record.tags)]).half()
            yield record, ScoreMaps(labels, kept.cpu().numpy(), scores.cpu().numpy())


def normalise_maps(maps: Tensor) -> Tensor:
    """Divide each map by its maximum.

    Args:
        maps: (K, h, w), at least 0.

    Returns:
        (K, h, w), 0..1.
    """
    return maps / (maps.amax((1, 2), keepdim=True) + 1e-5)


@torch.no_grad()
def score_batch(
    network: CamNetwork, images: np.ndarray, settings: InferenceSettings, stride: int
) -> tuple[Tensor, Tensor]:
    """Score images of one size.

    Args:
        network: In evaluation mode.
        images: (B, H, W, 3), uint8, RGB.
        settings: How.
        stride: Pixels of the image for each value of a map.

    Returns:
        The class activation maps after ReLU, summed over scales and flips (B, C, ceil(H/stride), ceil(W/stride)), and
        the classifier's mean score over the same (B, C), both float32.
    """
    about = network.description
    device = next(network.parameters()).device
    batch = torch.stack([normalise(image, about.mean, about.std) for image in images]).to(device)
    height, width = images.shape[1:3]
    size = (-(-height // stride), -(-width // stride))
    half = device.type == "cuda" and settings.precision == "bfloat16"
    maps = torch.zeros(len(images), len(about.classes), *size, device=device)
    logits = torch.zeros(len(images), len(about.classes), device=device)
    for scale in settings.scales:
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = functional.interpolate(batch, target, mode="bilinear", antialias=True) if scale != 1 else batch
        for mirrored in (False, True) if settings.flip else (False,):
            view = scaled.flip(3) if mirrored else scaled
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                output = network(view, torch.ones_like(view[:, :1]))
            # Maps that compare with prototypes say where a class would be, not whether: the plain maps do.
            plain = output.maps if output.auxiliary is None else output.auxiliary
            logits += pool_mean(plain.float(), output.valid)
            activation = output.maps.float().relu()
            activation = activation.flip(3) if mirrored else activation
            maps += functional.interpolate(activation, size, mode="bilinear")
    return maps, logits / (len(settings.scales) * (2 if settings.flip else 1))


def _batches_of_one_size(records: tuple[ImageRecord, ...], size: int) -> Iterator[list[ImageRecord]]:
    def shape(record: ImageRecord) -> tuple[int, int]:
        return record.height, record.width

    for _, group in groupby(sorted(records, key=shape), shape):
        chosen = list(group)
        for start in range(0, len(chosen), size):
            yield chosen[start : start + size]
