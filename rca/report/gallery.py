"""The report's gallery: each image's photograph, its true mask, every run's masks, and their IoU."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
from PIL import Image

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import PALETTE, read_mask, read_photograph
from rca.data.manifest import Manifest
from rca.evaluation.protocol import KIND_NAMES
from rca.report.pictures import blend_mask, draw_comparison, draw_layer, draw_scores, scale_mask, scale_photograph

# Rows of the sheet that compares kinds at a glance.
COMPARED = 6
# An unknown IoU, among IoU in tenths of a percent.
UNKNOWN = -1


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        file: Its path relative to the page.
        caption: Its caption.
        alt: Its description in words.
        width: Its width in pixels.
        height: Its height in pixels.
    """

    file: str
    caption: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class RunExamples:
    """The examples of one run and seed, as `evaluate` wrote them.

    Attributes:
        directory: The folder of `<image id>/<kind>.png` and `<image id>/truth.png`.
        ious: Columns `image`, `kind`, `label` and `iou`, a line for each label in a mask or its truth.
    """

    directory: Path
    ious: pd.DataFrame


class GalleryImage(TypedDict):
    """An image of the gallery.

    Attributes:
        id: The image's id.
        height: Its height on the page, in pixels.
        truth: The labels of its true mask; None if unknown.
        masks: By run and kind: None, or alternating labels and IoU, the IoU in tenths of a percent, -1 if unknown.
        scores: By run, whether it has a score map.
    """

    id: str
    height: int
    truth: list[int] | None
    masks: list[list[list[int] | None]]
    scores: list[bool]


class Gallery(TypedDict):
    """The data from which the page's script builds the gallery.

    Attributes:
        width: The width of each picture, in pixels.
        classes: Names of the classes, by label.
        colours: Colours of the classes as CSS, by label.
        kinds: The kinds that some run shows, each as `[kind, name]`.
        run_names: Names of the runs.
        images: The images.
    """

    width: int
    classes: list[str]
    colours: list[str]
    kinds: list[list[str]]
    run_names: list[str]
    images: list[GalleryImage]


def find_examples(runs: Iterable[RunExamples], manifest: Manifest) -> list[str]:
    """The sorted ids of all images that some run shows.

    Raises:
        UserError: an image is not in the manifest.
    """
    folders = {path.parent for examples in runs for path in examples.directory.glob("*/*.png")}
    for folder in sorted(folders):
        if folder.name not in manifest.index:
            raise UserError(f"{folder} shows an image that is not in the manifest: run evaluate again.")
    return sorted({folder.name for folder in folders})


def write_gallery(page: Path, runs: Mapping[str, RunExamples], manifest: Manifest, width: int) -> Gallery:
    """Write the pictures of all examples, and collect the gallery's data.

    Args:
        page: The directory of the page. Pictures go to `pictures/examples/<image id>/`: `photograph.jpg`, `truth.png`
            and `<number>-<kind>.png`, with the number of the run, since its name may not fit into a URL; the kind
            "scores" is the score map.
        runs: The examples of each run.
        manifest: The dataset.
        width: The width of each picture, in pixels.
    """
    identifiers = find_examples(runs.values(), manifest)
    files = {path.name for examples in runs.values() for path in examples.directory.glob("*/*.png")}
    kinds = [kind for kind in KIND_NAMES if f"{kind}.png" in files]
    ious = [read_ious(examples.ious) for examples in runs.values()]
    images: list[GalleryImage] = []
    for image_id in identifiers:
        photograph = read_example_photograph(manifest, image_id, width)
        folder = page / "pictures" / "examples" / image_id
        folder.mkdir(parents=True)
        Image.fromarray(photograph).save(folder / "photograph.jpg", quality=88)
        masks: list[list[list[int] | None]] = []
        scores = [
            _write_scores(examples.directory / image_id / "scores.png", folder / f"{number}-scores.png", photograph)
            for number, examples in enumerate(runs.values())
        ]
        for number, examples in enumerate(runs.values()):
            masks.append([])
            for kind in kinds:
                source, file = examples.directory / image_id / f"{kind}.png", folder / f"{number}-{kind}.png"
                labels = _write_mask(source, file, photograph) if source.is_file() else None
                masks[-1].append(None if labels is None else _pair(labels, ious[number].get((image_id, kind), {})))
        truths = (examples.directory / image_id / "truth.png" for examples in runs.values())
        truth = next(filter(Path.is_file, truths), None)
        true_labels = _write_mask(truth, folder / "truth.png", photograph) if truth else None
        height = photograph.shape[0]
        images.append({"id": image_id, "height": height, "truth": true_labels, "masks": masks, "scores": scores})
    colours = np.array(PALETTE, np.uint8).reshape(-1, 3)[: len(manifest.classes) + 1]
    return {
        "width": width,
        "classes": ["background", *manifest.classes],
        "colours": [f"#{colour.tobytes().hex()}" for colour in colours],
        "kinds": [[kind, KIND_NAMES[kind]] for kind in kinds],
        "run_names": list(runs),
        "images": images,
    }


