"""Refinement of masks by a dense CRF (Krähenbühl & Koltun, NIPS 2011) over the labels present in the image.

Labels that an image does not show would only cost time: with 3 labels present instead of 21, the same mean field is
several times faster.
"""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rca.artifacts import IGNORE
from rca.settings import Settings

IMPOSSIBLE = 1000.0  # an energy that no other outweighs
SAMPLED = 16  # one pixel of so many


class CrfSettings(Settings):
    """The CRF's energies.

    Attributes:
        unary: "scores" takes -log of the normalised scores (PSA, SEAM); "labels" takes the mask, each label right with
            probability `label_confidence` (IRN).
        label_confidence: For "labels".
        iterations: Of the mean field, at most.
        tolerance: It stops where at most this share of the pixels changed their label in the last iteration; 0 stops
            where none did. Above the default more than a thousandth of the pixels may differ from all iterations.
        gaussian_sxy: Range of the smoothness kernel, in pixels.
        gaussian_weight: Its weight.
        bilateral_sxy: Range of the appearance kernel, in pixels.
        bilateral_srgb: Its range in colour, 0..255.
        bilateral_weight: Its weight.
    """

    unary: Literal["scores", "labels"] = "scores"
    label_confidence: float = Field(default=0.7, gt=0.5, lt=1)
    iterations: int = Field(default=10, ge=1)
    tolerance: float = Field(default=1e-4, ge=0, lt=1)
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
    return refine_masks(photograph, [probabilities], labels, crf)[0]


def refine_masks(
    photograph: np.ndarray, probabilities: Sequence[np.ndarray], labels: np.ndarray, crf: CrfSettings
) -> list[np.ndarray]:
    """Refine several masks of one photograph: what depends on the photograph alone is computed once.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        probabilities: For each mask (L, H, W), float, at least 0; they need not sum to 1.
        labels: (L,), uint8: what the L maps stand for, the background (0) among them.
        crf: The energies.

    Returns:
        For each mask (H, W), uint8, of values in `labels`.
    """
    height, width = photograph.shape[:2]
    if len(labels) == 1 or not probabilities:
        return [np.full((height, width), labels[0], np.uint8) for _ in probabilities]
    # It computes in packs of four labels, and one label short of that takes longer than one more.
    count = len(labels) + (len(labels) % 4 == 3)
    field = _build_field(photograph, count, crf)
    found = [_infer(field, _weigh(one, count), crf) for one in probabilities]
    return [labels[one].reshape(height, width).astype(np.uint8) for one in found]


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where its C library is glibc.

    A CRF takes up some hundred megabytes for each image; to fetch them from the system anew each time costs more than a
    twentieth of its time.
    """
    with suppress(OSError, AttributeError):
        adjust = ctypes.CDLL(None).mallopt
        adjust(-4, 0)  # M_MMAP_MAX: no pages of its own for a large block
        adjust(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing at the end of the heap is handed back


def _build_field(photograph: np.ndarray, count: int, crf: CrfSettings) -> Any:
    """A field of so many labels over a photograph's pixels, without unary energies."""
    from pydensecrf import densecrf  # here, so that everything else runs where it is not installed

    field = densecrf.DenseCRF2D(photograph.shape[1], photograph.shape[0], count)
    if crf.gaussian_weight:
        field.addPairwiseGaussian(sxy=crf.gaussian_sxy, compat=crf.gaussian_weight)
    if crf.bilateral_weight:
        pixels = np.require(photograph, np.uint8, ["C", "W"])  # it refuses what must not be written to
        field.addPairwiseBilateral(
            sxy=crf.bilateral_sxy, srgb=crf.bilateral_srgb, rgbim=pixels, compat=crf.bilateral_weight
        )
    return field


def _weigh(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Unary energies (count, H * W), float32, of probabilities (L, H, W); labels beyond the L are impossible."""
    given = probabilities.reshape(len(probabilities), -1)
    unary = np.full((count, given.shape[1]), IMPOSSIBLE, np.float32)
    np.divide(given, np.maximum(given.sum(0), 1e-8), out=unary[: len(given)], casting="same_kind")
    unary[: len(given)] = -np.log(unary[: len(given)].clip(1e-5, 1))
    return unary


def _infer(field: Any, unary: np.ndarray, crf: CrfSettings) -> np.ndarray:
    """The position of each pixel's most probable label (H * W,)."""
    field.setUnaryEnergy(unary)
    beliefs, *spare = field.startInference()
    allowed = crf.tolerance * unary.shape[1]
    few_before = all_before = None
    for _ in range(crf.iterations):
        field.stepInference(beliefs, *spare)
        # To find every pixel's label takes a twelfth of a step: as long as a few pixels already change too much, only
        # theirs are looked at.
        few = np.asarray(beliefs)[:, ::SAMPLED].argmax(0)
        if few_before is not None and np.count_nonzero(few != few_before) <= allowed:
            every = np.asarray(beliefs).argmax(0)
            if all_before is not None and np.count_nonzero(every != all_before) <= allowed:
                return every
            all_before = every
        else:
            all_before = None
        few_before = few
    return np.asarray(beliefs).argmax(0)
