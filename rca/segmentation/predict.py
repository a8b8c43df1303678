"""Prediction with a segmentation network, averaged over scales and mirrorings, with an optional CRF."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rca.core.arrays import UInt8Array
from rca.core.settings import Scales, Settings
from rca.data.loading.images import normalise
from rca.labels.crf import CrfSettings
from rca.labels.crf_fast import refine_masks
from rca.segmentation.network import Segmenter


class PredictionSettings(Settings):
    """How images are segmented.

    Attributes:
        scales: Factors by which the image is resized; the probabilities of all scales are averaged.
        flip: Also predict the mirrored image.
        crf: The CRF over the predicted labels; null for none.
    """

    scales: Scales = (1.0,)
    flip: bool = True
    crf: CrfSettings | None = None


@torch.no_grad()
def sum_probabilities(network: Segmenter, images: Tensor, scales: Scales, flip: bool) -> Tensor:
    """Sum the probabilities of images over several scales and mirrorings.

    Args:
        network: In evaluation mode.
        images: (B, 3, H, W), normalised, on the network's device.
        scales: Factors by which the images are resized.
        flip: Also predict the mirrored images.

    Returns:
        (B, C+1, H, W); at each pixel the labels sum to the number of scales, or twice that with `flip`.
    """
    batch, _, height, width = images.shape
    total = torch.zeros(batch, len(network.description.classes) + 1, height, width, device=images.device)
    for scale in scales:
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = functional.interpolate(images, target, mode="bilinear", antialias=True) if scale != 1 else images
        for mirrored in (False, True) if flip else (False,):
            scores = network(scaled.flip(3) if mirrored else scaled).softmax(1)
            scores = scores.flip(3) if mirrored else scores
            total += scores if scale == 1 else functional.interpolate(scores, (height, width), mode="bilinear")
    return total


def predict_mask(
    network: Segmenter, image: UInt8Array, settings: PredictionSettings, allowed: UInt8Array | None = None
) -> UInt8Array:
    """Segment one image.

    Args:
        network: In evaluation mode.
        image: (H, W, 3), RGB.
        settings: Scales, flip and CRF.
        allowed: (L,), the labels that may come about: 0, and those of the image's tags. None allows all, and the CRF
            then runs over those that the network finds.

    Returns:
        (H, W), 0 for the background and 1..C.
    """
    about = network.description
    batch = normalise(image, about.mean, about.std)[None].to(next(network.parameters()).device)
    total = sum_probabilities(network, batch, settings.scales, settings.flip)[0]
    labels = np.arange(len(total), dtype=np.uint8) if allowed is None else allowed
    mask: UInt8Array = labels[total[labels.tolist()].argmax(0).cpu().numpy()]
    if settings.crf is None:
        return mask
    shown = np.unique(np.append(mask, 0)).astype(np.uint8) if allowed is None else allowed
    return refine_masks(image, [total[shown.tolist()].cpu().numpy()], shown, settings.crf)[0]
