"""Score a run: seeds, pseudo labels, refined and relabelled masks, segmentation and the classifier.

If the run keeps a memory, describe it as well.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

from pydantic import Field

from rca.core.files import hash_file, read_json, write_directory, write_json, write_text
from rca.core.settings import Plain, Settings, Supervision, Train
from rca.core.tensors import read_about
from rca.data.manifest import Manifest, read_manifest
from rca.evaluation.errors import SHARES, list_errors
from rca.evaluation.exhibits import write_examples, write_memory
from rca.evaluation.figures import collect_metrics, list_confusion, list_per_class, score_classifier, score_masks
from rca.evaluation.image_counts import list_images
from rca.evaluation.mask_counts import BOUNDARY_DISTANCE
from rca.evaluation.masks import Masks
from rca.evaluation.metrics import PredictedIgnore
from rca.evaluation.protocol import TAGS, fingerprint_list
from rca.labels.score_maps import open_shard
from rca.labels.thresholds import CHOICES
from rca.stages.base.context import Context
from rca.stages.base.layout import MapKind, MaskKind, RunLayout
from rca.stages.base.leftovers import keep_masks
from rca.stages.base.stage import Stage


class EvaluateSettings(Settings):
    """The splits on which each kind of mask is scored, and how.

    Attributes:
        seed: Splits on which to score the seeds.
        seed_predicted_tags: Splits on which to score the seeds from predicted tags.
        pseudo: Splits on which to score the pseudo labels.
        refined: Splits on which to score the refined masks.
        refined_predicted_tags: Splits on which to score the refined masks from predicted tags.
        relabelled: Splits on which to score the relabelled masks, of images on which segmentation networks are trained.
        segmentation: Splits on which to score the segmentation.
        classification: Splits on which to score the classifier.
        predicted_ignore: Whether undecided pixels of a mask count as errors in the headline figures or are left out;
            the mIoU is reported both ways.
        boundary_distance: Width of the boundary IoU's band along contours, as a share of the image's diagonal.
        examples: Number of images in the report's gallery, null for all; their masks and IoU are kept.
        examples_split: Their split; null takes the first on which the segmentation is scored, or else the seeds, or
            else the classifier.
    """

    seed: tuple[str, ...] = ("train", "val")
    seed_predicted_tags: tuple[str, ...] = ()
    pseudo: tuple[str, ...] = ("train", "val")
    refined: tuple[str, ...] = ("train", "val")
    refined_predicted_tags: tuple[str, ...] = ()
    relabelled: tuple[str, ...] = ()
    segmentation: tuple[str, ...] = ("val",)
    classification: tuple[str, ...] = ("val",)
    predicted_ignore: PredictedIgnore = "count_as_error"
    boundary_distance: float = Field(default=BOUNDARY_DISTANCE, gt=0, lt=1)
    examples: int | None = Field(default=12, ge=0)
    examples_split: str | None = None

    @property
    def masks(self) -> dict[str, tuple[str, ...]]:
        """The splits of each kind of mask, in the pipeline's order."""
        return {kind: splits for kind in TAGS if (splits := getattr(self, kind))}

    @property
    def shown_split(self) -> str:
        """The split of the examples; "" where nothing is scored."""
        scored = self.segmentation or self.seed or self.classification
        return self.examples_split or next(iter(scored), "")

    def keep(self, kinds: Iterable[str]) -> "EvaluateSettings":
        """The settings for a run of which only some kinds of masks are scored, and no classifier."""
        others = {*TAGS, "classification"} - {*kinds}
        return self.model_copy(update=dict.fromkeys(others, ()))


class EvaluateTask(EvaluateSettings):
    """All settings of the stage.

    Attributes:
        supervision: What the run's networks learn from.
        train: Whether the run trains its classification network.
        maps: The score maps that masks are made from.
        made: The kinds of masks that the run makes.
        segmented: Whether a segmentation network is trained.
        shards: The parts that the images are split into, counted from 0.
    """

    supervision: Supervision
    train: Train
    maps: MapKind
    made: tuple[MaskKind, ...]
    segmented: bool
    shards: tuple[int, ...]


