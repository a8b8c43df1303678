"""Pin the masks that a run's segmentation network is trained on.

DVC cannot depend on some files of a directory: without this, masks of images that are not trained on would train anew,
and so would an edit of a true mask that only other runs are trained on.
"""

from pathlib import Path

from rca.artifacts import hash_file, write_json
from rca.data.manifest import ImageRecord, read_manifest
from rca.labels.training_masks import TrainingMaskSettings
from rca.settings import build_settings
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write what the masks are, and the path and the checksum of each by the image's id."""
    section = context.merge_section("train_seg")
    of_masks = {key: value for key, value in section.items() if key in TrainingMaskSettings.model_fields}
    settings = build_settings(TrainingMaskSettings, of_masks, "train_seg", context.params_file)
    paths, shards = context.paths, context.read("shards")
    manifest = read_manifest(context.layout.manifest, f"truth/{settings.split}")
    on_true_masks = context.supervision == "masks"

    def find_mask(record: ImageRecord) -> Path:
        if on_true_masks:
            return manifest.truth(record)
        return settings.find(paths.masks(settings.masks), record.id, len(shards))

    masks = "true" if on_true_masks else f"{settings.masks}, {settings.threshold} threshold"
    found = {record.id: find_mask(record) for record in manifest.select(settings.split)}
    files = {one: {"path": path.as_posix(), "sha256": hash_file(path)} for one, path in found.items()}
    write_json(paths.pinned_masks, {"masks": masks, "files": files})
    print(f"{len(files)} masks: {masks}")
