"""Score a run: seeds, pseudo labels, refined masks, segmentation (one confusion matrix each) and the classifier.

A memory, where the run keeps one, is described as well.
"""

import shutil
from contextlib import ExitStack
from typing import Any

from pydantic import Field

from rca.core.files import read_json, write_directory, write_json, write_text
from rca.core.settings import Settings
from rca.core.tensors import read_about
from rca.data.manifest import Manifest, read_manifest
from rca.evaluation.exhibits import write_examples, write_memory
from rca.evaluation.figures import collect_metrics, list_per_class, score_classifier, score_masks
from rca.evaluation.mask_counts import BOUNDARY_DISTANCE
from rca.evaluation.masks import Masks
from rca.evaluation.metrics import PredictedIgnore
from rca.evaluation.protocol import TAGS, fingerprint_list
from rca.labels.score_maps import open_scores
from rca.stages.context import Context


class EvaluateSettings(Settings):
    """Which splits are scored for which kind, and how.

    Attributes:
        seed: Splits on which the seeds are scored.
        seed_predicted_tags: Splits on which the seeds of predicted tags are scored.
        pseudo: Splits on which the pseudo labels are scored.
        refined: Splits on which the refined masks are scored.
        refined_predicted_tags: Splits on which the refined masks of predicted tags are scored.
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
    refined_predicted_tags: tuple[str, ...] = ()
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

    @property
    def shown_split(self) -> str:
        """The split of the examples; "" where nothing is scored."""
        scored = self.segmentation or self.seed or self.classification
        return self.examples_split or next(iter(scored), "")

    def keep_segmentation(self) -> "EvaluateSettings":
        """The same without what a run that is trained on true masks does not make."""
        others = [kind for kind in (*TAGS, "classification") if kind != "segmentation"]
        return self.model_copy(update=dict.fromkeys(others, ()))


def run(context: Context) -> None:
    """Write the metrics, the metrics of each class, and what the report shows."""
    settings = context.settings(EvaluateSettings)
    if context.supervision == "masks":
        settings = settings.keep_segmentation()
    paths, shards = context.paths, context.read("shards")
    manifest = read_manifest(context.layout.manifest)
    thresholds = read_json(paths.threshold)
    folders = {"pseudo": paths.pseudo, "refined": paths.refined, "segmentation": paths.predictions}
    with ExitStack() as stack:
        opened = [stack.enter_context(open_scores(*paths.final_scores(shard))) for shard in shards]
        masks = Masks(folders, thresholds, opened)
        counts = score_masks(manifest, masks, settings.masks, settings.boundary_distance)
        ranking = {split: score_classifier(manifest, masks, split) for split in settings.classification}
        metrics = collect_metrics(counts, ranking, manifest, thresholds, settings.predicted_ignore)
        protocol = describe(context, manifest, masks, settings)
        table = list_per_class(counts, manifest.classes, settings.predicted_ignore)
        per_class = table.to_csv(index=False, float_format="%.6f")
        with write_directory(paths.evaluation) as directory:
            examples = (settings.shown_split, settings.examples, settings.predicted_ignore)
            write_examples(directory, manifest, masks, *examples)
            if paths.memory.is_file():
                write_memory(directory / "memory", paths.memory, manifest)
            for path in (paths.threshold_curve, paths.cam_history, paths.seg_history):
                shutil.copyfile(path, directory / path.name)
            write_text(directory / "per_class.csv", per_class)
            write_json(directory / "evaluation.json", {"metrics": metrics, "protocol": protocol})
    write_text(paths.per_class, per_class)
    write_json(paths.metrics, metrics)
    print(table[table["class"] == "mean"].drop(columns=["class", "predicted_ignore"]).to_string(index=False))


def describe(context: Context, manifest: Manifest, masks: Masks, settings: EvaluateSettings) -> dict[str, Any]:
    """The protocol of all figures, as `rca.evaluation.protocol.describe_protocol` takes it."""
    splits = dict.fromkeys([split for of_kind in settings.masks.values() for split in of_kind])
    splits |= dict.fromkeys(settings.classification)
    ids = {split: [record.id for record in manifest.select(split)] for split in splits}
    predicted = masks.shards[0].about.get("predicted_tags", {})
    networks = {
        "classification": read_about(context.paths.network, "train_cam"),
        "segmentation": read_about(context.paths.segmenter, "train_seg"),
    }
    return {
        "lists": {split: {"images": len(one), "sha256": fingerprint_list(one)} for split, one in ids.items()},
        "tags": {kind: TAGS[kind] for kind in settings.masks},
        "tag_threshold": predicted.get("threshold"),
        "predicted_ignore": settings.predicted_ignore,
        "best_on": masks.thresholds["split"],
        "boundary_distance": settings.boundary_distance,
        "supervision": context.supervision,
        # A training that was switched off left nothing to tell of.
        "initialisation": {
            name: about["initialisation"] for name, about in networks.items() if "initialisation" in about
        },
    }
