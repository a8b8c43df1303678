"""Pin the masks that a run's segmentation network is trained on.

DVC cannot depend on some files of a directory: without this, masks of images that are not trained on would train anew,
and so would an edit of a true mask that only other runs are trained on, and another number of shards.
"""

from rca.core.files import hash_file, write_json
from rca.core.settings import build_settings
from rca.data.manifest import read_manifest
from rca.labels.training_masks import TrainingMaskSettings
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write what the masks are, the checksum of each by the image's id, and where they lie if they are true ones."""
    section = context.merge_section("train_seg")
    of_masks = {key: value for key, value in section.items() if key in TrainingMaskSettings.model_fields}
    settings = build_settings(TrainingMaskSettings, of_masks, "train_seg", context.params_file)
    paths, shards = context.paths, context.read("shards")
    manifest = read_manifest(context.layout.manifest, f"truth/{settings.split}")
    records = manifest.select(settings.split)
    if context.supervision == "masks":
        masks = "true"
        found = {record.id: manifest.truth(record) for record in records}
        known = {one: path.as_posix() for one, path in found.items()}
    else:
        masks = f"{settings.masks}, {settings.threshold} threshold"
        found = {one.id: settings.find(paths.masks(settings.masks), one.id, len(shards)) for one in records}
        known = {}
    checksums = {one: hash_file(path) for one, path in found.items()}
    write_json(paths.pinned_masks, {"masks": masks, "sha256": checksums, "paths": known})
    print(f"{len(checksums)} masks: {masks}")
