"""Score a run: seeds, pseudo labels, refined masks, segmentation (one confusion matrix each) and the classifier.

A memory, where the run keeps one, is described as well.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from rca.artifacts import keep_only, read_json, read_mask, write_directory, write_json, write_mask, write_text
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.data.partition import assign_shard
from rca.labels.background import label_pixels
from rca.labels.score_maps import Shard, enlarge, open_scores
from rca.metrics import Confusion, PredictedIgnore, average_precision
from rca.progress import track
from rca.settings import Settings
from rca.stages.context import Context
from rca.stages.layout import CHOICES, RunLayout

ReadMask = Callable[[ImageRecord], np.ndarray]


class EvaluateSettings(Settings):
    """Which splits are scored for which kind, and how.

    Attributes:
        seed: Splits on which the seeds are scored.
        pseudo: Splits on which the pseudo labels are scored.
        refined: Splits on which the refined masks are scored.
        segmentation: Splits on which the segmentation is scored.
        classification: Splits on which the classifier is scored.
        predicted_ignore: Whether a pixel that a mask leaves open counts as an error or is left out.
        examples: How many images of the first segmentation split the report shows.
    """

    seed: tuple[str, ...] = ()
    pseudo: tuple[str, ...] = ()
    refined: tuple[str, ...] = ()
    segmentation: tuple[str, ...] = ()
    classification: tuple[str, ...] = ()
    predicted_ignore: PredictedIgnore = "count_as_error"
    examples: int = Field(default=12, ge=0)


class Masks:
    """All masks of a run, by kind and threshold.

    Args:
        paths: The run's.
        thresholds: What the masks were made with.
        shards: The open score maps.
    """

    def __init__(self, paths: RunLayout, thresholds: dict[str, Any], shards: list[Shard]) -> None:
        self.paths, self.thresholds, self.shards = paths, thresholds, shards

    def has(self, kind: str, record: ImageRecord, split: str, choice: str) -> bool:
        """Whether there is such a mask; `choice` says nothing for the segmentation."""
        if kind == "seed":
            return record.id in self._find_shard(record).ids
        return self._find(kind, record, split, choice).is_file()

    def read_seed(self, record: ImageRecord, choice: str) -> np.ndarray:
        """The mask that the score maps give at a threshold."""
        one = self._find_shard(record).read(record.id)
        scores = enlarge(one.scores, record.height, record.width)
        return label_pixels(scores, one.labels, self.thresholds[choice])

    def read(self, kind: str, record: ImageRecord, split: str, choice: str) -> np.ndarray:
        """A mask of any kind; `choice` says nothing for the segmentation."""
        if kind == "seed":
            return self.read_seed(record, choice)
        return read_mask(self._find(kind, record, split, choice))

    def _find_shard(self, record: ImageRecord) -> Shard:
        return self.shards[assign_shard(record.id, len(self.shards))]

    def _find(self, kind: str, record: ImageRecord, split: str, choice: str) -> Path:
        if kind == "segmentation":
            return self.paths.predictions / split / f"{record.id}.png"
        shard = assign_shard(record.id, len(self.shards))
        return self.paths.masks(kind) / str(shard) / choice / f"{record.id}.png"


def run(context: Context) -> None:
    """Write the metrics, the metrics of each class, and what the report shows."""
    settings = context.settings(EvaluateSettings)
    paths, shards = context.paths, context.read("shards")
    for folder in (paths.scores, paths.walked):
        keep_only(folder, [paths.score_shard(shard).name for shard in shards])
    for folder in (paths.pseudo, paths.refined):
        keep_only(folder, [str(shard) for shard in shards])
    manifest = read_manifest(context.layout.manifest)
    thresholds = read_json(paths.threshold)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_scores(*paths.final_scores(shard))) for shard in shards]
        masks = Masks(paths, thresholds, opened)
        confusions = dict(score_masks(manifest, masks, settings))
        ranking = {
            split: score_classifier(manifest, opened, manifest.select(split)) for split in settings.classification
        }
        with write_directory(paths.evaluation) as directory:
            write_examples(directory, manifest, masks, settings)
            if paths.memory.is_file():
                write_memory(directory / "memory", paths.memory, manifest)
            for path in (paths.threshold_curve, paths.cam_history, paths.seg_history):
                shutil.copyfile(path, directory / path.name)
            metrics = collect_metrics(confusions, ranking, thresholds, settings.predicted_ignore)
            protocol = {
                "predicted_ignore": settings.predicted_ignore,
                "tags": "given for seed, pseudo and refined; not given for segmentation",
                "best": describe_best(thresholds["split"]),
            }
            write_json(directory / "evaluation.json", {"metrics": metrics, "protocol": protocol})
    table = list_per_class(confusions, manifest.classes, settings.predicted_ignore)
    write_text(paths.per_class, table.to_csv(index=False, float_format="%.6f"))
    write_json(paths.metrics, metrics)
    print(table[table["class"] == "mean"].to_string(index=False))


def describe_best(split: str | None) -> str:
    """What the best threshold is, given the split that it was chosen on."""
    if split is None:
        return "the fixed threshold, since there were no true masks to choose another by"
    return f"the threshold with the highest seed mIoU on {split}"


def score_masks(
    manifest: Manifest, masks: Masks, settings: EvaluateSettings
) -> Iterator[tuple[tuple[str, str, str], Confusion]]:
    """The confusion of each kind of mask, split and threshold, by those three names."""
    for kind in ("seed", "pseudo", "refined", "segmentation"):
        for split in getattr(settings, kind):
            records = manifest.select(split)
            choices = ("",) if kind == "segmentation" else CHOICES
            found = {choice: Confusion(len(manifest.classes)) for choice in choices}
            for record in track(records, f"scoring {kind} on {split}", len(records)):
                truth = read_mask(manifest.truth(record))
                for choice, confusion in found.items():
                    confusion.add(truth, masks.read(kind, record, split, choice))
            yield from (((kind, split, choice), confusion) for choice, confusion in found.items())


def score_classifier(manifest: Manifest, shards: list[Shard], records: tuple[ImageRecord, ...]) -> float:
    """Mean average precision of the image-level scores."""
    scores = [shards[assign_shard(record.id, len(shards))].read(record.id).logits for record in records]
    tags = [manifest.encode_tags(record) for record in records]
    return average_precision(np.stack(scores), np.stack(tags).astype(bool))


def collect_metrics(
    confusions: dict[tuple[str, str, str], Confusion],
    ranking: dict[str, float],
    thresholds: dict[str, Any],
    ignore: PredictedIgnore,
) -> dict[str, Any]:
    """All figures in the nesting that `dvc metrics` shows, as fractions."""
    metrics: dict[str, Any] = {}
    for (kind, split, choice), confusion in confusions.items():
        place = metrics.setdefault(kind, {}).setdefault(split, {})
        figures = {name: round(value, 6) for name, value in confusion.summarise(ignore).items()}
        if choice:
            place[choice] = {**figures, "threshold": round(thresholds[choice], 6)}
        else:
            place.update(figures)
    for split, value in ranking.items():
        metrics.setdefault("classification", {})[split] = {"map": None if math.isnan(value) else round(value, 6)}
    return metrics


def list_per_class(
    confusions: dict[tuple[str, str, str], Confusion], classes: tuple[str, ...], ignore: PredictedIgnore
) -> pd.DataFrame:
    """A line for each kind, split, threshold and class, and one for their mean."""
    rows = []
    for (kind, split, choice), confusion in confusions.items():
        figures = np.stack([confusion.iou(ignore), confusion.precision(), confusion.recall(ignore)], 1)
        summary = confusion.summarise(ignore)
        lines = [*figures, [summary[name] for name in ("miou", "precision", "recall")]]
        for name, line in zip(("background", *classes, "mean"), lines, strict=True):
            rows.append((kind, split, choice, name, *line))
    return pd.DataFrame(rows, columns=["kind", "split", "threshold", "class", "iou", "precision", "recall"])


def write_examples(directory: Path, manifest: Manifest, masks: Masks, settings: EvaluateSettings) -> None:
    """Keep a few images' masks of every kind for the report, the same images for all runs and seeds."""
    splits = settings.segmentation or settings.seed or settings.classification
    if not splits:
        return
    records = sorted(manifest.select(splits[0]), key=lambda one: hashlib.sha256(one.id.encode()).digest())
    for record in records[: settings.examples]:
        folder = directory / "examples" / record.id
        folder.mkdir(parents=True)
        if record.mask is not None:
            write_mask(folder / "truth.png", read_mask(manifest.truth(record)))
        for kind in ("seed", "pseudo", "refined", "segmentation"):
            if masks.has(kind, record, splits[0], "best"):
                write_mask(folder / f"{kind}.png", masks.read(kind, record, splits[0], "best"))


def write_memory(directory: Path, snapshot_file: Path, manifest: Manifest) -> None:
    """Keep what the report says of a memory: its figures, its map, and the regions that stand for its classes.

    The regions are one picture, 16 pixels wide, in the order of the lines of `regions.csv`.
    """
    # Here, since reading a snapshot imports torch, which takes seconds that a run without a memory need not wait.
    from rca.memory_map import choose_regions, place_entries
    from rca.memory_statistics import average_memory, describe_memory, measure_purity, read_snapshot

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
