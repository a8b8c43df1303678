"""How far each mask is to be doubted, from what needs no true mask.

The idea is that of query by committee (Seung et al., COLT 1992): where several guesses of one mask agree, they are
mostly right. The guesses are the masks of earlier and later steps, those of other random seeds, and the score maps. The
suspicion is 1 minus the mean of what they agree; it estimates 1 minus the mask's IoU.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import spearmanr

from rca.core.arrays import Float32Array, UInt8Array
from rca.core.files import IGNORE

AGREEMENTS = ("steps", "seeds", "scores")
COLUMNS = ("image", "suspicion", *AGREEMENTS, "area", "reasons")
# A class's area is unusual from this factor on, above or below its median.
UNUSUAL = 4.0
# Regions under this share of the image are specks.
SPECK = 0.001
# A region fills its box if it covers this share of it.
FILLED = 0.98
# Worst and suspected shares of the images that `validate` compares.
WORST, SUSPECTED = 0.1, 0.2


@dataclass(frozen=True)
class Opinions:
    """All guesses of one image's mask.

    Attributes:
        image: The image's id.
        tags: The labels of its tags, 1..C.
        mask: (H, W), uint8, 0..C and 255: the mask to judge.
        steps: Masks of the same seed from other steps of the pipeline.
        seeds: Masks of the same step from other seeds.
        scores: (K, H, W), 0..1: the score maps of the same seed.
        labels: (K,): their labels.
    """

    image: str
    tags: tuple[int, ...]
    mask: UInt8Array
    steps: Sequence[UInt8Array]
    seeds: Sequence[UInt8Array]
    scores: Float32Array
    labels: UInt8Array

    @property
    def expected(self) -> list[int]:
        """The labels that are judged: those of the tags, and those in the mask."""
        return sorted({*self.tags, *map(int, np.unique(self.mask))} - {0, IGNORE})


def agree(first: UInt8Array, second: UInt8Array, labels: Iterable[int]) -> float:
    """The mean IoU of two masks over labels; 0 for a label that neither has, NaN without a label.

    Args:
        first: (H, W), uint8; pixels that are 255 in either mask are left out.
        second: (H, W), uint8.
        labels: The labels.
    """
    known = (first != IGNORE) & (second != IGNORE)
    ious = []
    for label in labels:
        one, other = (first == label) & known, (second == label) & known
        either = np.count_nonzero(one | other)
        ious.append(np.count_nonzero(one & other) / either if either else 0.0)
    return float(np.mean(ious)) if ious else float("nan")


def agree_with_scores(mask: UInt8Array, scores: Float32Array, labels: UInt8Array, wanted: Iterable[int]) -> float:
    """The mean soft IoU of a mask and score maps: over pixels, the sum of minima by that of maxima.

    Args:
        mask: (H, W), uint8; pixels of 255 are left out.
        scores: (K, H, W), 0..1.
        labels: (K,): the labels of the maps.
        wanted: The labels to look at; one without a map or a pixel counts as 0.

    Returns:
        0..1; NaN without a label.
    """
    known, maps = mask != IGNORE, dict(zip(map(int, labels), scores, strict=True))
    found = []
    for label in wanted:
        region = (mask == label) & known
        if label in maps and region.any():
            inside, outside = maps[label][region], maps[label][known & ~region]
            found.append(float(inside.sum() / (inside.size + outside.sum())))
        else:
            found.append(0.0)
    return float(np.mean(found)) if found else float("nan")


def judge(opinions: Opinions) -> dict[str, float]:
    """What the guesses of one image agree: by `AGREEMENTS`, 0..1, NaN for one that there is no guess of.

    An image that should show nothing and shows nothing has no label to agree on: then all is NaN.
    """
    wanted = opinions.expected
    steps = [agree(opinions.mask, other, wanted) for other in opinions.steps]
    seeds = [agree(opinions.mask, other, wanted) for other in opinions.seeds]
    scores = agree_with_scores(opinions.mask, opinions.scores, opinions.labels, wanted)
    return {
        "steps": float(np.mean(steps)) if steps else float("nan"),
        "seeds": float(np.mean(seeds)) if seeds else float("nan"),
        "scores": scores,
    }


@dataclass(frozen=True)
class Judged:
    """What is known of one image before it is compared with the others.

    Attributes:
        image: The image's id.
        agreements: From `judge`.
        areas: The share of the image of each label in the mask.
        reasons: Doubts in words, from `list_doubts`.
    """

    image: str
    agreements: Mapping[str, float]
    areas: Mapping[int, float]
    reasons: tuple[str, ...]


def examine(opinions: Opinions, classes: Sequence[str]) -> Judged:
    """Judge an image's mask, and collect what is doubtful in it."""
    mask = opinions.mask
    labels, counts = np.unique(mask[(mask != 0) & (mask != IGNORE)], return_counts=True)
    areas = {int(label): count / mask.size for label, count in zip(labels, counts, strict=True)}
    reasons = tuple(list_doubts(mask, opinions.tags, areas, classes))
    return Judged(opinions.image, judge(opinions), areas, reasons)


