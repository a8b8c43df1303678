"""The examples of a report: for each image its photograph, its true mask and every run's masks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rca.artifacts import IGNORE, PALETTE, read_mask, read_photograph
from rca.data.manifest import Manifest
from rca.errors import UserError
from rca.protocol import KIND_NAMES
from rca.report.pictures import blend_mask, draw_comparison, scale_mask, scale_photograph

# Lines of the sheet that compares kinds at a glance.
COMPARED = 6


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        file: Relative to the page.
        caption: What stands below it.
        alt: What it shows, in words.
        width: In pixels.
        height: In pixels.
    """

    file: str
    caption: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Label:
    """A colour of a mask.

    Attributes:
        name: The class; "undecided" for ignore.
        colour: As CSS; "" for the stripes of ignore.
        true: Whether the true mask has it, as far as one is known.
    """

    name: str
    colour: str
    true: bool


@dataclass(frozen=True)
class Example:
    """One image with all its masks.

    Attributes:
        id: The image's id.
        photograph: As it is.
        truth: The true mask, if there is one.
        masks: For each run its masks by kind; None where a run has none of that kind.
        labels: All colours that occur in the masks.
    """

    id: str
    photograph: Picture
    truth: Picture | None
    masks: dict[str, dict[str, Picture | None]]
    labels: list[Label]


def find_examples(evaluations: Mapping[str, Path], manifest: Manifest) -> list[str]:
    """The ids of all images that some run shows, sorted.

    Raises:
        UserError: an image is not in the manifest.
    """
    found = {path.parent for directory in evaluations.values() for path in directory.glob("examples/*/*.png")}
    for folder in sorted(found):
        if folder.name not in manifest.index:
            raise UserError(f"{folder} shows an image that is not in the manifest: run evaluate again.")
    return sorted({folder.name for folder in found})


def write_example(
    page: Path, image_id: str, evaluations: Mapping[str, Path], manifest: Manifest, width: int
) -> Example:
    """Write the pictures of one image.

    Args:
        page: The directory of the page; pictures go to `pictures/examples/<image id>/`.
        image_id: The image.
        evaluations: For each run the directory that holds `examples/<image id>/<kind>.png`.
        manifest: The dataset.
        width: Of each picture, in pixels.
    """
    record = manifest.images[manifest.index[image_id]]
    photograph = scale_photograph(read_photograph(manifest.photograph(record)), width)
    folder = page / "pictures" / "examples" / image_id
    folder.mkdir(parents=True)
    occurring: set[int] = set()

    def write_overlay(source: Path, name: str, caption: str, run: str) -> tuple[Picture, set[int]] | None:
        if not source.is_file():
            return None
        mask = read_mask(source)
        labels = {int(label) for label in np.unique(mask)} - {0}
        occurring.update(labels)
        small = scale_mask(mask, photograph.shape[1], photograph.shape[0])
        shown = ", ".join(_name_label(label, manifest.classes) for label in sorted(labels)) or "only background"
        alt = f"{caption}{f' of {run}' if run else ''} for {image_id}: {shown}"
        return _write(page, folder / f"{name}.png", blend_mask(photograph, small), caption, alt), labels

    truths = (directory / "examples" / image_id / "truth.png" for directory in evaluations.values())
    truth = next(filter(None, (write_overlay(path, "truth", "truth", "") for path in truths)), None)
    masks: dict[str, dict[str, Picture | None]] = {}
    for number, (run, directory) in enumerate(evaluations.items()):
        masks[run] = {}
        for kind, caption in KIND_NAMES.items():
            # A run's name may hold what a URL must not, so the files go by its number.
            overlay = write_overlay(directory / "examples" / image_id / f"{kind}.png", f"{number}-{kind}", caption, run)
            masks[run][kind] = overlay and overlay[0]
    alt = f"photograph {image_id}"
    return Example(
        id=image_id,
        photograph=_write(page, folder / "photograph.jpg", photograph, "photograph", alt),
        truth=truth and truth[0],
        masks=masks,
        labels=_list_labels(occurring, truth[1] if truth else occurring, manifest.classes),
    )


def write_comparison(page: Path, examples: list[Example], run: str, width: int) -> Picture | None:
    """Write the sheet that compares the first examples' masks of one run; None if there is no example."""
    if not examples:
        return None
    rows: list[list[Image.Image | None]] = []
    for example in examples[:COMPARED]:
        pictures = [example.photograph, example.truth, *(example.masks[run][kind] for kind in KIND_NAMES)]
        rows.append([Image.open(page / picture.file) if picture else None for picture in pictures])
    captions = ("photograph", "truth", *KIND_NAMES.values())
    sheet = draw_comparison(rows, captions, width)
    file = page / "pictures" / "comparison.png"
    return _write(page, file, np.asarray(sheet), run, f"{', '.join(captions)} of {run}, {len(rows)} images")


def _write(page: Path, file: Path, pixels: np.ndarray, caption: str, alt: str) -> Picture:
    Image.fromarray(pixels).save(file, quality=88)  # PNG, being lossless, takes no notice of a quality
    height, width = pixels.shape[:2]
    return Picture(file.relative_to(page).as_posix(), caption, alt, width, height)


def _list_labels(occurring: set[int], true: set[int], classes: tuple[str, ...]) -> list[Label]:
    return [
        Label(
            name=_name_label(label, classes),
            colour="" if label == IGNORE else "#" + bytes(PALETTE[3 * label : 3 * label + 3]).hex(),
            true=label in true or label == IGNORE,
        )
        for label in sorted(occurring)
    ]


def _name_label(label: int, classes: tuple[str, ...]) -> str:
    if label == IGNORE:
        return "undecided"
    return classes[label - 1] if label <= len(classes) else f"label {label}"
