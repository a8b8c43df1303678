"""Compute the score maps of one shard from several scales, with and without mirroring, for the images' tags.

On some splits, compute them for the tags that the classifier predicts as well.
"""

from collections.abc import Iterator
from dataclasses import replace

from pydantic import Field, model_validator

from rca.classifier.inference import predict_tags, score_images
from rca.classifier.network import load_network, prepare_inference
from rca.classifier.references import References, ReferenceSettings
from rca.classifier.views import InferenceSettings, group_by_size
from rca.core.devices import choose_device, set_determinism
from rca.core.files import keep_only
from rca.core.progress import track
from rca.core.settings import Settings, Supervision, Threads, Train
from rca.data.loading.features import FeatureCache
from rca.data.manifest import ImageRecord, read_manifest
from rca.data.partition import check_splits, read_training, select_from_shard
from rca.labels.score_maps import ScoreMaps, ShardWriter
from rca.models.storage import load_tensors
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class PredictedTagsSettings(Settings):
    """The images that are scored for predicted tags as well.

    Attributes:
        splits: The images.
        threshold: Lowest probability of a predicted tag; if no class reaches it, the most probable class is taken.
    """

    splits: tuple[str, ...] = ()
    threshold: float = Field(default=0.5, gt=0, lt=1)


class MakeCamSettings(Settings):
    """Which images are scored, and how.

    Attributes:
        splits: The images to score.
        stride: Pixels of the image per cell of a stored map.
        inference: Scales, flip, batch size and precision.
        references: The partners of an image, for a method that pairs images.
        predicted_tags: The part of `splits` that is scored for predicted tags as well.
        threads: CPU threads; results differ in the last digits between numbers of threads.
    """

    splits: tuple[str, ...] = Field(default=("train", "val"), min_length=1)
    stride: int = Field(default=4, ge=1, le=64)
    inference: InferenceSettings = InferenceSettings()
    references: ReferenceSettings = ReferenceSettings()
    predicted_tags: PredictedTagsSettings = PredictedTagsSettings()
    threads: Threads = 1

    @model_validator(mode="after")
    def _predicted_tags_are_of_scored_splits(self) -> "MakeCamSettings":
        for split in self.predicted_tags.splits:
            if split not in self.splits:
                raise ValueError(f"predicted_tags.splits names {split}: add it to splits as well")
        return self


class MakeCamTask(MakeCamSettings):
    """All settings of the stage.

    Attributes:
        trained_on: The split that the run's network was trained on.
        frozen: Whether the backbone is frozen, so that its features are cached.
        keeps_memory: Whether the run's method keeps a memory.
        supervision: What the run's networks learn from.
        train: Whether the run has a network.
    """

    trained_on: str
    frozen: bool
    keeps_memory: bool
    supervision: Supervision
    train: Train


def run(context: Context, settings: MakeCamTask) -> None:
    """Write the shard's score maps."""
    paths, shard = context.paths, context.chosen_shard
    set_determinism(settings.threads)
    layout, trained_on = context.layout, settings.trained_on
    check_splits(layout.manifest, settings.splits)
    manifest = read_manifest(layout.manifest, f"shards/{shard}")
    records = select_from_shard(manifest, settings.splits)
    # Delete the snapshot of an earlier method that kept a memory.
    keep_only(paths.model, [paths.network.name, *([paths.memory.name] if settings.keeps_memory else [])])
    memory = load_tensors(paths.memory, "snapshot_memory")[0] if settings.keeps_memory else {}
    network = load_network(paths.network, memory).to(choose_device())
    prepare_inference(network)
    cache = FeatureCache(layout.training_features, layout.feature_shard(shard)[1]) if settings.frozen else None
    tables = [layout.manifest / f"{part}.csv" for part in (f"shards/{shard}", f"splits/{trained_on}", "sources")]
    checkpoint = context.checkpoint([*tables, paths.network, *([paths.memory] if settings.keeps_memory else [])])
    references = None
    if network.method.pairs_images and settings.references.number:
        pool = read_training(layout.manifest, trained_on, network.description.sources)
        references = References(network, pool, settings.references, settings.inference.precision, cache)
    writer = ShardWriter(checkpoint.with_suffix(".parts"), len(records))
    if writer.done:
        print(f"{len(writer.done)} images were scored before the stage was stopped")

    def score(batch: list[ImageRecord]) -> dict[str, ScoreMaps]:
        chosen = tuple(batch)
        scored = score_images(network, manifest, chosen, settings.inference, settings.stride, cache, references)
        return {record.id: maps for record, maps in scored}

    def score_all() -> Iterator[ImageRecord]:
        remaining = [record for record in records if record.id not in writer.done]
        # Parts hold whole batches, so the remaining images form the same batches as without a stop.
        for batch in group_by_size(remaining, settings.inference.batch_size):
            scored = score(batch)
            tags = {
                record: predict_tags(scored[record.id].logits, settings.predicted_tags.threshold)
                for record in batch
                if not set(record.splits).isdisjoint(settings.predicted_tags.splits)
            }
            again = score([replace(record, tags=other) for record, other in tags.items() if other != record.tags])
            writer.add(scored, {record.id: again.get(record.id, scored[record.id]) for record in tags})
            yield from batch

    for _ in track(score_all(), "score maps", len(records) - len(writer.done)):
        pass
    about: dict[str, object] = {"stride": settings.stride, "tags": "given"}
    if settings.predicted_tags.splits:
        about["predicted_tags"] = settings.predicted_tags.model_dump(mode="json")
    writer.finish(paths.maps_of(shard, "scores"), about)
    print(f"{len(records)} images")


STAGE = Stage(
    task=MakeCamTask,
    section=MakeCamSettings,
    run=run,
    shared={
        "trained_on": "train_cam.split",
        "frozen": "train_cam.frozen",
        "keeps_memory": "run.keeps_memory",
        "supervision": "run.supervision",
        "train": "run.train",
    },
    axes=("run", "seed", "shard"),
    needed=lambda task: task.supervision == "tags" and task.train != "average",
    cores="threads",
)
