"""How figures came about: what every file, table and report says beside them.

Published figures part ways here: which images, tags given or predicted, undecided pixels counted or not, a threshold
that looked at true masks or not.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict

from rca.evaluation.metrics import PredictedIgnore

# Kinds of masks in the order in which the pipeline makes them, and how each came to the tags of its images.
TAGS = {
    "seed": "given",
    "seed_predicted_tags": "predicted",
    "pseudo": "given",
    "refined": "given",
    "refined_predicted_tags": "predicted",
    "segmentation": "none",
}
# The same kinds as a person reads them.
KIND_NAMES = {
    "seed": "seed",
    "seed_predicted_tags": "seed, tags predicted",
    "pseudo": "pseudo label",
    "refined": "refined",
    "refined_predicted_tags": "refined, tags predicted",
    "segmentation": "segmentation",
}
TAG_NAMES = {"given": "tags given", "predicted": "tags predicted", "none": "no tags"}
SUPERVISIONS = {
    "tags": "Trained on tags alone.",
    "masks": "Trained on true masks (full supervision).",
}
IGNORE_RULES = {
    "count_as_error": "A pixel that a mask leaves undecided counts as an error.",
    "exclude": "A pixel that a mask leaves undecided is left out.",
}


class ImageList(TypedDict):
    """A list of images: how many it holds, and its fingerprint."""

    images: int
    sha256: str


class EvaluationProtocol(TypedDict):
    """How a run was scored, as `evaluate` writes it.

    Attributes:
        lists: The images of each split.
        tags: For each kind of mask "given", "predicted" or "none".
        tag_threshold: The least probability of a predicted tag; None where no tag was predicted.
        predicted_ignore: What the headline does with pixels that a mask leaves undecided.
        best_on: The split that the best threshold was chosen on; None where there was none.
        boundary_distance: How near a contour the boundary IoU looks, as a share of an image's diagonal.
        supervision: What the run's networks learned from.
        initialisation: Where the weights of each trained network came from.
    """

    lists: dict[str, ImageList]
    tags: dict[str, str]
    tag_threshold: float | None
    predicted_ignore: PredictedIgnore
    best_on: str | None
    boundary_distance: float
    supervision: Literal["tags", "masks"]
    initialisation: dict[str, str]


def fingerprint_list(ids: Iterable[str]) -> str:
    """What tells a list of images from another: the SHA-256 of its sorted lines, in hexadecimal."""
    return hashlib.sha256("".join(f"{one}\n" for one in sorted(ids)).encode()).hexdigest()


def describe_list(name: str, images: int, sha256: str) -> str:
    """A list of images in a few words, e.g. `val (1449 images, list 3fa9c1d2)`."""
    return f"{name} ({images} image{'s' if images != 1 else ''}, list {sha256[:8]})"


def describe_boundary(distance: float) -> str:
    """What the boundary IoU looks at, in a sentence."""
    return f"The boundary IoU looks at pixels within {distance:.3g} of an image's diagonal of a contour."


def describe_best(split: str | None) -> str:
    """What the best threshold is, given the split that it was chosen on."""
    if split is None:
        return "the fixed threshold, since there were no true masks to choose another by"
    return f"the threshold with the highest seed mIoU on {split}, tags given"


def describe_protocol(protocol: EvaluationProtocol) -> list[str]:
    """The protocol of an evaluation in sentences."""
    lists = ", ".join(describe_list(name, **one) for name, one in protocol["lists"].items())
    sentences = [f"Scored on {lists or 'nothing'}."]
    for tags, words in TAG_NAMES.items():
        kinds = [KIND_NAMES[kind] for kind, of_kind in protocol["tags"].items() if of_kind == tags]
        if kinds:
            rule = ""
            if tags == "predicted":
                least = f"{protocol['tag_threshold']:g}"
                rule = f" (each class with a probability of at least {least}; where there is none, the most probable)"
            sentences.append(f"{words.capitalize()}: {', '.join(kinds)}{rule}.")
    sentences.append(IGNORE_RULES[protocol["predicted_ignore"]])
    if any(kind != "segmentation" for kind in protocol["tags"]):
        sentences.append(f"“best” is {describe_best(protocol['best_on'])}; “fixed” was chosen without any mask.")
    sentences.append(describe_boundary(protocol["boundary_distance"]))
    sentences.append(SUPERVISIONS[protocol["supervision"]])
    starts = [f"{network}: {origin}" for network, origin in protocol["initialisation"].items()]
    if starts:
        sentences.append(f"Initial weights ({'; '.join(starts)}).")
    return sentences


def group_protocols(protocols: Mapping[str, Iterable[EvaluationProtocol]]) -> list[tuple[list[str], list[str]]]:
    """The runs that share a protocol, and its sentences.

    Args:
        protocols: For each run those of its seeds.
    """
    runs: dict[tuple[str, ...], list[str]] = {}
    for run, of_seeds in protocols.items():
        for protocol in of_seeds:
            runs.setdefault(tuple(describe_protocol(protocol)), []).append(run)
    return [(list(dict.fromkeys(names)), list(sentences)) for sentences, names in runs.items()]
