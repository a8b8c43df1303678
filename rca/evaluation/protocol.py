"""The protocol of figures, which every file, table and report states beside them.

Published figures differ in their protocols: in the images, in tags given or predicted, in how undecided pixels count,
and in whether the threshold was chosen on true masks.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypedDict

from rca.core.settings import Supervision
from rca.evaluation.metrics import PredictedIgnore

# Kinds of masks in the order of the pipeline, and the source of their images' tags.
TAGS = {
    "seed": "given",
    "seed_predicted_tags": "predicted",
    "pseudo": "given",
    "refined": "given",
    "refined_predicted_tags": "predicted",
    "relabelled": "given",
    "segmentation": "none",
}
# The kinds of masks that come from a segmentation network, without a threshold.
SEGMENTED = ("relabelled", "segmentation")
# The names of the kinds in tables and reports.
KIND_NAMES = {
    "seed": "seed",
    "seed_predicted_tags": "seed, tags predicted",
    "pseudo": "pseudo label",
    "refined": "refined",
    "refined_predicted_tags": "refined, tags predicted",
    "relabelled": "relabelled",
    "segmentation": "segmentation",
}
TAG_NAMES = {"given": "tags given", "predicted": "tags predicted", "none": "no tags"}
SUPERVISIONS = {
    "tags": "Trained on tags alone.",
    "masks": "Trained on true masks (full supervision).",
    "run": "Trained on masks that another run made, which was trained on tags alone.",
}
IGNORE_RULES = {
    "count_as_error": "A pixel that a mask leaves undecided counts as an error.",
    "exclude": "A pixel that a mask leaves undecided is left out.",
}


class ImageList(TypedDict):
    """A list of images: its length and its fingerprint."""

    images: int
    sha256: str


class EvaluationProtocol(TypedDict):
    """How a run was scored, as `evaluate` writes it.

    Attributes:
        lists: The images of each split.
        tags: For each kind of mask "given", "predicted" or "none".
        tag_threshold: The least probability of a predicted tag; None where no tag was predicted.
        predicted_ignore: How the headline figures treat pixels that a mask leaves undecided.
        best_on: The split on which the best threshold was chosen; None if there was none.
        boundary_distance: The boundary IoU's distance from a contour, as a share of an image's diagonal.
        supervision: What the run's networks learned from.
        initialisation: The origin of each trained network's initial weights.
    """

    lists: dict[str, ImageList]
    tags: dict[str, str]
    tag_threshold: float | None
    predicted_ignore: PredictedIgnore
    best_on: str | None
    boundary_distance: float
    supervision: Supervision
    initialisation: dict[str, str]


def fingerprint_list(ids: Iterable[str]) -> str:
    """The fingerprint of a list of images: the SHA-256 of its sorted lines, in hexadecimal."""
    return hashlib.sha256("".join(f"{image_id}\n" for image_id in sorted(ids)).encode()).hexdigest()


def describe_list(name: str, images: int, sha256: str) -> str:
    """A list of images in a few words, e.g. `val (1449 images, list 3fa9c1d2)`."""
    return f"{name} ({images} image{'s' if images != 1 else ''}, list {sha256[:8]})"


def describe_boundary(distance: float) -> str:
    """The pixels that the boundary IoU counts, in a sentence."""
    return f"The boundary IoU looks at pixels within {distance:.3g} of an image's diagonal of a contour."


def describe_best(split: str | None) -> str:
    """What the best threshold is, given the split on which it was chosen."""
    if split is None:
        return "the fixed threshold, since there were no true masks to choose another by"
    return f"the threshold with the highest seed mIoU on {split}, tags given"


def describe_protocol(protocol: EvaluationProtocol) -> list[str]:
    """The protocol of an evaluation in sentences."""
    lists = ", ".join(describe_list(name, **images) for name, images in protocol["lists"].items())
    sentences = [f"Scored on {lists or 'nothing'}."]
    for tags, words in TAG_NAMES.items():
        kinds = [KIND_NAMES[kind] for kind, source in protocol["tags"].items() if source == tags]
        if kinds:
            rule = ""
            if tags == "predicted":
                least = f"{protocol['tag_threshold']:g}"
                rule = f" (each class with a probability of at least {least}; where there is none, the most probable)"
            sentences.append(f"{words.capitalize()}: {', '.join(kinds)}{rule}.")
    if protocol["tags"]:
        sentences.append(IGNORE_RULES[protocol["predicted_ignore"]])
    if any(kind not in SEGMENTED for kind in protocol["tags"]):
        sentences.append(f"“best” is {describe_best(protocol['best_on'])}; “fixed” was chosen without any mask.")
    if protocol["tags"]:
        sentences.append(describe_boundary(protocol["boundary_distance"]))
    sentences.append(SUPERVISIONS[protocol["supervision"]])
    starts = [f"{network}: {origin}" for network, origin in protocol["initialisation"].items()]
    if starts:
        sentences.append(f"Initial weights ({'; '.join(starts)}).")
    return sentences


def group_protocols(protocols: Mapping[str, Iterable[EvaluationProtocol]]) -> list[tuple[list[str], list[str]]]:
    """The runs that share a protocol, with its sentences.

    Args:
        protocols: The protocols of each run's seeds.
    """
    runs: dict[tuple[str, ...], list[str]] = {}
    for run, run_protocols in protocols.items():
        for protocol in run_protocols:
            runs.setdefault(tuple(describe_protocol(protocol)), []).append(run)
    return [(list(dict.fromkeys(names)), list(sentences)) for sentences, names in runs.items()]
