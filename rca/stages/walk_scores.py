"""Let one shard's score maps walk at random among the cells between which no boundary runs."""

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
    """How score maps walk.

    Attributes:
        enabled: Whether they do; where not, masks are made of the maps that make_cam made.
        walk: The walk.
    """

    enabled: bool = False
    walk: WalkSettings = WalkSettings()


class WalkScoresTask(WalkScoresSettings):
    """All that the stage needs to know.

    Attributes:
        threads: Processor cores; another number changes the last digits.
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
    with open_shard(paths.maps_of(shard, "scores")) as made:
        checkpoint = context.checkpoint([paths.maps_of(shard, "scores"), paths.network, paths.affinity])
        writer = ShardWriter(checkpoint.with_suffix(".parts"), len(made.ids))
        remaining = [record for record in manifest.find(made.ids) if record.id not in writer.done]
        for record in track(remaining, "random walks", len(remaining)):
            image_id = record.id
            photograph = read_photograph(manifest.photograph(record))
            image = normalise(photograph, network.mean, network.std)[None].to(device)
            given = made.read(image_id)
            boundary = network.find_boundaries(image, given.scores.shape[1:])[0].cpu().numpy()
            walked, predicted = walk_maps(given, boundary, settings.walk), {}
            if made.has_predicted(image_id):
                found = made.read(image_id, "predicted")
                same = np.array_equal(found.labels, given.labels)
                predicted = {image_id: walked if same else walk_maps(found, boundary, settings.walk)}
            writer.add({image_id: walked}, predicted)
        writer.finish(paths.maps_of(shard, "walked"), {**made.about, "walk": settings.walk.model_dump()})
    print(f"{len(made.ids)} images")


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
