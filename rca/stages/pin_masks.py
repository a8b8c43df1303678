"""Pin the masks that a run's segmentation network is trained on.

DVC cannot depend on some files of a directory: without this, masks of images that are not trained on would train anew.
"""

from rca.artifacts import hash_file, keep_only, write_json
from rca.data.manifest import read_manifest
from rca.labels.training_masks import TrainingMaskSettings
from rca.settings import build_settings
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write the checksum of each mask by the image's id."""
    section = context.merge_section("train_seg")
    of_masks = {key: value for key, value in section.items() if key in TrainingMaskSettings.model_fields}
    settings = build_settings(TrainingMaskSettings, of_masks, "train_seg", context.params_file)
    paths, shards = context.paths, context.read("shards")
    for folder in (paths.refined, paths.pseudo):
        keep_only(folder, [str(shard) for shard in shards])
    records = read_manifest(context.layout.manifest, f"splits/{settings.split}").select(settings.split)
    folder = paths.masks(settings.masks)
    write_json(paths.pinned_masks, {one.id: hash_file(settings.find(folder, one.id, len(shards))) for one in records})
    print(f"{len(records)} {settings.masks} masks, {settings.threshold} threshold")
