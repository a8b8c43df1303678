"""Pin the score maps that a run's affinity network is trained on.

DVC cannot depend on some images of a shard: without this, new images would train the network anew.
"""

from rca.core.files import write_json
from rca.data.manifest import read_manifest
from rca.data.partition import group_by_shard
from rca.labels.score_maps import hash_maps, open_shard
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write the checksum of each image's maps by its id."""
    paths, shards = context.paths, context.read("shards")
    manifest = read_manifest(context.layout.manifest, f"splits/{context.read('train_cam.split')}")
    checksums = {}
    for shard, records in group_by_shard(manifest.images, len(shards)).items():
        with open_shard(paths.score_shard(shard)) as maps:
            checksums.update({record.id: hash_maps(maps.read(record.id)) for record in records})
    write_json(paths.pinned_scores, checksums)
    print(f"score maps of {len(checksums)} images")
