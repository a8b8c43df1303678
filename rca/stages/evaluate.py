"""Score a run: seeds, pseudo labels, refined masks, segmentation (one confusion matrix each) and the classifier.

A memory, where the run keeps one, is described as well.
"""

import hashlib
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from rca.artifacts import read_json, read_mask, write_directory, write_json, write_mask, write_text
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.data.partition import assign_shard
from rca.labels.background import label_pixels
from rca.labels.score_maps import Shard, Tags, enlarge, open_scores
from rca.mask_counts import BOUNDARY_DISTANCE, MaskCounts, Truth
from rca.metrics import Confusion, PredictedIgnore, average_precision
from rca.progress import track
from rca.protocol import TAGS, fingerprint_list
from rca.settings import Settings
from rca.stages.context import Context, Supervision
from rca.stages.layout import CHOICES, RunLayout
from rca.tensor_files import read_about


class EvaluateSettings(Settings):
    """Which splits are scored for which kind, and how.

    Attributes:
        seed: Splits on which the seeds are scored.
        seed_predicted_tags: Splits on which the seeds of predicted tags are scored.
        pseudo: Splits on which the pseudo labels are scored.
        refined: Splits on which the refined masks are scored.
        segmentation: Splits on which the segmentation is scored.
        classification: Splits on which the classifier is scored.
        predicted_ignore: Whether a pixel that a mask leaves open counts as an error or is left out of the headline
            figures; the mIoU is reported both ways.
        boundary_distance: How near a contour the boundary IoU looks, as a share of an image's diagonal.
        examples: How many images of a split the report's gallery shows, null for all; their masks and IoU are kept.
        examples_split: Which split; null takes the first that the segmentation, or else the seed or the classifier, is
            scored on.
    """

    seed: tuple[str, ...] = ()
    seed_predicted_tags: tuple[str, ...] = ()
    pseudo: tuple[str, ...] = ()
    refined: tuple[str, ...] = ()
    segmentation: tuple[str, ...] = ()
    classification: tuple[str, ...] = ()
    predicted_ignore: PredictedIgnore = "count_as_error"
    boundary_distance: float = Field(default=BOUNDARY_DISTANCE, gt=0, lt=1)
    examples: int | None = Field(default=12, ge=0)
    examples_split: str | None = None

    @property
    def masks(self) -> dict[str, tuple[str, ...]]:
        """The splits of each kind of mask, in the pipeline's order."""
        return {kind: splits for kind in TAGS if (splits := getattr(self, kind))}

    def keep_segmentation(self) -> "EvaluateSettings":
        """The same without what a run that is trained on true masks does not make."""
        others = [kind for kind in (*TAGS, "classification") if kind != "segmentation"]
        return self.model_copy(update=dict.fromkeys(others, ()))


class Key(NamedTuple):
    """Which masks a figure is of.

    Attributes:
        kind: One of `TAGS`.
        split: The images.
        choice: The threshold that the masks were made with; "" for the segmentation, which has none.
    """

    kind: str
    split: str
    choice: str


class Masks:
    """All masks of a run, by kind and threshold.

    Args:
        paths: The run's.
        thresholds: What the masks were made with.
        shards: The open score maps.
    """

    def __init__(self, paths: RunLayout, thresholds: dict[str, Any], shards: list[Shard]) -> None:
        self.paths, self.thresholds, self.shards = paths, thresholds, shards

    def find_shard(self, record: ImageRecord) -> Shard:
        """The shard that holds an image's score maps."""
        return self.shards[assign_shard(record.id, len(self.shards))]

    def has(self, kind: str, record: ImageRecord, split: str) -> bool:
        """Whether an image has masks of a kind."""
        if kind == "seed":
            return self.find_shard(record).has(record.id)
        if kind == "seed_predicted_tags":
            return self.find_shard(record).has_predicted(record.id)
        return self._find(kind, record, split, CHOICES[0]).is_file()

    def read(self, kind: str, record: ImageRecord, splits: Sequence[str]) -> Iterator[tuple[list[Key], np.ndarray]]:
        """An image's masks of a kind, each read or made once, with all that it counts for.

        Args:
            kind: One of `TAGS`.
            record: The image.
            splits: Those of its splits that are scored.
        """
        if kind == "segmentation":  # made for each split by itself
            for split in splits:
                yield [Key(kind, split, "")], read_mask(self._find(kind, record, split, ""))
            return
        if kind in ("seed", "seed_predicted_tags"):
            found = self._read_seeds(record, "given" if kind == "seed" else "predicted")
        else:
            found = ((choice, read_mask(self._find(kind, record, "", choice))) for choice in CHOICES)
        for choice, mask in found:
            yield [Key(kind, split, choice) for split in splits], mask

    def _read_seeds(self, record: ImageRecord, tags: Tags) -> Iterator[tuple[str, np.ndarray]]:
        """The masks that an image's score maps give, by threshold."""
        one = self.find_shard(record).read(record.id, tags)
        scores = enlarge(one.scores, record.height, record.width)
        for choice in CHOICES:
            yield choice, label_pixels(scores, one.labels, self.thresholds[choice])

    def _find(self, kind: str, record: ImageRecord, split: str, choice: str) -> Path:
        if kind == "segmentation":
            return self.paths.predictions / split / f"{record.id}.png"
        shard = assign_shard(record.id, len(self.shards))
        return self.paths.masks(kind) / str(shard) / choice / f"{record.id}.png"


