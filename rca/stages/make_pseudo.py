"""Turn one shard's score maps into pseudo labels, at the best and at the fixed threshold."""

from rca.core.files import read_json, write_directory, write_mask
from rca.core.progress import track
from rca.data.manifest import read_manifest
from rca.labels.background import build_background, label_choices, read_saliency_for
from rca.labels.score_maps import enlarge, open_scores
from rca.labels.thresholds import CHOICES
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write the shard's masks, in a folder for each threshold."""
    paths, shard = context.paths, context.chosen_shard
    manifest = read_manifest(context.layout.manifest, f"shards/{shard}")
    thresholds = read_json(paths.threshold)
    background = build_background(thresholds["background"])
    with open_scores(*paths.final_scores(shard)) as maps, write_directory(paths.pseudo / str(shard)) as directory:
        for choice in CHOICES:
            (directory / choice).mkdir()
        records = manifest.find(maps.ids)
        for record in track(records, "pseudo labels", len(records)):
            one = maps.read(record.id)
            scores = enlarge(one.scores, record.height, record.width)
            saliency = read_saliency_for(background, manifest, record)
            for choice, mask in label_choices(background, scores, one.labels, thresholds, saliency).items():
                write_mask(directory / choice / f"{record.id}.png", mask)
    print(f"{len(records)} images")
