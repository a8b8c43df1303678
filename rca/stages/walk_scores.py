"""Let one shard's score maps walk at random among the cells between which no boundary runs."""

from rca.artifacts import read_photograph
from rca.data.loading import normalise
from rca.data.manifest import read_manifest
from rca.labels.random_walk import WalkSettings, walk_maps
from rca.labels.score_maps import open_shard, write_shard
from rca.models.boundary_network import load_boundary_network
from rca.progress import track
from rca.settings import Settings
from rca.stages.context import Context
from rca.training import choose_device, set_determinism


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
    walked = {}
    with open_shard(paths.score_shard(shard)) as made:
        for image_id in track(made.ids, "random walks", len(made.ids)):
            photograph = read_photograph(manifest.photograph(manifest.images[manifest.index[image_id]]))
            image = normalise(photograph, network.mean, network.std)[None].to(device)
            maps = made.read(image_id)
            height, width = maps.scores.shape[1:]
            boundary = network.find_boundaries(image, (height, width))[0].cpu().numpy()
            walked[image_id] = walk_maps(maps, boundary, settings.walk)
        write_shard(paths.walked_shard(shard), walked, {**made.about, "walk": settings.walk.model_dump()})
    print(f"{len(walked)} images")
