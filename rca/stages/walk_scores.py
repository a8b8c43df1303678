"""Let one shard's score maps walk at random among the cells between which no boundary runs."""

import numpy as np

from rca.core.files import read_photograph
from rca.core.progress import track
from rca.core.settings import Settings
from rca.data.loading.images import normalise
from rca.data.manifest import read_manifest
from rca.labels.random_walk import WalkSettings, walk_maps
from rca.labels.score_maps import ShardWriter, open_shard
from rca.models.boundary_network import load_boundary_network
from rca.stages.context import Context
from rca.training.trainer import choose_device, set_determinism


class WalkScoresSettings(Settings):
    """How score maps walk.

    Attributes:
        enabled: Whether they do; where not, masks are made of the maps that make_cam made.
        walk: The walk.
    """

    enabled: bool = False
    walk: WalkSettings = WalkSettings()


def run(context: Context) -> None:
    """Write the shard's score maps after the walk."""
    settings = context.settings(WalkScoresSettings)
    paths, shard = context.paths, context.chosen_shard
    set_determinism(context.read("make_cam.threads"))
    manifest = read_manifest(context.layout.manifest, f"shards/{shard}")
    device = choose_device()
    network = load_boundary_network(paths.network, paths.affinity).to(device)
    with open_shard(paths.score_shard(shard)) as made:
        checkpoint = context.checkpoint(settings, [paths.score_shard(shard), paths.network, paths.affinity])
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
        writer.finish(paths.walked_shard(shard), {**made.about, "walk": settings.walk.model_dump()})
    print(f"{len(made.ids)} images")
