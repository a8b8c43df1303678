"""Refine one shard's pseudo labels with a dense CRF, in parallel processes."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from rca.artifacts import read_json, read_mask, read_photograph, write_directory, write_mask
from rca.data.manifest import read_manifest
from rca.labels.background import score_background
from rca.labels.crf import CrfSettings, refine_mask, score_labels
from rca.labels.score_maps import ScoreMaps, enlarge, open_shard
from rca.progress import track
from rca.settings import Settings
from rca.stages.context import Context
from rca.stages.layout import CHOICES


class RefineCrfSettings(Settings):
    """How masks are refined.

    Attributes:
        enabled: Whether they are refined at all; where not, `refined` stays empty.
        crf: The CRF's energies.
        workers: Processes; the result does not depend on it.
    """

    enabled: bool = True
    crf: CrfSettings = CrfSettings()
    workers: int = Field(default=1, ge=1)


def refine_image(task: tuple[Path, Path, ScoreMaps, Path, str, dict[str, Any], CrfSettings]) -> None:
    """Refine one image's masks, one for each threshold.

    Args:
        task: The photograph, the folder of the shard's pseudo labels, the image's score maps, the folder to write to,
            the image's id, the thresholds, and the CRF's energies.
    """
    photograph_path, pseudo, maps, directory, image_id, thresholds, crf = task
    photograph = read_photograph(photograph_path)
    labels = np.concatenate([[0], maps.labels]).astype(np.uint8)
    scores = enlarge(maps.scores, *photograph.shape[:2])
    for choice in CHOICES:
        if crf.unary == "labels":
            mask = read_mask(pseudo / choice / f"{image_id}.png")
            probabilities = score_labels(mask, labels, crf.label_confidence) if len(labels) > 1 else scores
        else:
            background = score_background(scores, thresholds["background"], thresholds[choice])
            probabilities = np.concatenate([background[None], scores])
        refined = refine_mask(photograph, probabilities, labels, crf)
        write_mask(directory / choice / f"{image_id}.png", refined)


def run(context: Context) -> None:
    """Write the shard's refined masks, in a folder for each threshold."""
    settings = context.settings(RefineCrfSettings)
    paths, shard = context.paths, context.chosen_shard
    manifest = read_manifest(context.layout.manifest, f"shards/{shard}")
    thresholds = read_json(paths.threshold)
    with open_shard(paths.score_shard(shard)) as maps, write_directory(paths.refined / str(shard)) as directory:
        for choice in CHOICES:
            (directory / choice).mkdir()

        def list_tasks() -> Iterator[tuple]:
            for image_id in maps.ids:
                record = manifest.images[manifest.index[image_id]]
                pseudo = paths.pseudo / str(shard)
                one = maps.read(image_id)
                yield (manifest.photograph(record), pseudo, one, directory, image_id, thresholds, settings.crf)

        count = len(maps.ids)
        if settings.workers == 1:
            for _ in track(map(refine_image, list_tasks()), "refining", count):
                pass
        else:
            with ProcessPoolExecutor(settings.workers, mp_context=get_context("forkserver")) as pool:
                for _ in track(pool.map(refine_image, list_tasks(), chunksize=4), "refining", count):
                    pass
        print(f"{count} images")
