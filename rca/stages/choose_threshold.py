"""Choose the thresholds for pseudo labels: the fixed one, and the one with the highest mIoU on the split's true masks.

If no image of the split has a true mask, the fixed threshold also serves as the best one. The curve of mIoU over
thresholds also says how reliable the scores are: the pixels between a threshold and the next, and how many are right.
"""

import numpy as np
import pandas as pd
from pydantic import Field

from rca.core.files import keep_only, read_mask, write_json, write_text
from rca.core.settings import Settings, Supervision
from rca.data.manifest import read_manifest
from rca.data.partition import group_by_shard
from rca.evaluation.metrics import ThresholdSweep
from rca.labels.background import Background, PowerBackground
from rca.labels.score_maps import enlarge, open_shard
from rca.stages.base.context import Context
from rca.stages.base.layout import MapKind
from rca.stages.base.stage import Stage


class ChooseThresholdSettings(Settings):
    """How thresholds are chosen.

    Attributes:
        split: The split on whose true masks the best threshold is chosen.
        candidates: Number of thresholds to try, spaced evenly between 0 and 1, both exclusive.
        background: How pseudo labels find the background, with the fixed threshold.
    """

    split: str = "train"
    candidates: int = Field(default=49, ge=1, le=10_000)
    background: Background = PowerBackground(kind="power", alpha=8)


class ChooseThresholdTask(ChooseThresholdSettings):
    """All settings of the stage.

    Attributes:
        maps: The score maps that masks are made from: "walked" after a random walk.
        supervision: What the run's networks learn from.
        shards: The parts that the images are split into, counted from 0.
    """

    maps: MapKind
    supervision: Supervision
    shards: tuple[int, ...]


def run(context: Context, settings: ChooseThresholdTask) -> None:
    """Write both thresholds, and the curve of mIoU over thresholds."""
    paths, shards = context.paths, settings.shards
    keep_only(paths.maps, map(str, shards))
    for shard in shards:  # remove walked maps of earlier settings: make_pseudo depends on the folder too
        keep_only(paths.maps / str(shard), [paths.maps_of(shard, kind).name for kind in ("scores", settings.maps)])
    manifest = read_manifest(context.layout.manifest, f"truth/{settings.split}")
    thresholds = np.linspace(0, 1, settings.candidates + 2)[1:-1]
    sweep = ThresholdSweep(len(manifest.classes), thresholds)
    records = [record for record in manifest.select(settings.split) if record.mask is not None]
    for shard, members in group_by_shard(records, len(shards)).items():
        with open_shard(paths.maps_of(shard, settings.maps)) as maps:
            for record in members:
                image_maps = maps.read(record.id)
                truth = read_mask(manifest.truth(record))
                sweep.add(truth, enlarge(image_maps.scores, *truth.shape), image_maps.labels)
    table = pd.DataFrame([sweep.confusion(index).summarise() for index in range(len(thresholds))])
    table.insert(0, "threshold", thresholds.round(6))
    table[["pixels", "right"]] = [sweep.reliability(index) for index in range(len(thresholds))]
    best = fixed = settings.background.find_threshold()
    if records:
        index = int(table["miou"].argmax())
        best = float(thresholds[index])
        print(f"best {best:.3f} (mIoU {table['miou'][index]:.4f} on {settings.split}), fixed {fixed:.3f}")
    else:
        table = table[:0]
        print(f"no image of {settings.split} has a true mask: the fixed threshold, {fixed:.3f}, is also the best")
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


STAGE = Stage(
    task=ChooseThresholdTask,
    section=ChooseThresholdSettings,
    run=run,
    shared={"maps": "run.maps", "supervision": "run.supervision", "shards": "shards"},
    axes=("run", "seed"),
    needed=lambda task: task.supervision == "tags",
)
