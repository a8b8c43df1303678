"""Spread the score maps of one shard by a random walk that boundaries stop."""

import numpy as np

from rca.core.devices import choose_device, set_determinism
from rca.core.files import read_photograph
from rca.core.progress import track
from rca.core.settings import Settings, Supervision
from rca.data.loading.images import normalise
from rca.data.manifest import read_manifest
from rca.labels.random_walk import WalkSettings, walk_maps
from rca.labels.score_maps import ShardWriter, open_shard
from rca.models.boundary_network import load_boundary_network
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class WalkScoresSettings(Settings):
    """How score maps are spread by a random walk.

    Attributes:
        enabled: Whether to walk; if not, masks are made from make_cam's maps.
        walk: The settings of the walk.
    """

    enabled: bool = False
    walk: WalkSettings = WalkSettings()


class WalkScoresTask(WalkScoresSettings):
    """All settings of the stage.

    Attributes:
        threads: CPU threads; results differ in the last digits between numbers of threads.
        supervision: What the run's networks learn from.
    """

    threads: int
    supervision: Supervision


def run(context: Context, settings: WalkScoresTask) -> None:
    """Write the shard's score maps after the walk."""
    paths, shard = context.paths, context.chosen_shard
    set_determinism(settings.threads)
    manifest = read_manifest(context.layout.manifest, f"shards/{shard}")
    device = choose_device()
    network = load_boundary_network(paths.network, paths.affinity).to(device)
    with open_shard(paths.maps_of(shard, "scores")) as maps:
        checkpoint = context.checkpoint([paths.maps_of(shard, "scores"), paths.network, paths.affinity])
        writer = ShardWriter(checkpoint.with_suffix(".parts"), len(maps.ids))
        remaining = [record for record in manifest.find(maps.ids) if record.id not in writer.done]
        for record in track(remaining, "random walks", len(remaining)):
            image_id = record.id
            photograph = read_photograph(manifest.photograph(record))
            image = normalise(photograph, network.mean, network.std)[None].to(device)
            given = maps.read(image_id)
            boundary = network.find_boundaries(image, given.scores.shape[1:])[0].cpu().numpy()
            walked, predicted = walk_maps(given, boundary, settings.walk), {}
            if maps.has_predicted(image_id):
                predicted_maps = maps.read(image_id, "predicted")
                same = np.array_equal(predicted_maps.labels, given.labels)
                predicted = {image_id: walked if same else walk_maps(predicted_maps, boundary, settings.walk)}
            writer.add({image_id: walked}, predicted)
        writer.finish(paths.maps_of(shard, "walked"), {**maps.about, "walk": settings.walk.model_dump()})
    print(f"{len(maps.ids)} images")


STAGE = Stage(
    task=WalkScoresTask,
    section=WalkScoresSettings,
    run=run,
    shared={"threads": "make_cam.threads", "supervision": "run.supervision"},
    axes=("run", "seed", "shard"),
    needed=lambda task: task.enabled and task.supervision == "tags",
    cores="threads",
    resources="make_cam",
)