def run(context: Context) -> None:
    """Write the metrics, the metrics of each class, and what the report shows."""
    settings = context.settings(EvaluateSettings)
    if context.supervision == "masks":
        settings = settings.keep_segmentation()
    paths, shards = context.paths, context.read("shards")
    manifest = read_manifest(context.layout.manifest)
    thresholds = read_json(paths.threshold)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_scores(*paths.final_scores(shard))) for shard in shards]
        masks = Masks(paths, thresholds, opened)
        counts = score_masks(manifest, masks, settings)
        ranking = {split: score_classifier(manifest, masks, split) for split in settings.classification}
        metrics = collect_metrics(counts, ranking, manifest, thresholds, settings.predicted_ignore)
        protocol = describe(manifest, masks, settings, context.supervision)
        table = list_per_class(counts, manifest.classes, settings.predicted_ignore)
        per_class = table.to_csv(index=False, float_format="%.6f")
        with write_directory(paths.evaluation) as directory:
            write_examples(directory, manifest, masks, settings)
            if paths.memory.is_file():
                write_memory(directory / "memory", paths.memory, manifest)
            for path in (paths.threshold_curve, paths.cam_history, paths.seg_history):
                shutil.copyfile(path, directory / path.name)
            write_text(directory / "per_class.csv", per_class)
            write_json(directory / "evaluation.json", {"metrics": metrics, "protocol": protocol})
    write_text(paths.per_class, per_class)
    write_json(paths.metrics, metrics)
    print(table[table["class"] == "mean"].drop(columns=["class", "predicted_ignore"]).to_string(index=False))


def describe(manifest: Manifest, masks: Masks, settings: EvaluateSettings, supervision: Supervision) -> dict[str, Any]:
    """The protocol of all figures, as `rca.protocol.describe_protocol` takes it."""
    splits = dict.fromkeys([split for of_kind in settings.masks.values() for split in of_kind])
    splits |= dict.fromkeys(settings.classification)
    ids = {split: [record.id for record in manifest.select(split)] for split in splits}
    predicted = masks.shards[0].about.get("predicted_tags", {})
    networks = {
        "classification": read_about(masks.paths.network, "train_cam"),
        "segmentation": read_about(masks.paths.segmenter, "train_seg"),
    }
    return {
        "lists": {split: {"images": len(one), "sha256": fingerprint_list(one)} for split, one in ids.items()},
        "tags": {kind: TAGS[kind] for kind in settings.masks},
        "tag_threshold": predicted.get("threshold"),
        "predicted_ignore": settings.predicted_ignore,
        "best_on": masks.thresholds["split"],
        "boundary_distance": settings.boundary_distance,
        "supervision": supervision,
        # A training that was switched off left nothing to tell of.
        "initialisation": {
            name: about["initialisation"] for name, about in networks.items() if "initialisation" in about
        },
    }


