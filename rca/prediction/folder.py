"""`rca predict`: photographs in, a folder of masks, overlays and one JSON out.

    OUT/masks/NAME.png       labels in the palette of PASCAL VOC
    OUT/overlays/NAME.jpg    the mask over the photograph, with a legend
    OUT/predictions.json     classes, areas and confidence of each image, and the model that found them

NAME is the photograph's path below the folder that all photographs share, without its suffix.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import write_file, write_json, write_mask
from rca.core.progress import track
from rca.prediction.inputs import find_images, read_image, read_size
from rca.prediction.model import Model, Prediction, load_model, read_options
from rca.prediction.overlays import draw_overlay

SUMMARY = "predictions.json"
# A photograph that is so many times larger than those of the training shows its objects too large.
TOO_LARGE = 3


@dataclass(frozen=True)
class Task:
    """One photograph and what becomes of it.

    Attributes:
        image: The photograph.
        mask: Its mask's path, relative to the folder of results.
        overlay: Likewise.
    """

    image: Path
    mask: Path
    overlay: Path


def predict_folder(
    model: Path, images: Sequence[str], out: Path, device: str = "auto", force: bool = False, **options: object
) -> None:
    """Segment photographs into a folder.

    All headers are read before any work. A photograph whose pixels turn out to be broken is named, the others go on.

    Args:
        model: The segmentation network's file.
        images: Files, folders and patterns.
        out: The folder of results.
        device: Where to compute, "auto" for a GPU where there is one.
        force: Overwrite earlier results.
        **options: Of `PredictionOptions`.

    Raises:
        UserError: an option, an image, the model or the device is bad, results are there already, or an image turned
            out to be broken.
    """
    settings = read_options(options)
    tasks = name_results(find_images(images, skipped=out))
    sizes = [read_size(task.image) for task in tasks]
    if not force:
        check_free(out, tasks)
    loaded = load_model(model, device)
    warn_of_sizes(loaded, sizes, max(settings.scales))
    done, broken = [], []
    for task in track(tasks, "segmenting", len(tasks)):
        try:
            photograph = read_image(task.image)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            broken.append({"image": relate(task.image, out), "error": str(error)})
            continue
        prediction = loaded.predict_with(photograph, settings)
        write_results(out, task, photograph, prediction)
        done.append(describe(out, task, prediction))
    about = {**loaded.describe(), "device": str(loaded.device), "options": settings.model_dump()}
    write_json(out / SUMMARY, {"model": about, "images": done, "broken": broken})
    if broken:
        raise UserError(f"{len(broken)} of {len(tasks)} images could not be read: {out / SUMMARY} lists them.")
    print(f"{len(done)} images segmented on {loaded.device}: {out / SUMMARY}, {out / 'masks'}, {out / 'overlays'}")


def name_results(images: Sequence[Path]) -> list[Task]:
    """Give each photograph names of its own, whatever letter case a file system tells apart."""
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
        UserError: one is there already.
    """
    for path in (Path(SUMMARY), *(path for task in tasks for path in (task.mask, task.overlay))):
        if (out / path).exists():
            raise UserError(f"{out / path} exists: name another folder with --out, or overwrite it with --force.")


def warn_of_sizes(model: Model, sizes: Sequence[tuple[int, int]], scale: float) -> None:
    """Tell once if photographs are far larger than what the model was trained on."""
    provenance = model.description.provenance
    if provenance is None:
        return
    longest = max(max(size) for size in sizes)
    factor = longest * scale / provenance.longest_side
    if factor > TOO_LARGE:
        tile = -(-min(longest, 4096) // 32) * 32
        print(
            f"note: the model was trained on photographs of {provenance.longest_side} pixels, the largest here has "
            f"{longest}: where its objects are larger, too, `--scales {scale / factor:.2g} --tile {tile}` fits better.",
            file=sys.stderr,
        )


def write_results(out: Path, task: Task, photograph: UInt8Array, prediction: Prediction) -> None:
    """Write the mask and the overlay of one photograph."""
    with write_file(out / task.mask) as temporary:
        write_mask(temporary, prediction.mask)
    with write_file(out / task.overlay) as temporary:
        overlay = draw_overlay(photograph, prediction.mask, prediction.found)
        overlay.save(temporary, format="JPEG", quality=90, subsampling=0)  # thin edges keep their colours


def describe(out: Path, task: Task, prediction: Prediction) -> dict[str, object]:
    """One photograph's part of the JSON; its paths are relative to the folder of results."""
    height, width = prediction.mask.shape
    return {
        "image": relate(task.image, out),
        "mask": task.mask.as_posix(),
        "overlay": task.overlay.as_posix(),
        "width": width,
        "height": height,
        "classes": [asdict(one) for one in prediction.found],
    }


def relate(path: Path, out: Path) -> str:
    """A path as seen from the folder of results."""
    return Path(os.path.relpath(path, out)).as_posix()