def list_doubts(
    mask: UInt8Array, tags: Iterable[int], areas: Mapping[int, float], classes: Sequence[str]
) -> Iterable[str]:
    """Yield what is doubtful in a mask (H, W), in words."""
    for label in sorted(set(tags) - areas.keys()):
        yield f"no region of {classes[label - 1]}"
    for label in sorted(areas.keys() - set(tags)):
        yield f"{classes[label - 1]} is no tag"
    specks = 0
    boxes = ndimage.find_objects(np.where(mask == IGNORE, 0, mask))
    for label in areas:
        region = mask[boxes[label - 1]] == label
        numbered, count = ndimage.label(region, np.ones((3, 3), int))
        sizes = np.bincount(numbered.ravel())[1:]
        specks += int((sizes < SPECK * mask.size).sum())
        if count == 1 and region.mean() >= FILLED and region.size > SPECK * mask.size:
            yield f"{classes[label - 1]} fills a box"
    if specks:
        yield f"{specks} speck{'s' if specks != 1 else ''}"


def rank(judged: Sequence[Judged], classes: Sequence[str]) -> pd.DataFrame:
    """The table of all images in `COLUMNS`, the most suspicious first, those that show nothing last.

    Its column area is the factor between a class's area in the image and the class's median, the largest of the image's
    classes.
    """
    medians = {
        label: float(np.median([each.areas[label] for each in judged if label in each.areas]))
        for label in {label for each in judged for label in each.areas}
    }
    lines = []
    for each in judged:
        known = [value for value in each.agreements.values() if not np.isnan(value)]
        factors = {label: area / medians[label] for label, area in each.areas.items()}
        unusual = [
            f"{classes[label - 1]} is {max(factor, 1 / factor):.0f} times {name_change(factor)} than usual"
            for label, factor in factors.items()
            if max(factor, 1 / factor) >= UNUSUAL
        ]
        area = max((max(factor, 1 / factor) for factor in factors.values()), default=float("nan"))
        suspicion = 1 - float(np.mean(known)) if known else float("nan")
        agreements = [each.agreements[name] for name in AGREEMENTS]
        lines.append((each.image, suspicion, *agreements, area, "; ".join((*each.reasons, *unusual))))
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    return table.sort_values(["suspicion", "image"], ascending=[False, True], ignore_index=True)


def name_change(factor: float) -> str:
    """The word for an area that is so many times the median."""
    return "larger" if factor > 1 else "smaller"


@dataclass(frozen=True)
class Validation:
    """How well the suspicion ranks masks whose truth is known.

    Attributes:
        images: The number of images.
        rho: Spearman's rank correlation of the suspicion with 1 minus the IoU; NaN for fewer than two images.
        found: Of the `WORST` share of the images by IoU, the share among the `SUSPECTED` share by suspicion.
    """

    images: int
    rho: float
    found: float


def validate(table: pd.DataFrame, ious: Mapping[str, float]) -> Validation:
    """Hold the suspicion against the true IoU.

    Args:
        table: From `rank`.
        ious: The IoU of each image's mask, the mean over its objects; images without one are left out.
    """
    both = table.dropna(subset=["suspicion"]).assign(iou=lambda lines: lines["image"].map(ious)).dropna(subset=["iou"])
    if len(both) < 2:
        return Validation(len(both), float("nan"), float("nan"))
    rho = float(spearmanr(both["suspicion"], -both["iou"]).statistic)
    worst = both.nsmallest(max(1, round(WORST * len(both))), "iou")["image"]
    suspected = both.head(max(1, round(SUSPECTED * len(both))))["image"]
    return Validation(len(both), rho, float(worst.isin(suspected).mean()))
