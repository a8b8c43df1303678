"""Refinement of masks by a dense CRF (Krähenbühl & Koltun, NIPS 2011) over the labels present in the image.

Labels that an image does not show would only cost time: with 3 labels present instead of 21, the same mean field is
several times faster.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from rca.artifacts import IGNORE
from rca.settings import Settings


class CrfSettings(Settings):
    """The CRF's energies.

    Attributes:
        unary: "scores" takes -log of the normalised scores (PSA, SEAM); "labels" takes the mask, each label right with
            probability `label_confidence` (IRN).
        label_confidence: For "labels".
        iterations: Of the mean field.
        gaussian_sxy: Range of the smoothness kernel, in pixels.
        gaussian_weight: Its weight.
        bilateral_sxy: Range of the appearance kernel, in pixels.
        bilateral_srgb: Its range in colour, 0..255.
        bilateral_weight: Its weight.
    """

    unary: Literal["scores", "labels"] = "scores"
    label_confidence: float = Field(default=0.7, gt=0.5, lt=1)
    iterations: int = Field(default=10, ge=1)
    gaussian_sxy: float = Field(default=3, gt=0)
    gaussian_weight: float = Field(default=3, ge=0)
    bilateral_sxy: float = Field(default=80, gt=0)
    bilateral_srgb: float = Field(default=13, gt=0)
    bilateral_weight: float = Field(default=10, ge=0)


def score_labels(mask: np.ndarray, labels: np.ndarray, confidence: float) -> np.ndarray:
    """Probabilities that trust a mask as far as `confidence`, the rest spread over the other labels.

    Args:
        mask: (H, W), uint8, of values in `labels`; where it is 255 all labels are as probable.
        labels: (L,), uint8, L >= 2.
        confidence: 0..1.

    Returns:
        (L, H, W), float32.
    """
    own = mask[None] == labels[:, None, None]
    scores = np.where(own, confidence, (1 - confidence) / (len(labels) - 1)).astype(np.float32)
    scores[:, mask == IGNORE] = 1 / len(labels)
    return scores


def refine_mask(photograph: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, crf: CrfSettings) -> np.ndarray:
    """Refine a mask.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        probabilities: (L, H, W), float, at least 0; they need not sum to 1.
        labels: (L,), uint8: what the L maps stand for, the background (0) among them.
        crf: The energies.

    Returns:
        (H, W), uint8, of values in `labels`.
    """
    from pydensecrf import densecrf  # here, so that everything else runs where it is not installed

    if len(labels) == 1:
        return np.full(photograph.shape[:2], labels[0], np.uint8)
    height, width = photograph.shape[:2]
    normalised = probabilities / np.maximum(probabilities.sum(0, keepdims=True), 1e-8)
    unary = -np.log(np.clip(normalised, 1e-5, 1)).reshape(len(labels), -1)
    field = densecrf.DenseCRF2D(width, height, len(labels))
    field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    if crf.gaussian_weight:
        field.addPairwiseGaussian(sxy=crf.gaussian_sxy, compat=crf.gaussian_weight)
    if crf.bilateral_weight:
        field.addPairwiseBilateral(
            sxy=crf.bilateral_sxy,
            srgb=crf.bilateral_srgb,
            rgbim=np.ascontiguousarray(photograph),
            compat=crf.bilateral_weight,
        )
    result = np.asarray(field.inference(crf.iterations)).reshape(len(labels), height, width)
    return labels[result.argmax(0)].astype(np.uint8)
