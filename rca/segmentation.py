"""Prediction with a segmentation network: several scales, mirrored and not, averaged; a CRF where wanted."""

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from rca.data.loading import normalise
from rca.labels.crf import CrfSettings, refine_mask
from rca.models.deeplab import Segmenter
from rca.settings import Settings


class PredictionSettings(Settings):
    """How images are segmented.

    Attributes:
        scales: Factors by which the image is resized; the probabilities of all are averaged.
        flip: Predict the mirrored image as well.
        crf: Energies of a CRF over the labels that the network finds; null for none.
    """

    scales: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    flip: bool = True
    crf: CrfSettings | None = None


@torch.no_grad()
def predict_mask(network: Segmenter, image: np.ndarray, settings: PredictionSettings) -> np.ndarray:
    """Segment one image; nothing is known of its tags.

    Args:
        network: In evaluation mode.
        image: (H, W, 3), uint8, RGB.
        settings: How.

    Returns:
        (H, W), uint8, 0 background and 1..C.
    """
    about = network.description
    device = next(network.parameters()).device
    batch = normalise(image, about.mean, about.std)[None].to(device)
    height, width = image.shape[:2]
    total = torch.zeros(len(about.classes) + 1, height, width, device=device)
    for scale in settings.scales:
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = functional.interpolate(batch, target, mode="bilinear", antialias=True) if scale != 1 else batch
        for mirrored in (False, True) if settings.flip else (False,):
            scores = network(scaled.flip(3) if mirrored else scaled).softmax(1)
            scores = scores.flip(3) if mirrored else scores
            total += functional.interpolate(scores, (height, width), mode="bilinear")[0]
    mask = total.argmax(0).to(torch.uint8).cpu().numpy()
    if settings.crf is None:
        return mask
    labels = np.unique(np.append(mask, 0)).astype(np.uint8)
    return refine_mask(image, total.cpu().numpy()[labels], labels, settings.crf)