def run(context: Context, task: EvaluateTask) -> None:
    """Write the metrics, the metrics of each class, and the tables and examples of the report."""
    weak = task.supervision == "tags"
    settings = list_scored(task)
    paths = context.paths
    for path in list_stale(paths, task):
        remove(path)
    keep_masks(paths, task.made, task.shards)
    manifest = read_manifest(context.layout.manifest)
    chosen: Plain = read_json(paths.threshold) if weak else {}
    thresholds = {choice: float(chosen[choice]) for choice in CHOICES if weak}
    folders = {kind: paths.masks_of(kind) for kind in get_args(MaskKind)} | {"segmentation": paths.predictions}
    with ExitStack() as stack:
        shards = [paths.maps_of(shard, task.maps) for shard in task.shards] if weak else []
        opened = [stack.enter_context(open_shard(shard)) for shard in shards]
        masks = Masks(folders, thresholds, opened, len(task.shards))
        counts = score_masks(manifest, masks, settings.masks, settings.boundary_distance)
        ranking = {split: score_classifier(manifest, masks, split) for split in settings.classification}
        metrics = collect_metrics(counts, ranking, manifest, thresholds, settings.predicted_ignore)
        protocol = describe(paths, manifest, masks, task, chosen.get("split"))
        table = list_per_class(counts, manifest.classes, settings.predicted_ignore)
        per_class = table.to_csv(index=False, float_format="%.6f")
        with write_directory(paths.evaluation) as directory:
            examples = (settings.shown_split, settings.examples, settings.predicted_ignore)
            write_examples(directory, manifest, masks, *examples)
            if paths.memory.is_file():
                write_memory(directory / "memory", paths.memory, manifest)
            for path in (paths.threshold, paths.threshold_curve, paths.cam_history, paths.seg_history):
                if path.is_file():
                    shutil.copyfile(path, directory / path.name)
            write_text(directory / "per_class.csv", per_class)
            write_text(directory / "confusion.csv", list_confusion(counts).to_csv(index=False))
            errors = list_errors({key: each.errors for key, each in counts.items()}, manifest.classes)
            images = list_images({key: each.images for key, each in counts.items() if key.choice != "fixed"})
            write_text(directory / "errors.csv", errors.to_csv(index=False))
            write_text(directory / "images.csv", images.to_csv(index=False))
            scored = hash_file(paths.segmenter) if paths.segmenter.is_file() else None
            about = {"metrics": metrics, "protocol": protocol, "segmenter_sha256": scored}
            write_json(directory / "evaluation.json", about)
    write_text(paths.per_class, per_class)
    write_json(paths.metrics, metrics)
    print(table[table["class"] == "mean"].drop(columns=["class", "predicted_ignore", *SHARES]).to_string(index=False))


def list_scored(task: EvaluateTask) -> EvaluateSettings:
    """The settings without the kinds of masks that the run does not make."""
    if task.supervision == "tags":
        never = [
            kind for kind in TAGS if kind == "relabelled" or (task.train == "average" and TAGS[kind] == "predicted")
        ]
        return task.model_copy(update=dict.fromkeys(never, ()))
    return task.keep([*task.made, "segmentation"])


def list_stale(paths: RunLayout, task: EvaluateTask) -> Iterator[Path]:
    """The outputs of stages that earlier settings needed and the present ones do not.

    The stage depends on the whole folder of the run, so they must not stay.
    """
    weak = task.supervision == "tags"
    if not weak:
        yield from (paths.model, paths.memory_history, paths.cam_history, paths.maps)
        yield from (paths.threshold, paths.threshold_curve)
    if not task.made:
        yield paths.masks
    if task.train == "average":
        yield paths.model
    else:
        yield paths.members
    if task.train != "own":
        yield from (paths.memory_history, paths.cam_history)
    if not task.segmented:
        yield from (paths.pinned_masks, paths.segmenter, paths.seg_history, paths.predictions)
    if not weak or task.maps == "scores":
        yield from (paths.pinned_scores, paths.affinity, paths.affinity_history)


def remove(path: Path) -> None:
    """Delete a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def describe(paths: RunLayout, manifest: Manifest, masks: Masks, task: EvaluateTask, best_on: str | None) -> Plain:
    """The protocol of all figures, as `rca.evaluation.protocol.describe_protocol` takes it."""
    settings = list_scored(task)
    splits = dict.fromkeys([split for kind_splits in settings.masks.values() for split in kind_splits])
    splits |= dict.fromkeys(settings.classification)
    ids = {split: [record.id for record in manifest.select(split)] for split in splits}
    predicted = masks.shards[0].about.get("predicted_tags", {}) if masks.shards else {}
    networks = {
        "classification": (paths.network, "train_cam"),
        "segmentation": (paths.segmenter, "train_seg"),
    }
    return {
        "lists": {split: {"images": len(listed), "sha256": fingerprint_list(listed)} for split, listed in ids.items()},
        "tags": {kind: TAGS[kind] for kind in settings.masks},
        "tag_threshold": predicted.get("threshold"),
        "predicted_ignore": settings.predicted_ignore,
        "best_on": best_on,
        "boundary_distance": settings.boundary_distance,
        "supervision": task.supervision,
        "initialisation": {
            name: read_about(path, stage)["initialisation"]
            for name, (path, stage) in networks.items()
            if path.is_file()
        },
    }


STAGE = Stage(
    task=EvaluateTask,
    section=EvaluateSettings,
    run=run,
    shared={
        "supervision": "run.supervision",
        "train": "run.train",
        "maps": "run.maps",
        "made": "run.made_masks",
        "segmented": "train_seg.enabled",
        "shards": "shards",
    },
    axes=("run", "seed"),
    overridable=False,  # all runs are scored in the same way
)
