"""What counts as background in score maps, and the masks that follow.

All ways go by one threshold t, the score above which a pixel is foreground: a way has its own, and another may take its
place. Seeds are the plain mask at t (`label_pixels`); pseudo labels are what the way makes of it, and may leave pixels
open.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, model_validator

from rca.core.files import IGNORE, read_mask
from rca.core.settings import Settings
from rca.data.manifest import ImageRecord, Manifest
from rca.labels.thresholds import CHOICES


class BaseBackground(Settings):
    """What all ways share."""

    @abstractmethod
    def find_threshold(self) -> float:
        """The way's own threshold, 0..1, exclusive."""

    def score(self, scores: np.ndarray, threshold: float, saliency: np.ndarray | None = None) -> np.ndarray:
        """The background's score, such that no pixel below `threshold` is foreground.

        Args:
            scores: (K, H, W), float, 0..1.
            threshold: 0..1, exclusive.
            saliency: (H, W), uint8, how salient each pixel is; only for the way that goes by it.

        Returns:
            (H, W), float32, 0..1.
        """
        return np.full(scores.shape[1:], threshold, np.float32)

    def label(
        self, scores: np.ndarray, labels: np.ndarray, threshold: float, saliency: np.ndarray | None = None
    ) -> np.ndarray:
        """The pseudo labels.

        Args:
            scores: (K, H, W), float, 0..1.
            labels: (K,), uint8, the labels that were scored.
            threshold: 0..1, exclusive.
            saliency: As in `score`.

        Returns:
            (H, W), uint8, 0 and `labels`, and 255 where they are left open.
        """
        return label_pixels(scores, labels, threshold)


class ConstantBackground(BaseBackground):
    """The background scores `threshold` everywhere (CAM, as IRN takes it; Ahn et al., CVPR 2019)."""

    kind: Literal["constant"]
    threshold: float = Field(gt=0, lt=1)

    def find_threshold(self) -> float:
        """The threshold as it is set."""
        return self.threshold


class PowerBackground(BaseBackground):
    """The background scores (1 - m) ** alpha, m being the largest score (PSA, Ahn & Kwak, CVPR 2018).

    It falls as m rises, so they cross at one t with (1 - t) ** alpha = t: its masks are those of a constant background.
    What differs is how sure a CRF takes the background to be.
    """

    kind: Literal["power"]
    alpha: float = Field(gt=0)

    def find_threshold(self) -> float:
        """Where the background's score and the largest score cross."""
        low, high = 0.0, 1.0
        for _ in range(60):  # bisection: (1 - t) ** alpha - t falls from 1 to -1
            middle = (low + high) / 2
            low, high = (middle, high) if (1 - middle) ** self.alpha > middle else (low, middle)
        return (low + high) / 2

    def score(self, scores: np.ndarray, threshold: float, saliency: np.ndarray | None = None) -> np.ndarray:
        """(1 - m) to the power whose threshold is the one given."""
        alpha = math.log(threshold) / math.log1p(-threshold)
        return ((1 - scores.max(0, initial=0)) ** alpha).astype(np.float32)


class SaliencyBackground(BaseBackground):
    """The background scores what a saliency map leaves (OAA, Jiang et al., ICCV 2019; RCA and MCIS take it over).

    A pixel has its highest label where that exceeds the threshold and the background. It is left open where two scores,
    the background's among them, are both sure; where it is background by its scores, though salient or sure of a class;
    and everywhere in an image that shows next to no foreground. The defaults are those of OAA and RCA; MCIS has
    `conflict` 0.99 and `sure` 0.95.

    Attributes:
        threshold: The score above which a pixel is foreground.
        conflict: The score above which two of them contradict each other.
        salient: From which saliency on, 0..255, a pixel is not taken to be background.
        sure: Above which score of a class likewise.
        smallest: The share of an image that its foreground must cover.
    """

    kind: Literal["saliency"]
    threshold: float = Field(default=0.3, gt=0, lt=1)
    conflict: float = Field(default=0.9, gt=0, le=1)
    salient: int = Field(default=32, ge=1, le=255)
    sure: float = Field(default=0.8, gt=0, le=1)
    smallest: float = Field(default=0.01, ge=0, lt=1)

    def find_threshold(self) -> float:
        """The threshold as it is set."""
        return self.threshold

    def score(self, scores: np.ndarray, threshold: float, saliency: np.ndarray | None = None) -> np.ndarray:
        """What the saliency leaves, but at least the threshold."""
        return np.maximum(1 - _score_salient(saliency), np.float32(threshold))

    def label(
        self, scores: np.ndarray, labels: np.ndarray, threshold: float, saliency: np.ndarray | None = None
    ) -> np.ndarray:
        """The pseudo labels by the rule above."""
        best, salient = scores.max(0, initial=0), _score_salient(saliency)
        mask = np.where(best > 1 - salient, label_pixels(scores, labels, threshold), 0).astype(np.uint8)
        claims = (scores > self.conflict).sum(0) + (1 - salient > self.conflict)
        doubtful = (salient >= np.float32(self.salient) / 255) | (best > self.sure)
        mask[(claims > 1) | (mask == 0) & doubtful] = IGNORE
        if ((mask != 0) & (mask != IGNORE)).mean() < self.smallest:
            mask[:] = IGNORE
        return mask