def read_ious(table: pd.DataFrame) -> dict[tuple[str, str], dict[int, float]]:
    """The IoU of each label, by image and kind; look-ups in the table would take minutes for a thousand images."""
    ious: dict[tuple[str, str], dict[int, float]] = {}
    for image, kind, label, iou in table[["image", "kind", "label", "iou"]].itertuples(index=False):
        ious.setdefault((image, kind), {})[label] = iou
    return ious


def read_example_photograph(manifest: Manifest, image_id: str, width: int) -> UInt8Array:
    """An image's photograph at the width of the page's pictures, (height, width, 3), uint8."""
    record = manifest.images[manifest.index[image_id]]
    return scale_photograph(read_photograph(manifest.photograph(record)), width)


def write_comparison(page: Path, run: str, examples: RunExamples, manifest: Manifest, width: int) -> Picture | None:
    """Write the sheet that compares a run's masks of the first examples; None if there is no example."""
    rows = [
        list(_draw_row(read_example_photograph(manifest, image_id, width), examples.directory / image_id))
        for image_id in find_examples([examples], manifest)[:COMPARED]
    ]
    if not rows:
        return None
    captions = ("photograph", "truth", *KIND_NAMES.values())
    sheet = draw_comparison(rows, captions, width)
    sheet.save(page / "pictures" / "comparison.png")
    return Picture("pictures/comparison.png", run, f"{', '.join(captions)} of {run}", *sheet.size)


def _draw_row(photograph: UInt8Array, folder: Path) -> Iterator[Image.Image | None]:
    yield Image.fromarray(photograph)
    for kind in ("truth", *KIND_NAMES):
        source = folder / f"{kind}.png"
        yield Image.fromarray(blend_mask(photograph, _read_scaled(source, photograph))) if source.is_file() else None


def _read_scaled(source: Path, photograph: UInt8Array) -> UInt8Array:
    return scale_mask(read_mask(source), photograph.shape[1], photograph.shape[0])


def _write_scores(source: Path, file: Path, photograph: UInt8Array) -> bool:
    """Write a score map as a layer for its photograph, if there is one."""
    if not source.is_file():
        return False
    with Image.open(source) as scores:
        scaled = scores.resize((photograph.shape[1], photograph.shape[0]), Image.Resampling.BILINEAR)
    draw_scores(np.asarray(scaled)).save(file)
    return True


def _write_mask(source: Path, file: Path, photograph: UInt8Array) -> list[int]:
    """Write a mask as a layer for its photograph, and return its labels without the background."""
    mask = _read_scaled(source, photograph)
    draw_layer(mask).save(file)
    return [int(label) for label in np.unique(mask) if label]


def _pair(labels: Sequence[int], ious: Mapping[int, float]) -> list[int]:
    """Alternating labels and IoU, for the labels of a mask and those of its truth."""
    pairs = dict.fromkeys(labels, UNKNOWN) | {label: round(1000 * iou) for label, iou in ious.items()}
    return [value for label in sorted(pairs) for value in (label, pairs[label])]
