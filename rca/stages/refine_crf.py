"""Refine one shard's pseudo labels with a dense CRF, in parallel processes."""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from rca.core.files import IGNORE, read_json, read_mask, read_photograph, write_directory, write_mask
from rca.core.progress import track
from rca.core.settings import Settings
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.labels.background import build_background, label_choices, read_saliency_for
from rca.labels.crf import CrfSettings, keep_freed_memory, refine_masks, score_labels
from rca.labels.score_maps import ScoreMaps, Tags, enlarge, open_scores
from rca.labels.thresholds import CHOICES, name_folder
from rca.stages.context import Context

# Images that a worker takes at once: it opens their shard once for all of them.
CHUNK = 8


class RefineCrfSettings(Settings):
    """How masks are refined.

    Attributes:
        enabled: Whether they are refined at all; where not, `refined` stays empty.
        crf: The CRF's energies.
        workers: Processes, of one thread each; the result does not depend on it.
    """

    enabled: bool = True
    crf: CrfSettings = CrfSettings()
    workers: int = Field(default=1, ge=1)


class Task(NamedTuple):
    """A few images of a shard, for one worker.

    Attributes:
        manifest: The dataset, of these images alone.
        scores: The shard's score maps, as for `open_scores`.
        thresholds: What the pseudo labels were made with.
        pseudo: The folder of the shard's pseudo labels.
        directory: The folder to write to.
        crf: The CRF's energies.
    """

    manifest: Manifest
    scores: tuple[Path, Path]
    thresholds: dict[str, Any]
    pseudo: Path
    directory: Path
    crf: CrfSettings


def refine_images(task: Task) -> tuple[ImageRecord, ...]:
    """Refine the masks of a few images, one for each threshold, and return which images these are."""
    keep_freed_memory()
    with threadpool_limits(1), open_scores(*task.scores) as shard:
        for record in task.manifest.images:
            photograph = read_photograph(task.manifest.photograph(record))
            given = shard.read(record.id)
            pseudo = {choice: read_mask(task.pseudo / choice / f"{record.id}.png") for choice in CHOICES}
            masks = refine_image(task, record, photograph, given, pseudo)
            write_masks(task.directory, record, masks, "given")
            if shard.has_predicted(record.id):
                predicted = shard.read(record.id, "predicted")
                if not np.array_equal(predicted.labels, given.labels):
                    masks = refine_image(task, record, photograph, predicted)
                write_masks(task.directory, record, masks, "predicted")
    return task.manifest.images


def refine_image(
    task: Task,
    record: ImageRecord,
    photograph: np.ndarray,
    maps: ScoreMaps,
    pseudo: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Refine the masks of one image.

    Args:
        task: What the image belongs to.
        record: The image.
        photograph: (H, W, 3), uint8.
        maps: Its score maps.
        pseudo: Its pseudo labels (H, W) by threshold; None makes them of the maps.

    Returns:
        The masks (H, W), uint8, by threshold; one that is open everywhere stays so.
    """
    crf = task.crf
    labels = np.concatenate([[0], maps.labels]).astype(np.uint8)
    scores = enlarge(maps.scores, *photograph.shape[:2])
    background = build_background(task.thresholds["background"])
    saliency = read_saliency_for(background, task.manifest, record)
    masks = dict(pseudo or label_choices(background, scores, maps.labels, task.thresholds, saliency))
    wanted = [choice for choice, mask in masks.items() if (mask != IGNORE).any() and len(labels) > 1]
    probabilities = []
    for choice in wanted:
        if crf.unary == "labels":
            probabilities.append(score_labels(masks[choice], labels, crf.label_confidence))
        else:
            own = background.score(scores, task.thresholds[choice], saliency)
            probabilities.append(np.concatenate([own[None], scores]))
    masks.update(zip(wanted, refine_masks(photograph, probabilities, labels, crf), strict=True))
    return masks


def write_masks(directory: Path, record: ImageRecord, masks: dict[str, np.ndarray], tags: Tags) -> None:
    """Write an image's masks, each into the folder of its threshold and tags."""
    for choice, mask in masks.items():
        write_mask(directory / name_folder(choice, tags) / f"{record.id}.png", mask)


def run(context: Context) -> None:
    """Write the shard's refined masks, in a folder for each threshold; where there are, those of predicted tags too."""
    settings = context.settings(RefineCrfSettings)
    paths, shard = context.paths, context.chosen_shard
    manifest = read_manifest(context.layout.manifest, f"shards/{shard}")
    thresholds = read_json(paths.threshold)
    scores = paths.final_scores(shard)
    with open_scores(*scores) as maps:
        records = manifest.find(maps.ids)
        kinds: list[Tags] = ["given", "predicted"] if any(map(maps.has_predicted, maps.ids)) else ["given"]
    with write_directory(paths.refined / str(shard)) as directory:
        for tags in kinds:
            for choice in CHOICES:
                (directory / name_folder(choice, tags)).mkdir()
        inputs = (scores, thresholds, paths.pseudo / str(shard), directory, settings.crf)
        tasks = [
            Task(replace(manifest, images=records[start : start + CHUNK]), *inputs)
            for start in range(0, len(records), CHUNK)
        ]
        with ExitStack() as stack:
            apply: Callable = map
            if settings.workers > 1:
                pool = ProcessPoolExecutor(settings.workers, mp_context=get_context("forkserver"))
                apply = stack.enter_context(pool).map
            done = chain.from_iterable(apply(refine_images, tasks))
            for _ in track(done, "refining", len(records)):
                pass
    print(f"{len(records)} images")
