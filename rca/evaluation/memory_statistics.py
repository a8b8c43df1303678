"""Statistics of a memory bank's snapshot: how full, recent, varied and pure each class's part is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rca.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array, UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, read_mask
from rca.core.progress import track
from rca.data.manifest import Manifest
from rca.models.storage import load_tensors

# How the name of a row begins that holds what surrounds a class.
CONTEXT = "context of "
FIGURES = ("fill", "age", "images", "confidence", "spread", "cosine", "purity")
# The axes of each tensor of a bank: rows, slots, channels, corners of a box, cells of a region's grid.
_SHAPES = {
    "entries": "RND",
    "written": "R",
    "image": "RN",
    "epoch": "RN",
    "confidence": "RN",
    "box": "RNB",
    "region": "RNGG",
}
_FIXED = {"B": 4, "G": 16}


@dataclass(frozen=True)
class Snapshot:
    """A memory bank of R rows (the classes, and perhaps the context of each) with N slots of D channels each.

    Attributes:
        about: The bank's method, run and seed.
        classes: Names of the rows.
        images: Image ids; `image` holds positions in this list.
        epochs: The number of epochs trained.
        entries: (R, N, D), float32, L2-normalised, whatever norm the bank holds them at.
        filled: (R, N), bool: which slots hold a region; the other slots are meaningless in all tensors.
        image: (R, N), int64, a position in `images`; -1 if the region came with a memory of another dataset.
        epoch: (R, N), int64, the epoch in which the region was stored, from 0; perhaps of an earlier, longer training.
        confidence: (R, N), float32, the classifier's confidence in the region's class, 0..1.
        box: (R, N, 4), float32: left, top, right and bottom of the region in pixels of the photograph.
        region: (R, N, 16, 16), uint8: how far each cell of a grid over the box belongs to the region, 0..255.
        prototypes: (P, K, D), float32, of the first P rows.
        usable: (P, K), bool: which prototypes are in use.
    """

    about: dict[str, object]
    classes: tuple[str, ...]
    images: tuple[str, ...]
    epochs: int
    entries: Float32Array
    filled: BoolArray
    image: Int64Array
    epoch: Int64Array
    confidence: Float32Array
    box: Float32Array
    region: UInt8Array
    prototypes: Float32Array
    usable: BoolArray

    def read_row(self, row: int) -> Float64Array:
        """The stored embeddings of a row, (fill, D), float64."""
        return np.asarray(self.entries[row, self.filled[row]], np.float64)

    def name_image(self, row: int, slot: int) -> str:
        """The id of an entry's image; "" if unknown."""
        position = int(self.image[row, slot])
        return self.images[position] if position >= 0 else ""


def read_snapshot(path: Path) -> Snapshot:
    """Read what `snapshot_memory` wrote.

    Raises:
        UserError: the file is missing, broken, or not a memory snapshot.
    """
    tensors, about = load_tensors(path, "snapshot_memory")
    arrays = {name.removeprefix("memory."): tensor.numpy() for name, tensor in tensors.items()}
    if fault := _find_fault(arrays, about):
        raise UserError(f"{path} is not a memory snapshot ({fault}): name one that snapshot_memory wrote.")
    slots = arrays["entries"].shape[1]
    filled = np.arange(slots) < arrays["written"][:, None]
    # A bank may hold embeddings of any norm; its figures are cosines.
    norms = np.linalg.norm(arrays["entries"], axis=2, keepdims=True).clip(1e-12)
    arrays["entries"] = np.where(filled[..., None], arrays["entries"] / norms, arrays["entries"])
    return Snapshot(
        about={key: about[key] for key in ("method", "run", "seed")},
        classes=tuple(about["classes"]),
        images=tuple(about["images"]),
        epochs=about["epochs"],
        filled=filled,
        usable=arrays["prototypes_usable"],
        **{name: arrays[name] for name in ("entries", "image", "epoch", "confidence", "box", "region", "prototypes")},
    )


def _find_fault(arrays: dict[str, np.ndarray], about: Mapping[str, object]) -> str:
    """Why a file's content is not a snapshot, in a few words; "" if it is one."""
    for key in (*_SHAPES, "prototypes", "prototypes_usable"):
        if key not in arrays:
            return f"it lacks {key}"
    for key in ("method", "run", "seed", "classes", "images", "epochs"):
        if key not in about:
            return f"it does not state its {key}"
    if not (about["classes"] and isinstance(about["classes"], list) and isinstance(about["images"], list)):
        return "it names no classes or images"
    if not isinstance(about["epochs"], int):
        return "its epochs are no number"
    sizes = {**_FIXED, "R": len(about["classes"])}
    for key, axes in _SHAPES.items():
        shape = arrays[key].shape
        if len(shape) != len(axes) or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, shape, strict=True)
        ):
            return f"its {key} has the shape {shape}"
    prototypes, usable = arrays["prototypes"].shape, arrays["prototypes_usable"].shape
    if len(prototypes) != 3 or prototypes[:2] != usable or prototypes[0] > sizes["R"] or prototypes[2] != sizes["D"]:
        return f"its prototypes have the shape {prototypes}"
    filled = np.arange(sizes["N"]) < arrays["written"][:, None]
    if (arrays["image"][filled] >= len(about["images"])).any():
        return "it has regions of images that it does not name"
    if not all(np.isfinite(arrays[key][filled]).all() for key in ("entries", "confidence", "box")):
        return "it holds values that are not finite"
    return ""


def find_centroids(snapshot: Snapshot) -> Float64Array:
    """The normalised mean of each row's entries, (R, D), float64; 0 for empty rows."""
    sums = np.stack([snapshot.read_row(row).sum(0) for row in range(len(snapshot.classes))])
    centroids: Float64Array = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centroids


