"""Turn one shard's score maps into pseudo labels, at the best and at the fixed threshold."""

from rca.artifacts import read_json, write_directory, write_mask
from rca.data.manifest import read_manifest
from rca.labels.background import CHOICES, build_background, read_saliency_for
from rca.labels.score_maps import enlarge, open_scores
from rca.progress import track
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
        for image_id in track(maps.ids, "pseudo labels", len(maps.ids)):
            record = manifest.images[manifest.index[image_id]]
            one = maps.read(image_id)
            scores = enlarge(one.scores, record.height, record.width)
            saliency = read_saliency_for(background, manifest, record)
            for choice in CHOICES:
                mask = background.label(scores, one.labels, thresholds[choice], saliency)
                write_mask(directory / choice / f"{image_id}.png", mask)
    print(f"{len(maps.ids)} images")
