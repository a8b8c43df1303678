"""Background scores, and the masks that follow from score maps.

Every kind of background uses one threshold t, the score above which a pixel is foreground: its own or another one.
Seeds are the plain mask at t (`label_pixels`); pseudo labels depend on the kind and may leave pixels open (255).
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, model_validator

from rca.core.arrays import Float32Array, FloatArray, UInt8Array
from rca.core.files import IGNORE, read_mask
from rca.core.settings import Settings
from rca.data.manifest import ImageRecord, Manifest
from rca.labels.score_maps import Float16Array
from rca.labels.thresholds import CHOICES

Scores = FloatArray | Float16Array


class BaseBackground(Settings):
    """The interface of all kinds of background."""

    @abstractmethod
    def find_threshold(self) -> float:
        """The kind's own threshold, above 0 and below 1."""

    def score(self, scores: Scores, threshold: float, saliency: UInt8Array | None = None) -> Float32Array:
        """The background's score, chosen so that no pixel below `threshold` is foreground.

        Args:
            scores: (K, H, W), 0..1.
            threshold: Above 0 and below 1.
            saliency: (H, W), the saliency of each pixel; only for the kind "saliency".

        Returns:
            (H, W), 0..1.
        """
        return np.full(scores.shape[1:], threshold, np.float32)

    def label(
        self, scores: Scores, labels: UInt8Array, threshold: float, saliency: UInt8Array | None = None
    ) -> UInt8Array:
        """The pseudo labels.

        Args:
            scores: (K, H, W), 0..1.
            labels: (K,), the labels of the scores.
            threshold: Above 0 and below 1.
            saliency: As for `score`.

        Returns:
            (H, W), 0 and `labels`, and 255 at open pixels.
        """
        return label_pixels(scores, labels, threshold)


class ConstantBackground(BaseBackground):
    """The background scores `threshold` everywhere (as for CAM in IRN; Ahn et al., CVPR 2019).

    Attributes:
        threshold: The score of the background, 0..1, both exclusive.
    """

    kind: Literal["constant"]
    threshold: float = Field(gt=0, lt=1)

    def find_threshold(self) -> float:
        """The threshold of the settings."""
        return self.threshold


class PowerBackground(BaseBackground):
    """The background scores (1 - m) ** alpha, where m is the largest score (PSA, Ahn & Kwak, CVPR 2018).

    It falls as m rises, so the two cross at one t with (1 - t) ** alpha = t: the masks are those of a constant
    background at t. Only the confidence of the background in a CRF differs.

    Attributes:
        alpha: The exponent: the higher, the lower the threshold.
    """

    kind: Literal["power"]
    alpha: float = Field(gt=0)

    def find_threshold(self) -> float:
        """The value where the background's score and the largest score cross."""
        low, high = 0.0, 1.0
        for _ in range(60):  # bisection: (1 - t) ** alpha - t falls from 1 to -1
            middle = (low + high) / 2
            low, high = (middle, high) if (1 - middle) ** self.alpha > middle else (low, middle)
        return (low + high) / 2

    def score(self, scores: Scores, threshold: float, saliency: UInt8Array | None = None) -> Float32Array:
        """(1 - m) ** alpha with the alpha that has this threshold."""
        alpha = math.log(threshold) / math.log1p(-threshold)
        background: Float32Array = ((1 - scores.max(0, initial=0)) ** alpha).astype(np.float32)
        return background


class SaliencyBackground(BaseBackground):
    """The background scores 1 - saliency (OAA, Jiang et al., ICCV 2019; also used by RCA and MCIS).

    A pixel gets its highest label if the score exceeds the threshold and the background. A pixel stays open if two
    scores, the background's included, exceed `conflict`, or if it is background although it is salient or sure of a
    class. All pixels of an image with next to no foreground stay open. The defaults are those of OAA and RCA; MCIS uses
    `conflict` 0.99 and `sure` 0.95.

    Attributes:
        threshold: The score above which a pixel is foreground.
        conflict: The score above which two labels contradict each other.
        salient: The smallest saliency, 0..255, at which a pixel cannot be background.
        sure: The score of a class above which a pixel cannot be background.
        smallest: The share of an image that its foreground must cover.
    """

    kind: Literal["saliency"]
    threshold: float = Field(default=0.3, gt=0, lt=1)
    conflict: float = Field(default=0.9, gt=0, le=1)
    salient: int = Field(default=32, ge=1, le=255)
    sure: float = Field(default=0.8, gt=0, le=1)
    smallest: float = Field(default=0.01, ge=0, lt=1)

    def find_threshold(self) -> float:
        """The threshold of the settings."""
        return self.threshold

    def score(self, scores: Scores, threshold: float, saliency: UInt8Array | None = None) -> Float32Array:
        """1 - saliency, but at least the threshold."""
        return np.maximum(1 - _score_salient(saliency), np.float32(threshold))

    def label(
        self, scores: Scores, labels: UInt8Array, threshold: float, saliency: UInt8Array | None = None
    ) -> UInt8Array:
        """The pseudo labels by the rules of the class."""
        best, salient = scores.max(0, initial=0), _score_salient(saliency)
        mask = np.where(best > 1 - salient, label_pixels(scores, labels, threshold), 0).astype(np.uint8)
        claims = (scores > self.conflict).sum(0) + (1 - salient > self.conflict)
        doubtful = (salient >= np.float32(self.salient) / 255) | (best > self.sure)
        mask[(claims > 1) | (mask == 0) & doubtful] = IGNORE
        if ((mask != 0) & (mask != IGNORE)).mean() < self.smallest:
            mask[:] = IGNORE
        return mask