def describe_memory(snapshot: Snapshot, purity: Float64Array | None = None) -> pd.DataFrame:
    """Describe each row of a bank.

    Args:
        snapshot: The bank.
        purity: (R, N), from `measure_purity`; None if no true mask is known.

    Returns:
        A line for each row: `class`; `fill`, the number of regions; `age`, the mean number of epochs since they were
        stored (regions of a longer training have no age); `images`, the number of their images; `confidence`, its mean;
        `spread`, 1 - the mean cosine between the entries and their centroid; `nearest`, the row with the most similar
        centroid, and its `cosine`; `purity`, the mean over the regions with known truth. Figures that an empty row
        lacks are NaN ("" for `nearest`).
    """
    purity = np.full(snapshot.filled.shape, np.nan) if purity is None else purity
    centroids = find_centroids(snapshot)
    likeness = centroids @ centroids.T
    empty = snapshot.filled.sum(1) == 0
    likeness[empty] = likeness[:, empty] = np.nan
    np.fill_diagonal(likeness, np.nan)
    lines = []
    for row, name in enumerate(snapshot.classes):
        slots = snapshot.filled[row]
        age, images = snapshot.epochs - 1 - snapshot.epoch[row, slots], snapshot.image[row, slots]
        other = int(np.nanargmax(likeness[row])) if np.isfinite(likeness[row]).any() else None
        lines.append(
            {
                "class": name,
                "fill": int(slots.sum()),
                "age": _average(age[age >= 0]),
                "images": len(np.unique(images[images >= 0])),
                "confidence": _average(snapshot.confidence[row, slots]),
                "spread": float(np.maximum(0, 1 - _average(snapshot.read_row(row) @ centroids[row]))),
                "nearest": "" if other is None else snapshot.classes[other],
                "cosine": np.nan if other is None else likeness[row, other],
                "purity": _average(purity[row, slots]),
            }
        )
    return pd.DataFrame(lines)


def _average(values: FloatArray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else np.nan


def average_memory(table: pd.DataFrame) -> dict[str, float]:
    """The mean of each of `FIGURES`, over the rows that have it."""
    return {name: _average(table[name].to_numpy(np.float64)) for name in FIGURES}


def measure_purity(snapshot: Snapshot, manifest: Manifest) -> Float64Array:
    """The share of each region's pixels that belong to its row's class according to the true mask.

    Each pixel is weighted by how far it belongs to the region; pixels with the label 255 are left out. For the row of
    a context the label is 0.

    Args:
        snapshot: The bank.
        manifest: The dataset that it was trained on; each mask is read once, one at a time.

    Returns:
        (R, N), float64, 0..1; NaN if the slot is empty or the truth unknown.

    Raises:
        UserError: the manifest lacks an image or a class, or a mask is missing or broken.
    """
    labels = [_find_label(name, manifest) for name in snapshot.classes]
    purity = np.full(snapshot.filled.shape, np.nan)
    for position, slots in _group_by_image(snapshot):
        image_id = snapshot.images[position]
        if image_id not in manifest.index:
            raise UserError(
                f"The memory holds a region of {image_id}, which is not in the manifest: name the manifest of its"
                " dataset."
            )
        record = manifest.images[manifest.index[image_id]]
        if record.mask is None:
            continue
        truth = read_mask(manifest.truth(record))
        for row, slot in slots:
            purity[row, slot] = measure_region(truth, snapshot.box[row, slot], snapshot.region[row, slot], labels[row])
    return purity


def _find_label(name: str, manifest: Manifest) -> int:
    if name in manifest.classes:
        return manifest.classes.index(name) + 1
    if name.removeprefix(CONTEXT) in manifest.classes:
        return 0
    raise UserError(f"The memory has the class {name}, which is not in the manifest: name the manifest of its dataset.")


def _group_by_image(snapshot: Snapshot) -> Iterator[tuple[int, Int64Array]]:
    """Yield each known image's position, with the rows and slots (M, 2) of its regions."""
    known = snapshot.filled & (snapshot.image >= 0)
    places, positions = np.argwhere(known), snapshot.image[known]
    order = np.argsort(positions, kind="stable")
    images, starts = np.unique(positions[order], return_index=True)
    groups = np.split(places[order], starts[1:])
    yield from zip(map(int, images), track(groups, "reading true masks", len(groups)), strict=False)


def measure_region(truth: UInt8Array, box: Float32Array, region: UInt8Array, label: int) -> float:
    """The share of one region's known pixels that carry a label.

    Args:
        truth: (H, W), uint8, 255 for ignore.
        box: (4,), left, top, right and bottom in pixels.
        region: (G, G), uint8, over the box.
        label: The label, 0..254.

    Returns:
        0..1; NaN if the region has no known pixel.
    """
    left, top, right, bottom = map(float, box)
    rows, row_cells = _find_cells(top, bottom, truth.shape[0], len(region))
    columns, column_cells = _find_cells(left, right, truth.shape[1], len(region))
    part = truth[np.ix_(rows, columns)]
    weight = region[np.ix_(row_cells, column_cells)] * (part != IGNORE).astype(np.float64)
    total = weight.sum()
    return float(weight[part == label].sum() / total) if total else np.nan


def _find_cells(start: float, end: float, size: int, cells: int) -> tuple[Int64Array, Int64Array]:
    """The pixels on a side of length `size` whose centres lie from start to end, and the cell of each."""
    pixels = np.arange(size)
    pixels = pixels[(pixels + 0.5 >= start) & (pixels + 0.5 < end)]
    share = (pixels + 0.5 - start) / (end - start) if len(pixels) else pixels
    return pixels, np.minimum((share * cells).astype(np.int64), cells - 1)