def score_masks(manifest: Manifest, masks: Masks, settings: EvaluateSettings) -> dict[Key, MaskCounts]:
    """Count the masks of each kind, split and threshold; each image's truth is read once for all of them."""
    classes = len(manifest.classes)
    found = {
        Key(kind, split, choice): MaskCounts(classes)
        for kind, splits in settings.masks.items()
        for split in splits
        for choice in (("",) if kind == "segmentation" else CHOICES)
    }
    records = manifest.select_any(tuple({key.split for key in found}))
    for record in track(records, "scoring", len(records)):
        truth = Truth(read_mask(manifest.truth(record)), settings.boundary_distance)
        for kind, splits in settings.masks.items():
            scored = [split for split in splits if split in record.splits]
            for keys, mask in masks.read(kind, record, scored) if scored else ():
                counts = MaskCounts(classes)
                counts.add(truth, mask)
                for key in keys:
                    found[key] += counts
    return found


def score_classifier(manifest: Manifest, masks: Masks, split: str) -> float:
    """Mean average precision of the image-level scores."""
    records = manifest.select(split)
    scores = [masks.find_shard(record).read_logits(record.id) for record in records]
    tags = [manifest.encode_tags(record) for record in records]
    return average_precision(np.stack(scores), np.stack(tags).astype(bool))


def collect_metrics(
    counts: dict[Key, MaskCounts],
    ranking: dict[str, float],
    manifest: Manifest,
    thresholds: dict[str, Any],
    ignore: PredictedIgnore,
) -> dict[str, Any]:
    """All figures in the nesting that `dvc metrics` shows, as fractions; null where there is nothing to average."""
    metrics: dict[str, Any] = {}

    def plain(figures: dict[str, float]) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else round(value, 6) for name, value in figures.items()}

    for (kind, split, choice), of_masks in counts.items():
        place = metrics.setdefault(kind, {}).setdefault(split, {})
        figures = of_masks.summarise(ignore)
        if choice:
            place[choice] = plain({**figures, "threshold": thresholds[choice]})
        else:
            place.update(plain(figures))
    for split, value in ranking.items():
        images = len(manifest.select(split))
        metrics.setdefault("classification", {})[split] = plain({"map": value, "images": images})
    return metrics


def list_per_class(counts: dict[Key, MaskCounts], classes: tuple[str, ...], ignore: PredictedIgnore) -> pd.DataFrame:
    """A line for each kind, split, threshold and class, and one for their mean."""
    figures = ("iou", "boundary_iou", "precision", "recall")
    rows = []
    for (kind, split, choice), one in counts.items():
        summary = one.summarise(ignore)
        lines = [*one.list_labels(ignore), [summary[name] for name in ("miou", *figures[1:])]]
        for name, line in zip(("background", *classes, "mean"), lines, strict=True):
            rows.append((kind, split, choice, TAGS[kind], one.images, ignore, name, *line))
    columns = ["kind", "split", "threshold", "tags", "images", "predicted_ignore", "class", *figures]
    return pd.DataFrame(rows, columns=columns)


def write_examples(directory: Path, manifest: Manifest, masks: Masks, settings: EvaluateSettings) -> None:
    """Keep images' masks of every kind for the report, the same images for all runs and seeds, and how good each is.

    `examples.csv` has a line for each image, kind and label that occurs in the mask or the truth, with the label's IoU
    in that image; none for an image without a true mask.
    """
    scored = settings.segmentation or settings.seed or settings.classification
    split = settings.examples_split or next(iter(scored), "")
    chosen = manifest.select(split) if split else ()
    records = sorted(chosen, key=lambda one: hashlib.sha256(one.id.encode()).digest())
    lines: list[tuple[str, str, int, float]] = []
    for record in records[: settings.examples]:
        folder = directory / "examples" / record.id
        folder.mkdir(parents=True)
        truth = read_mask(manifest.truth(record)) if record.mask is not None else None
        if truth is not None:
            write_mask(folder / "truth.png", truth)
        for kind in TAGS:
            if masks.has(kind, record, split):
                _, mask = next(masks.read(kind, record, [split]))  # of the best threshold
                write_mask(folder / f"{kind}.png", mask)
                if truth is not None:
                    confusion = Confusion(len(manifest.classes))
                    confusion.add(truth, mask)
                    ious = confusion.iou(settings.predicted_ignore)
                    lines += [(record.id, kind, int(label), ious[label]) for label in np.flatnonzero(np.isfinite(ious))]
    table = pd.DataFrame(lines, columns=["image", "kind", "label", "iou"])
    write_text(directory / "examples.csv", table.to_csv(index=False, float_format="%.4f"))


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
