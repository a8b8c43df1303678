"""Score masks from any source against true masks: folders of 8-bit PNGs, a file for each image.

The figures are those of the stage `evaluate`, from the same code.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from rca.core.errors import UserError
from rca.core.files import IGNORE, read_mask
from rca.core.progress import track
from rca.data.formats.files import read_classes, read_list
from rca.evaluation.mask_counts import BOUNDARY_DISTANCE, MaskCounts, Truth
from rca.evaluation.metrics import PredictedIgnore
from rca.evaluation.protocol import IGNORE_RULES, describe_boundary, describe_list, fingerprint_list

LABELS = IGNORE - 1  # the highest label in an 8-bit mask
CHUNK = 16  # images that a process counts at a time
NAMED = 3  # images that a message names
FIGURES = ("iou", "boundary_iou", "precision", "recall")


@dataclass(frozen=True)
class Scores:
    """The scores of masks, and how they were counted.

    Attributes:
        counts: The counts of all images.
        classes: Names of the C object classes.
        images: Names of the images.
        list_name: The origin of the list of images.
        unscored: The number of masks whose images are not on the list.
        predictions: The folders of the masks.
        truth: The folders of the true masks.
        predicted_ignore: How the headline figures treat pixels that a mask leaves undecided.
        boundary_distance: The boundary IoU's distance from a contour, as a share of an image's diagonal.
    """

    counts: MaskCounts
    classes: tuple[str, ...]
    images: tuple[str, ...]
    list_name: str
    unscored: int
    predictions: tuple[Path, ...]
    truth: tuple[Path, ...]
    predicted_ignore: PredictedIgnore
    boundary_distance: float


def score_folders(
    predictions: Sequence[Path],
    truth: Sequence[Path],
    classes: Path | None = None,
    listed: Path | None = None,
    predicted_ignore: PredictedIgnore = "count_as_error",
    boundary_distance: float = BOUNDARY_DISTANCE,
    workers: int = 1,
) -> Scores:
    """Score masks.

    Args:
        predictions: Folders of masks; the first one that has an image's mask is used.
        truth: Folders of true masks, searched in the same way.
        classes: A file with the names of the object classes, one a line, in the order of the labels from 1 on; None
            takes all labels that occur.
        listed: A file with the names of the images to score, one a line; None scores all that have a true mask.
        predicted_ignore: How the headline figures treat pixels that a mask leaves undecided.
        boundary_distance: The boundary IoU's distance from a contour, as a share of an image's diagonal.
        workers: The number of processes; the result does not depend on it.

    Raises:
        UserError: a folder or file is missing; an image lacks a mask; a mask is broken, has another size than the true
            one, or holds an unknown label; or a number is out of range.
    """
    if not 0 < boundary_distance < 1:
        raise UserError(f"The boundary distance is {boundary_distance}: give a share of the diagonal between 0 and 1.")
    if workers < 1:
        raise UserError(f"The number of workers is {workers}: give 1 or more.")
    for folder in (*predictions, *truth):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name a folder of masks.")
    names = read_classes(classes) if classes else None
    images = _read_images(listed, truth) if listed else _list_masks(truth)
    if not images:
        raise UserError(f"{listed or truth[0]} names no image: there is nothing to score.")
    files = list(zip(_find_masks(predictions, images, "mask"), _find_masks(truth, images, "true mask"), strict=True))
    total = MaskCounts(LABELS if names is None else len(names))
    parts = _count_parts(partial(count_masks, total.confusion.classes, boundary_distance), files, workers)
    for part in track(parts, "scoring", len(files)):
        if part:
            total += part
    if not total.confusion.counts[1:].any():
        raise UserError(
            f"No true mask in {', '.join(map(str, truth))} holds an object pixel, only 0 and 255: write objects as 1, "
            "2, ..., or name the folder of the true masks."
        )
    if names is None:
        total = total.trim()
        names = tuple(str(label) for label in range(1, total.confusion.classes + 1))
    return Scores(
        total,
        names,
        tuple(images),
        str(listed or "all true masks"),
        len(set(_list_masks(predictions)) - set(images)),
        tuple(predictions),
        tuple(truth),
        predicted_ignore,
        boundary_distance,
    )


def _count_parts(
    count: Callable[[Sequence[tuple[Path, Path]]], MaskCounts], files: Sequence[tuple[Path, Path]], workers: int
) -> Iterator[MaskCounts | None]:
    """Yield the counts of a few images at a time, with None for each further image, so that progress is by images."""
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with ExitStack() as stack:
        parts: Iterator[MaskCounts] = map(count, chunks)
        if workers > 1 and len(chunks) > 1:
            context = get_context("forkserver")
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context))
            parts = pool.map(count, chunks)
        for part in parts:
            yield part
            yield from [None] * (part.images - 1)


def count_masks(classes: int, boundary_distance: float, files: Sequence[tuple[Path, Path]]) -> MaskCounts:
    """Count the pixels of masks.

    Args:
        classes: The number of object classes, C.
        boundary_distance: The boundary IoU's distance from a contour, as a share of an image's diagonal.
        files: Pairs of a mask and its true mask.

    Raises:
        UserError: a mask is broken, has another size than the true one, or holds an unknown label.
    """
    counts = MaskCounts(classes)
    for predicted_file, true_file in files:
        prediction, truth = read_mask(predicted_file), read_mask(true_file)
        if prediction.shape != truth.shape:
            size, wanted = (f"{mask.shape[1]}x{mask.shape[0]}" for mask in (prediction, truth))
            raise UserError(
                f"The mask {predicted_file} is {size}, the true mask {true_file} is {wanted}: make them the same size."
            )
        try:
            counts.add(Truth(truth, boundary_distance), prediction)
        except ValueError:
            for file, mask in ((predicted_file, prediction), (true_file, truth)):
                highest = mask.max(initial=0, where=mask != IGNORE)
                if highest > classes:
                    raise UserError(
                        f"The mask {file} holds the label {highest}, but there are {classes} classes: correct the mask"
                        " or add the class."
                    ) from None
            raise
    return counts


def _read_images(listed: Path, truth: Sequence[Path]) -> list[str]:
    """The images on a list, each once."""
    names = read_list(listed, lambda name: any((folder / f"{name}.png").is_file() for folder in truth))
    return list(dict.fromkeys(names))


def _list_masks(folders: Sequence[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in folder.glob("*.png")})


def _find_masks(folders: Sequence[Path], images: Sequence[str], what: str) -> list[Path]:
    """Each image's file, in the first folder that has one."""
    files = {
        image: next((file for folder in folders if (file := folder / f"{image}.png").is_file()), None)
        for image in images
    }
    missing = [image for image, file in files.items() if file is None]
    if missing:
        shown = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise UserError(
            f"{len(missing)} of {len(images)} images have no {what} in {', '.join(map(str, folders))} ({shown}): "
            "add <image>.png for each, or leave them off the list of images to score."
        )
    return [file for file in files.values() if file is not None]