class TwoThresholds(BaseBackground):
    """Foreground above `high`, background up to `low`, open between (IRN's labels, Ahn et al., CVPR 2019).

    The threshold is the middle of the two by their odds, s / (1 - s). Around another one the odds of both are scaled.

    Attributes:
        low: The score up to which a pixel is background.
        high: The score above which it is foreground.
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
        self, scores: np.ndarray, labels: np.ndarray, threshold: float, saliency: np.ndarray | None = None
    ) -> np.ndarray:
        """The pseudo labels, open within the band around the threshold."""
        scale = _odds(threshold) / _odds(self.find_threshold())
        low, high = (_invert_odds(_odds(edge) * scale) for edge in (self.low, self.high))
        mask = label_pixels(scores, labels, high)
        mask[(mask == 0) & (label_pixels(scores, labels, low) != 0)] = IGNORE
        return mask


Background = Annotated[
    ConstantBackground | PowerBackground | SaliencyBackground | TwoThresholds, Field(discriminator="kind")
]


def build_background(data: dict[str, Any]) -> BaseBackground:
    """A way from its plain data, as `model_dump` gave them."""
    return TypeAdapter(Background).validate_python(data)


def read_saliency_for(background: BaseBackground, manifest: Manifest, record: ImageRecord) -> np.ndarray | None:
    """An image's saliency map (H, W), uint8, where the background goes by it, else None.

    Raises:
        UserError: there is none, or it is broken.
    """
    if not isinstance(background, SaliencyBackground):
        return None
    return read_mask(manifest.saliency(record), "saliency map")


def label_choices(
    background: BaseBackground,
    scores: np.ndarray,
    labels: np.ndarray,
    thresholds: Mapping[str, float],
    saliency: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """An image's pseudo labels at each of `CHOICES`.

    Args:
        background: What makes them.
        scores: (K, H, W), float, 0..1, at the image's size.
        labels: (K,), uint8, the labels that were scored.
        thresholds: By choice, 0..1, exclusive.
        saliency: As `read_saliency_for` gives it.

    Returns:
        (H, W), uint8, by choice.
    """
    return {choice: background.label(scores, labels, thresholds[choice], saliency) for choice in CHOICES}


def label_pixels(scores: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """The plain mask: each pixel's highest label where that exceeds the threshold, else background.

    Args:
        scores: (K, H, W), float, 0..1.
        labels: (K,), uint8, the labels that were scored.
        threshold: 0..1.

    Returns:
        (H, W), uint8.
    """
    if len(labels) == 0:
        return np.zeros(scores.shape[1:], np.uint8)
    # In double precision, as ThresholdSweep counts: a float would be rounded to the scores' own type.
    return np.where(scores.max(0) > np.float64(threshold), labels[scores.argmax(0)], 0).astype(np.uint8)


def _odds(score: float) -> float:
    return score / (1 - score)


def _invert_odds(odds: float) -> float:
    return odds / (1 + odds)


def _score_salient(saliency: np.ndarray | None) -> np.ndarray:
    """How salient each pixel is (H, W), float32, 0..1."""
    if saliency is None:
        raise ValueError("A background by saliency needs the photograph's saliency map.")
    return saliency.astype(np.float32) / 255
