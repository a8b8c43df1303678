"""Score the images of one shard: several scales, mirrored and not, with the images' tags given."""

from pydantic import Field

from rca.artifacts import keep_only, read_json
from rca.data.features import FeatureCache
from rca.data.manifest import read_manifest
from rca.data.partition import check_splits, select_from_shard
from rca.labels.inference import score_images
from rca.labels.score_maps import write_shard
from rca.labels.views import InferenceSettings
from rca.models.cam_network import load_method, load_network
from rca.models.storage import load_tensors
from rca.progress import track
from rca.settings import Settings
from rca.stages.context import Context
from rca.training import choose_device, set_determinism


class MakeCamSettings(Settings):
    """Which images are scored, and how.

    Attributes:
        splits: The images to score.
        stride: Pixels of the image for each value of a map that is kept.
        inference: Scales, flip, batch size and precision.
        threads: Of the CPU; another number gives other last digits.
    """

    splits: tuple[str, ...] = Field(min_length=1)
    stride: int = Field(default=4, ge=1)
    inference: InferenceSettings
    threads: int = Field(default=1, ge=1)


def run(context: Context) -> None:
    """Write the shard's score maps."""
    settings = context.settings(MakeCamSettings)
    paths, shard = context.paths, context.chosen_shard
    set_determinism(settings.threads)
    layout = context.layout
    check_splits(layout.manifest, settings.splits)
    manifest = read_manifest(layout.manifest, f"shards/{shard}")
    records = select_from_shard(manifest, settings.splits)
    keeps_memory = load_method(read_json(layout.method(paths.run))["method"]).keeps_memory
    # Where the run's method kept a memory before it was changed, the old snapshot still lies here.
    keep_only(paths.model, [paths.network.name, *([paths.memory.name] if keeps_memory else [])])
    memory = load_tensors(paths.memory, "snapshot_memory")[0] if keeps_memory else {}
    network = load_network(paths.network, memory).to(choose_device())
    cache = FeatureCache(*layout.feature_shard(shard))
    scored = score_images(network, manifest, records, settings.inference, settings.stride, cache or None)
    maps = {record.id: one for record, one in track(scored, "score maps", len(records))}
    write_shard(paths.score_shard(shard), maps, {"stride": settings.stride, "tags": "given"})
    print(f"{len(maps)} images")
