"""A run's exhibits for the report, beside its figures: example masks, and its memory."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rca.core.arrays import Float32Array
from rca.core.files import read_mask, write_mask, write_text
from rca.data.manifest import Manifest
from rca.evaluation.masks import Masks
from rca.evaluation.metrics import Confusion, PredictedIgnore
from rca.evaluation.protocol import TAGS
from rca.labels.score_maps import enlarge


def write_examples(
    directory: Path, manifest: Manifest, masks: Masks, split: str, number: int | None, ignore: PredictedIgnore
) -> None:
    """Copy masks of every kind for the report, of the same images for all runs and seeds, and write their IoU.

    `scores.png` is the highest score of each pixel, 255 for 1; a run without score maps has none.

    `examples.csv` has a line for each image, kind, and label in the mask or the truth, with the label's IoU in that
    image. Images without a true mask have no line.

    Args:
        directory: The folder to write to, which must exist.
        manifest: The dataset.
        masks: The run's masks.
        split: The images; "" for none.
        number: The number of images; None for all.
        ignore: How the IoU treats pixels that a mask leaves undecided.
    """
    images = manifest.select(split) if split else ()
    records = sorted(images, key=lambda record: hashlib.sha256(record.id.encode()).digest())
    lines: list[tuple[str, str, int, float]] = []
    for record in records[:number]:
        folder = directory / "examples" / record.id
        folder.mkdir(parents=True)
        truth = read_mask(manifest.truth(record)) if record.mask is not None else None
        if truth is not None:
            write_mask(folder / "truth.png", truth)
        if masks.has("seed", record, split):
            scores = enlarge(masks.find_shard(record).read(record.id).scores, record.height, record.width)
            write_scores(folder / "scores.png", scores)
        for kind in TAGS:
            if masks.has(kind, record, split):
                _, mask = next(masks.read(kind, record, [split]))  # the first is that of the best threshold
                write_mask(folder / f"{kind}.png", mask)
                if truth is not None:
                    confusion = Confusion(len(manifest.classes))
                    confusion.add(truth, mask)
                    ious = confusion.iou(ignore)
                    lines += [(record.id, kind, int(label), ious[label]) for label in np.flatnonzero(np.isfinite(ious))]
    table = pd.DataFrame(lines, columns=["image", "kind", "label", "iou"])
    write_text(directory / "examples.csv", table.to_csv(index=False, float_format="%.4f"))


def write_scores(path: Path, scores: Float32Array) -> None:
    """Write the highest of some score maps (K, H, W), 0..1, as a grey picture; nothing without a map."""
    if len(scores):
        Image.fromarray((255 * scores.max(0)).round().astype(np.uint8)).save(path)


def write_memory(directory: Path, snapshot_file: Path, manifest: Manifest) -> None:
    """Write a memory's exhibits: its statistics, its map, and the regions nearest to its classes' centres.

    The regions are stacked in one picture, 16 pixels wide, in the order of `regions.csv`.
    """
    # Imported here, since reading a snapshot imports torch, which takes seconds that a run without a memory can save.
    from rca.evaluation.memory_map import choose_regions, place_entries
    from rca.evaluation.memory_statistics import average_memory, describe_memory, measure_purity, read_snapshot

    directory.mkdir()
    snapshot = read_snapshot(snapshot_file)
    lines = describe_memory(snapshot, measure_purity(snapshot, manifest))
    means = {"class": "mean", "nearest": "", **average_memory(lines)}
    statistics = pd.DataFrame([*lines.to_dict("records"), means])
    chosen, regions = choose_regions(snapshot)
    for name, table in (("statistics", statistics), ("map", place_entries(snapshot)), ("regions", chosen)):
        write_text(directory / f"{name}.csv", table.to_csv(index=False, float_format="%.6f"))
    if len(regions):
        Image.fromarray(regions.reshape(-1, regions.shape[2])).save(directory / "regions.png")
