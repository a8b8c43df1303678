"""Refinement of masks by a dense CRF (Krähenbühl & Koltun, NIPS 2011) over the labels that an image shows.

This is the algorithm as it stands in the paper; the pipeline calls `rca.labels.crf_fast`, which gives the same masks in
less time. Labels that an image does not show are left out: the mean field over 3 labels is several times faster than
the one over 21, and its result is the same.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from rca.core.arrays import Float32Array, FloatArray, UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.core.settings import Settings

LEAST_SHARE = 1e-5
"""The smallest probability of a label at a pixel, so that its energy is finite."""


class CrfSettings(Settings):
    """The energies and the iterations of the CRF.

    Attributes:
        unary: "scores" uses -log of the normalised scores (PSA, SEAM); "labels" uses the mask, with each label right
            with probability `label_confidence` (IRN).
        label_confidence: The confidence in the mask for "labels".
        iterations: Maximum number of iterations of the mean field.
        tolerance: The mean field stops when at most this share of the pixels changed label in the last iteration; 0
            stops when none did. Above the default, more than a thousandth of the pixels may differ from the result of
            all iterations.
        gaussian_sxy: Range of the smoothness kernel, in pixels.
        gaussian_weight: Weight of the smoothness kernel.
        bilateral_sxy: Range of the appearance kernel, in pixels.
        bilateral_srgb: Range of the appearance kernel in colour, 0..255.
        bilateral_weight: Weight of the appearance kernel.
    """

    unary: Literal["scores", "labels"] = "scores"
    label_confidence: float = Field(default=0.7, gt=0.5, lt=1)
    iterations: int = Field(default=10, ge=1, le=1000)
    tolerance: float = Field(default=1e-4, ge=0, lt=1)
    gaussian_sxy: float = Field(default=3, gt=0.01, le=10_000)
    gaussian_weight: float = Field(default=3, ge=0, le=10_000)
    bilateral_sxy: float = Field(default=80, gt=0.01, le=10_000)
    bilateral_srgb: float = Field(default=13, gt=0.01, le=10_000)
    bilateral_weight: float = Field(default=10, ge=0, le=10_000)


class DenseField(Protocol):
    """The part of pydensecrf's `DenseCRF2D` that is used here."""

    def addPairwiseGaussian(self, sxy: float, compat: float) -> None:
        """Add the smoothness kernel."""

    def addPairwiseBilateral(self, sxy: float, srgb: float, rgbim: UInt8Array, compat: float) -> None:
        """Add the appearance kernel."""

    def setUnaryEnergy(self, energy: Float32Array) -> None:
        """Set the energies (L, H * W)."""

    def inference(self, iterations: int) -> Sequence[Sequence[float]]:
        """The beliefs (L, H * W) after so many iterations, as a buffer."""

    def startInference(self) -> tuple[Sequence[Sequence[float]], ...]:
        """The beliefs before the first iteration, and spare memory."""

    def stepInference(self, *state: Sequence[Sequence[float]]) -> None:
        """Do one iteration in place."""


def score_labels(mask: UInt8Array, labels: UInt8Array, confidence: float) -> Float32Array:
    """Turn a mask into probabilities: `confidence` for its label, the rest spread over the other labels.

    Args:
        mask: (H, W), of values in `labels`; 255 makes all labels equally probable.
        labels: (L,), L >= 2.
        confidence: 0..1.

    Returns:
        (L, H, W).
    """
    matches = mask[None] == labels[:, None, None]
    scores = np.where(matches, confidence, (1 - confidence) / (len(labels) - 1)).astype(np.float32)
    scores[:, mask == IGNORE] = 1 / len(labels)
    return scores


def refine_mask(photograph: UInt8Array, probabilities: FloatArray, labels: UInt8Array, crf: CrfSettings) -> UInt8Array:
    """Refine a mask by all iterations of the mean field.

    Args:
        photograph: (H, W, 3), RGB.
        probabilities: (L, H, W), at least 0; they need not sum to 1.
        labels: (L,), the label of each of the L maps, the background (0) among them.
        crf: The energies.

    Returns:
        (H, W), of values in `labels`.
    """
    shares = probabilities / np.maximum(probabilities.sum(0), 1e-8)
    energy = -np.log(np.maximum(shares, LEAST_SHARE))
    field = build_field(photograph, len(labels), crf)
    field.setUnaryEnergy(energy.reshape(len(labels), -1).astype(np.float32))
    beliefs = np.array(field.inference(crf.iterations))
    mask: UInt8Array = labels[beliefs.argmax(0)].reshape(photograph.shape[:2])
    return mask


def build_field(photograph: UInt8Array, count: int, crf: CrfSettings) -> DenseField:
    """A field of `count` labels over the pixels of a photograph (H, W, 3), without unary energies.

    Raises:
        UserError: pydensecrf2 is not installed.
    """
    try:
        from pydensecrf import densecrf  # here, so that everything else runs without it
    except ModuleNotFoundError:
        raise UserError(
            "A CRF needs pydensecrf2, which is not installed: run `pip install 'rca[crf]'` (it takes a C++ compiler),"
            " or do without (refine_crf.enabled: false; crf: null where `rca doctor` names it)."
        ) from None

    field: DenseField = densecrf.DenseCRF2D(photograph.shape[1], photograph.shape[0], count)
    if crf.gaussian_weight:
        field.addPairwiseGaussian(sxy=crf.gaussian_sxy, compat=crf.gaussian_weight)
    if crf.bilateral_weight:
        pixels = np.require(photograph, np.uint8, ["C", "W"])  # the library refuses arrays that are read-only
        field.addPairwiseBilateral(
            sxy=crf.bilateral_sxy, srgb=crf.bilateral_srgb, rgbim=pixels, compat=crf.bilateral_weight
        )
    return field