class TwoThresholds(BaseBackground):
    """Foreground above `high`, background up to `low`, open between them (IRN's labels, Ahn et al., CVPR 2019).

    The threshold is the geometric mean of the two in odds, s / (1 - s). For another threshold both odds are scaled.

    Attributes:
        low: A pixel is background up to this score.
        high: A pixel is foreground above this score.
    """

    kind: Literal["two_thresholds"]
    low: float = Field(default=0.05, gt=0, lt=1)
    high: float = Field(default=0.30, gt=0, lt=1)

    @model_validator(mode="after")
    def _low_is_lower(self) -> "TwoThresholds":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self

    def find_threshold(self) -> float:
        """The middle of the band."""
        return _invert_odds(math.sqrt(_odds(self.low) * _odds(self.high)))

    def label(
        self, scores: Scores, labels: UInt8Array, threshold: float, saliency: UInt8Array | None = None
    ) -> UInt8Array:
        """The pseudo labels, open within the band around the threshold."""
        scale = _odds(threshold) / _odds(self.find_threshold())
        low, high = (_invert_odds(_odds(edge) * scale) for edge in (self.low, self.high))
        mask = label_pixels(scores, labels, high)
        mask[(mask == 0) & (label_pixels(scores, labels, low) != 0)] = IGNORE
        return mask


Background = Annotated[
    ConstantBackground | PowerBackground | SaliencyBackground | TwoThresholds, Field(discriminator="kind")
]


def build_background(data: Mapping[str, object]) -> BaseBackground:
    """A background from the plain data of `model_dump`."""
    background: BaseBackground = TypeAdapter(Background).validate_python(data)
    return background


def read_saliency_for(background: BaseBackground, manifest: Manifest, record: ImageRecord) -> UInt8Array | None:
    """The saliency map of an image (H, W) if the background needs it, else None.

    Raises:
        UserError: the map is missing or broken.
    """
    if not isinstance(background, SaliencyBackground):
        return None
    return read_mask(manifest.saliency(record), "saliency map")


def label_choices(
    background: BaseBackground,
    scores: Scores,
    labels: UInt8Array,
    thresholds: Mapping[str, float],
    saliency: UInt8Array | None,
) -> dict[str, UInt8Array]:
    """The pseudo labels of an image at each of `CHOICES`.

    Args:
        background: The kind of background.
        scores: (K, H, W), 0..1, at the image's size.
        labels: (K,), the labels of the scores.
        thresholds: The threshold of each choice, above 0 and below 1.
        saliency: The result of `read_saliency_for`.

    Returns:
        (H, W), by choice.
    """
    return {choice: background.label(scores, labels, thresholds[choice], saliency) for choice in CHOICES}


def label_pixels(scores: Scores, labels: UInt8Array, threshold: float) -> UInt8Array:
    """The plain mask: the highest label of each pixel if its score exceeds the threshold, else background.

    Args:
        scores: (K, H, W), 0..1.
        labels: (K,), the labels of the scores.
        threshold: 0..1.

    Returns:
        (H, W).
    """
    if len(labels) == 0:
        return np.zeros(scores.shape[1:], np.uint8)
    # Compared in double precision, as ThresholdSweep does: a Python float would be rounded to the type of the scores.
    return np.where(scores.max(0) > np.float64(threshold), labels[scores.argmax(0)], 0).astype(np.uint8)


def _odds(score: float) -> float:
    return score / (1 - score)


def _invert_odds(odds: float) -> float:
    return odds / (1 + odds)


def _score_salient(saliency: UInt8Array | None) -> Float32Array:
    """The saliency of each pixel (H, W), 0..1."""
    if saliency is None:
        raise ValueError('The background kind "saliency" needs the photograph\'s saliency map.')
    return saliency.astype(np.float32) / np.float32(255)
