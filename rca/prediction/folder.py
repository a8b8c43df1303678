"""`rca predict`: segment photographs into a folder of masks, overlays and one JSON file.

    OUT/masks/NAME.png       labels in the palette of PASCAL VOC
    OUT/overlays/NAME.jpg    the mask over the photograph, with a legend
    OUT/predictions.json     classes, areas and confidence of each image, and the model's description

NAME is the photograph's path below the folder that all photographs share, without its suffix.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rca.core.errors import UserError
from rca.core.files import write_file, write_json, write_mask
from rca.core.progress import track
from rca.core.reading import check_target
from rca.prediction.inputs import find_images, read_image, read_size
from rca.prediction.model import Model, load_model, read_options
from rca.prediction.result import Prediction

SUMMARY = "predictions.json"
# In photographs this many times larger than those of the training, objects are too large for the network.
TOO_LARGE = 3


@dataclass(frozen=True)
class Task:
    """A photograph and its results.

    Attributes:
        image: The photograph.
        mask: The path of its mask, relative to the folder of results.
        overlay: The path of its overlay, relative to the folder of results.
    """

    image: Path
    mask: Path
    overlay: Path


def predict_folder(
    model: Path, images: Sequence[str], out: Path, device: str = "auto", force: bool = False, **options: object
) -> None:
    """Segment photographs into a folder.

    All headers are read before any work. A photograph whose pixels are broken is reported, and the others go on.

    Args:
        model: The segmentation network's file.
        images: Files, folders and patterns.
        out: The folder of results.
        device: "auto" for a GPU if there is one, or torch's name of a device.
        force: Whether to overwrite earlier results.
        **options: Those of `PredictionOptions`.

    Raises:
        UserError: an option, an image, the model or the device is bad, or results exist already.
    """
    settings = read_options(options)
    check_target(out, "folder")
    tasks = name_results(find_images(images, skipped=out))
    sizes = [read_size(task.image) for task in tasks]
    if not force:
        check_free(out, tasks)
    segmenter = load_model(model, device)
    warn_of_sizes(segmenter, sizes, max(settings.scales))
    done, broken = [], []
    for task in track(tasks, "segmenting", len(tasks)):
        try:
            photograph = read_image(task.image)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            broken.append({"image": relate(task.image, out), "error": str(error)})
            continue
        prediction = segmenter.predict_with(photograph, settings)
        write_results(out, task, prediction)
        done.append(describe(out, task, prediction))
    about = {**segmenter.describe(), "device": str(segmenter.device), "options": settings.model_dump()}
    write_json(out / SUMMARY, {"model": about, "images": done, "broken": broken})
    if broken:
        raise UserError(f"{len(broken)} of {len(tasks)} images could not be read: {out / SUMMARY} lists them.")
    print(f"{len(done)} images segmented on {segmenter.device}: {out / SUMMARY}, {out / 'masks'}, {out / 'overlays'}")


def name_results(images: Sequence[Path]) -> list[Task]:
    """Give the results of each photograph names that differ even without regard to case."""
    full = [Path(os.path.abspath(image)) for image in images]
    shared = os.path.commonpath([path.parent for path in full])
    taken: set[str] = set()
    tasks = []
    for image, path in zip(images, full, strict=True):
        name = path.relative_to(shared).as_posix()
        # x.jpg beside x.png: the second becomes x.png.png.
        stems = [name.removesuffix(path.suffix), name, *(f"{name}-{number}" for number in range(2, len(full) + 2))]
        stem = next(stem for stem in stems if stem.casefold() not in taken)
        taken.add(stem.casefold())
        tasks.append(Task(image, Path(f"masks/{stem}.png"), Path(f"overlays/{stem}.jpg")))
    return tasks


def check_free(out: Path, tasks: Sequence[Task]) -> None:
    """Check that no result would be overwritten.

    Raises:
        UserError: a result exists already.
    """
    for path in (Path(SUMMARY), *(path for task in tasks for path in (task.mask, task.overlay))):
        if (out / path).exists():
            raise UserError(f"{out / path} exists: name another folder with --out, or overwrite it with --force.")


def warn_of_sizes(model: Model, sizes: Sequence[tuple[int, int]], scale: float) -> None:
    """Print a note if photographs are far larger than those that the model was trained on."""
    provenance = model.description.provenance
    if provenance is None:
        return
    longest = max(max(size) for size in sizes)
    factor = longest * scale / provenance.longest_side
    if factor > TOO_LARGE:
        tile = -(-min(longest, 4096) // 32) * 32
        print(
            f"note: the model was trained on photographs of {provenance.longest_side} pixels, and the largest here has "
            f"{longest}: if its objects are larger too, use `--scales {scale / factor:.2g} --tile {tile}`.",
            file=sys.stderr,
        )


def write_results(out: Path, task: Task, prediction: Prediction) -> None:
    """Write the mask and the overlay of one photograph."""
    with write_file(out / task.mask) as temporary:
        write_mask(temporary, prediction.mask)
    with write_file(out / task.overlay) as temporary:
        prediction.overlay().save(temporary, format="JPEG", quality=90, subsampling=0)  # thin edges keep their colours


def describe(out: Path, task: Task, prediction: Prediction) -> dict[str, object]:
    """A photograph's part of the JSON; its paths are relative to the folder of results."""
    height, width = prediction.mask.shape
    return {
        "image": relate(task.image, out),
        "mask": task.mask.as_posix(),
        "overlay": task.overlay.as_posix(),
        "width": width,
        "height": height,
        "classes": [asdict(summary) for summary in prediction.labels],
    }


def relate(path: Path, out: Path) -> str:
    """A path relative to the folder of results."""
    return Path(os.path.relpath(path, out)).as_posix()
