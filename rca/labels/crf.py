"""Refinement of masks by a dense CRF (Krähenbühl & Koltun, NIPS 2011) over the labels present in the image.

Labels that an image does not show would only cost time: with 3 labels present instead of 21, the same mean field is
several times faster.
"""

import ctypes
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rca.core.files import IGNORE
from rca.core.settings import Settings

IMPOSSIBLE = 1000.0  # an energy that no other outweighs
SAMPLED = 16  # one pixel of so many
HEAVY = 50.0  # sum of the weights above which the beliefs in one mask's labels may vanish beside those in another's


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
    """Refine several masks of one photograph, in one field: what depends on the photograph alone is computed once.

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
    if len(probabilities) > 1 and crf.gaussian_weight + crf.bilateral_weight > HEAVY:
        return [refine_mask(photograph, one, labels, crf) for one in probabilities]
    unary = _weigh(probabilities)
    field = _build_field(photograph, len(unary), crf)
    found = _infer(field, unary, len(probabilities), len(labels), crf)
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


def _weigh(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Unary energies (labels of all masks, H * W), float32, of probabilities (L, H, W) for each mask.

    The field computes in packs of four labels, and a pack that lacks one or two takes longer than a full one: it is
    filled up with impossible labels.
    """
    count = sum(map(len, probabilities))
    full = count if count < 3 or count % 4 == 1 else -(-count // 4) * 4
    unary = np.full((full, probabilities[0][0].size), IMPOSSIBLE, np.float32)
    for own, one in zip(np.split(unary[:count], len(probabilities)), probabilities, strict=True):
        given = one.reshape(own.shape)
        np.divide(given, np.maximum(given.sum(0), 1e-8), out=own, casting="same_kind")
        np.negative(np.log(np.maximum(own, 1e-5, out=own), out=own), out=own)
    return unary


def _infer(field: Any, unary: np.ndarray, masks: int, labels: int, crf: CrfSettings) -> list[np.ndarray]:
    """For each mask the position of each pixel's most probable label (H * W,)."""
    field.setUnaryEnergy(unary)
    state, *spare = field.startInference()
    beliefs = np.asarray(state)  # (labels of all masks, H * W), the field's own memory
    # Labels of different masks do not see each other but for the field's making all their beliefs sum to one.
    together = np.kron(np.eye(masks, dtype=np.float32), np.ones((labels, labels), np.float32))
    together = np.pad(together, (0, len(unary) - len(together)), constant_values=1)
    allowed = crf.tolerance * unary.shape[1]
    few_before = all_before = None

    def find_labels(every: int) -> list[np.ndarray]:
        return [beliefs[mask * labels : (mask + 1) * labels, ::every].argmax(0) for mask in range(masks)]

    def count_changes(now: list[np.ndarray], before: list[np.ndarray] | None) -> float:
        return sum(map(np.count_nonzero, map(np.not_equal, now, before))) if before else math.inf

    for _ in range(crf.iterations):
        if masks > 1:
            np.divide(beliefs.T, beliefs.T @ together, out=beliefs.T)
        field.stepInference(state, *spare)
        # To find every pixel's label takes a twelfth of a step: as long as a few pixels already change too much, only
        # theirs are looked at.
        few = find_labels(SAMPLED)
        settled = count_changes(few, few_before) <= allowed
        now = find_labels(1) if settled else None
        if now and count_changes(now, all_before) <= allowed:
            return now
        few_before, all_before = few, now
    return find_labels(1)
