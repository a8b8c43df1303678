"""Turn one shard's score maps into pseudo labels, at the best and at the fixed threshold."""

from rca.core.files import read_json, write_directory, write_mask
from rca.core.progress import track
from rca.core.settings import Settings, Supervision
from rca.data.manifest import read_manifest
from rca.labels.background import build_background, label_choices, read_saliency_for
from rca.labels.score_maps import enlarge, open_shard
from rca.labels.thresholds import CHOICES
from rca.stages.base.context import Context
from rca.stages.base.layout import MapKind
from rca.stages.base.stage import Stage


class MakePseudoTask(Settings):
    """All settings of the stage.

    Attributes:
        maps: The score maps that masks are made from: "walked" after a random walk.
        supervision: What the run's networks learn from.
    """

    maps: MapKind
    supervision: Supervision


def run(context: Context, task: MakePseudoTask) -> None:
    """Write the shard's masks, in a folder for each threshold."""
    paths, shard = context.paths, context.chosen_shard
    manifest = read_manifest(context.layout.manifest, f"shards/{shard}")
    thresholds = read_json(paths.threshold)
    background = build_background(thresholds["background"])
    score_file, masks = paths.maps_of(shard, task.maps), paths.masks_of("pseudo") / str(shard)
    with open_shard(score_file) as maps, write_directory(masks) as directory:
        for choice in CHOICES:
            (directory / choice).mkdir()
        records = manifest.find(maps.ids)
        for record in track(records, "pseudo labels", len(records)):
            image_maps = maps.read(record.id)
            scores = enlarge(image_maps.scores, record.height, record.width)
            saliency = read_saliency_for(background, manifest, record)
            for choice, mask in label_choices(background, scores, image_maps.labels, thresholds, saliency).items():
                write_mask(directory / choice / f"{record.id}.png", mask)
    print(f"{len(records)} images")


STAGE = Stage(
    task=MakePseudoTask,
    run=run,
    shared={"maps": "run.maps", "supervision": "run.supervision"},
    axes=("run", "seed", "shard"),
    needed=lambda task: task.supervision == "tags",
)
