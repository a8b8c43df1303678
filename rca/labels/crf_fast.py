"""The CRF of `rca.labels.crf`, faster: several masks of a photograph share one field, and iterations end early."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rca.core.arrays import Float32Array, FloatArray, UInt8Array
from rca.labels.crf import LEAST_SHARE, CrfSettings, DenseField, build_field

IMPOSSIBLE = 1000.0
"""An energy that outweighs all others."""
SAMPLED = 16
"""One pixel in so many is watched for changes while many change."""
HEAVY = 50.0
"""Sum of the weights above which masks no longer share a field: one's beliefs may underflow beside the other's."""


def refine_masks(
    photograph: UInt8Array,
    probabilities: Sequence[FloatArray],
    labels: UInt8Array,
    crf: CrfSettings,
) -> list[UInt8Array]:
    """Refine several masks of one photograph in one field, so that its kernels are computed once.

    Args:
        photograph: (H, W, 3), RGB.
        probabilities: For each mask (L, H, W), at least 0; they need not sum to 1.
        labels: (L,), the label of each of the L maps, the background (0) among them.
        crf: The energies.

    Returns:
        For each mask (H, W), of values in `labels`.
    """
    height, width = photograph.shape[:2]
    if len(labels) == 1 or not probabilities:
        return [np.full((height, width), labels[0], np.uint8) for _ in probabilities]
    if len(probabilities) > 1 and crf.gaussian_weight + crf.bilateral_weight > HEAVY:
        return [refine_masks(photograph, [of_mask], labels, crf)[0] for of_mask in probabilities]
    unary = _compute_energies(probabilities)
    field = build_field(photograph, len(unary), crf)
    numbers = _infer(field, unary, len(probabilities), len(labels), crf)
    return [labels[number].reshape(height, width).astype(np.uint8) for number in numbers]


def _compute_energies(probabilities: Sequence[FloatArray]) -> Float32Array:
    """The unary energies (labels of all masks, H * W) of probabilities (L, H, W) for each mask.

    The field computes in packs of four labels, and a pack with one or two missing takes longer than a full one: packs
    are filled with impossible labels.
    """
    count = sum(map(len, probabilities))
    full = count if count < 3 or count % 4 == 1 else -(-count // 4) * 4
    unary = np.full((full, probabilities[0][0].size), IMPOSSIBLE, np.float32)
    for energies, of_mask in zip(np.split(unary[:count], len(probabilities)), probabilities, strict=True):
        flat = of_mask.reshape(energies.shape)
        np.divide(flat, np.maximum(flat.sum(0), 1e-8), out=energies, casting="same_kind")
        np.negative(np.log(np.maximum(energies, LEAST_SHARE, out=energies), out=energies), out=energies)
    return unary


def _infer(field: DenseField, unary: Float32Array, masks: int, labels: int, crf: CrfSettings) -> list[NDArray[np.intp]]:
    """For each mask the index of each pixel's most probable label (H * W,)."""
    field.setUnaryEnergy(unary)
    state, *spare = field.startInference()
    beliefs = np.asarray(state)  # (labels of all masks, H * W), the field's own memory
    # The masks' labels are independent, except that the field makes the beliefs of all masks together sum to 1.
    together = np.kron(np.eye(masks, dtype=np.float32), np.ones((labels, labels), np.float32))
    together = np.pad(together, (0, len(unary) - len(together)), constant_values=1)
    allowed = crf.tolerance * unary.shape[1]
    few_before = all_before = None

    def find_labels(every: int) -> list[NDArray[np.intp]]:
        return [beliefs[mask * labels : (mask + 1) * labels, ::every].argmax(0) for mask in range(masks)]

    def count_changes(now: list[NDArray[np.intp]], before: list[NDArray[np.intp]] | None) -> float:
        return sum(map(np.count_nonzero, map(np.not_equal, now, before))) if before else math.inf

    for _ in range(crf.iterations):
        if masks > 1:
            np.divide(beliefs.T, beliefs.T @ together, out=beliefs.T)
        field.stepInference(state, *spare)
        # Finding every pixel's label takes a twelfth of a step. As long as too many of a sample change, only the sample
        # is looked at.
        few = find_labels(SAMPLED)
        settled = count_changes(few, few_before) <= allowed
        now = find_labels(1) if settled else None
        if now and count_changes(now, all_before) <= allowed:
            return now
        few_before, all_before = few, now
    return find_labels(1)
