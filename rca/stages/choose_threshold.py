"""Choose the thresholds that masks are made with: the fixed one, and the one that is best on the split's true masks.

Where no image of the split has a true mask, the fixed one is the best that is known.
"""

import numpy as np
import pandas as pd
from pydantic import Field

from rca.core.files import read_mask, write_json, write_text
from rca.core.settings import Settings
from rca.data.manifest import read_manifest
from rca.data.partition import group_by_shard
from rca.evaluation.metrics import ThresholdSweep
from rca.labels.background import Background
from rca.labels.score_maps import enlarge, open_scores
from rca.stages.context import Context


class ChooseThresholdSettings(Settings):
    """Which thresholds are tried.

    Attributes:
        split: The split whose true masks the best threshold is chosen on.
        candidates: How many thresholds are tried, evenly between 0 and 1, both exclusive.
        background: What counts as background in pseudo labels, and what the other threshold is.
    """

    split: str
    candidates: int = Field(default=49, ge=1)
    background: Background


def run(context: Context) -> None:
    """Write both thresholds, and the curve of mIoU over thresholds."""
    settings = context.settings(ChooseThresholdSettings)
    paths, shards = context.paths, context.read("shards")
    manifest = read_manifest(context.layout.manifest, f"truth/{settings.split}")
    thresholds = np.linspace(0, 1, settings.candidates + 2)[1:-1]
    sweep = ThresholdSweep(len(manifest.classes), thresholds)
    records = [record for record in manifest.select(settings.split) if record.mask is not None]
    for shard, members in group_by_shard(records, len(shards)).items():
        with open_scores(*paths.final_scores(shard)) as maps:
            for record in members:
                one = maps.read(record.id)
                truth = read_mask(manifest.truth(record))
                sweep.add(truth, enlarge(one.scores, *truth.shape), one.labels)
    table = pd.DataFrame([sweep.confusion(index).summarise() for index in range(len(thresholds))])
    table.insert(0, "threshold", thresholds.round(6))
    best = fixed = settings.background.find_threshold()
    if records:
        place = int(table["miou"].argmax())
        best = float(thresholds[place])
        print(f"best {best:.3f} (mIoU {table['miou'][place]:.4f} on {settings.split}), fixed {fixed:.3f}")
    else:
        table = table[:0]
        print(f"no image of {settings.split} has a true mask: the fixed threshold, {fixed:.3f}, stands for the best")
    write_json(
        paths.threshold,
        {
            "best": best,
            "fixed": fixed,
            "background": settings.background.model_dump(),
            "split": settings.split if records else None,
        },
    )
    write_text(paths.threshold_curve, table.to_csv(index=False))