def list_figures(scores: Scores) -> dict[str, object]:
    """All figures with their protocol, for JSON; NaN becomes None."""

    def plain(values: dict[str, float]) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else round(float(value), 6) for name, value in values.items()}

    labels = scores.counts.list_labels(scores.predicted_ignore)
    return {
        "metrics": plain(scores.counts.summarise(scores.predicted_ignore)),
        "per_class": {
            name: plain(dict(zip(FIGURES, line, strict=True)))
            for name, line in zip(("background", *scores.classes), labels, strict=True)
        },
        "protocol": {
            "predictions": [folder.as_posix() for folder in scores.predictions],
            "truth": [folder.as_posix() for folder in scores.truth],
            "list": {
                "name": scores.list_name,
                "images": len(scores.images),
                "sha256": fingerprint_list(scores.images),
            },
            "unscored_masks": scores.unscored,
            "predicted_ignore": scores.predicted_ignore,
            "boundary_distance": scores.boundary_distance,
        },
    }


def format_scores(scores: Scores) -> str:
    """The scores as text: the protocol, a line for each class, and the means, in percent."""
    summary = scores.counts.summarise(scores.predicted_ignore)
    folders = " ".join(map(str, scores.predictions))
    lines = [
        f"Masks of {folders} against {' '.join(map(str, scores.truth))}, scored on "
        f"{describe_list(scores.list_name, len(scores.images), fingerprint_list(scores.images))}.",
        *([f"{scores.unscored} masks of other images are not scored."] if scores.unscored else []),
        IGNORE_RULES[scores.predicted_ignore],
        describe_boundary(scores.boundary_distance),
        "Whether the masks used the images' tags, and which threshold, is not known here.",
        "",
    ]
    names = ["background", *scores.classes]
    width = max(map(len, [*names, "class"]))
    lines.append(f"{'class':{width}s}  {'IoU':>6s}  {'boundary IoU':>12s}  {'precision':>9s}  {'recall':>6s}")
    means = [summary[name] for name in ("miou", *FIGURES[1:])]
    table = np.concatenate([scores.counts.list_labels(scores.predicted_ignore), [means]])
    for name, figures in zip((*names, "mean"), table, strict=True):
        cells = ("-" if np.isnan(figure) else f"{100 * figure:.2f}" for figure in figures)
        lines.append(f"{name:{width}s}  " + "  ".join(map(str.rjust, cells, (6, 12, 9, 6))))
    lines += [
        "",
        f"mIoU, undecided pixels as errors: {100 * summary['miou_count_as_error']:.2f}",
        f"mIoU, undecided pixels left out:  {100 * summary['miou_exclude']:.2f}",
        f"coverage: {100 * summary['coverage']:.2f} % of the known pixels have a label",
    ]
    return "\n".join(lines)
