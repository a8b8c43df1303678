"""Refine one shard's pseudo labels with a dense CRF, or by segments, in parallel processes."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from rca.core.arrays import FloatArray, Int64Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, read_json, read_mask, read_photograph, write_directory, write_mask
from rca.core.heap import keep_freed_memory
from rca.core.progress import track
from rca.core.settings import Plain, Settings, Supervision, Unpinned
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.data.segments import list_segments, read_segments
from rca.labels.background import build_background, label_choices, read_saliency_for
from rca.labels.crf import CrfSettings, score_labels
from rca.labels.crf_fast import refine_masks
from rca.labels.score_maps import ScoreMaps, Tags, enlarge, open_shard
from rca.labels.segments import (
    SegmentSettings,
    StoredSettings,
    Superpixels,
    find_superpixels,
    vote,
    weigh_labels,
    weigh_scores,
)
from rca.labels.thresholds import CHOICES, name_folder
from rca.stages.base.context import Context
from rca.stages.base.layout import MapKind
from rca.stages.base.stage import Stage

# Images per task of a worker, which opens their shard once for all of them.
CHUNK = 8


class RefineCrfSettings(Settings):
    """How masks are refined.

    Attributes:
        enabled: Whether masks are refined.
        crf: The CRF's energies.
        segments: Segments that take the label of most of their pixels, in the place of the CRF; null for the CRF.
        workers: Processes of one thread each; their number does not change the result.
    """

    enabled: bool = True
    crf: CrfSettings = CrfSettings()
    segments: SegmentSettings | None = None
    workers: Annotated[int, Unpinned()] = Field(default=1, ge=1, le=1024)


class RefineCrfTask(RefineCrfSettings):
    """All settings of the stage.

    Attributes:
        maps: The score maps that masks are made from: "walked" after a random walk.
        supervision: What the run's networks learn from.
    """

    maps: MapKind
    supervision: Supervision


class Chunk(NamedTuple):
    """A few images of a shard for one worker.

    Attributes:
        manifest: The manifest of these images alone.
        scores: The file of the shard's score maps.
        thresholds: The thresholds of the pseudo labels.
        pseudo: The folder of the shard's pseudo labels.
        directory: The folder to write to.
        settings: How masks are refined.
        segments: The files of stored segments, by the image's id.
    """

    manifest: Manifest
    scores: Path
    thresholds: Plain
    pseudo: Path
    directory: Path
    settings: RefineCrfSettings
    segments: Mapping[str, Path]


def refine_chunks(chunks: Iterable[Chunk], workers: int) -> Iterator[tuple[ImageRecord, ...]]:
    """Refine the masks of all chunks, in parallel with several workers; yield the images of each chunk."""
    if workers == 1:
        yield from map(refine_images, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        yield from pool.map(refine_images, chunks)


def refine_images(chunk: Chunk) -> tuple[ImageRecord, ...]:
    """Refine the masks of a chunk's images, one for each threshold, and return the images."""
    keep_freed_memory()
    with threadpool_limits(1), open_shard(chunk.scores) as shard:
        for record in chunk.manifest.images:
            photograph = read_photograph(chunk.manifest.photograph(record))
            given = shard.read(record.id)
            pseudo = {choice: read_mask(chunk.pseudo / choice / f"{record.id}.png") for choice in CHOICES}
            masks = refine_image(chunk, record, photograph, given, pseudo)
            write_masks(chunk.directory, record, masks, "given")
            if shard.has_predicted(record.id):
                predicted = shard.read(record.id, "predicted")
                if not np.array_equal(predicted.labels, given.labels):
                    masks = refine_image(chunk, record, photograph, predicted)
                write_masks(chunk.directory, record, masks, "predicted")
    return chunk.manifest.images


def refine_image(
    chunk: Chunk,
    record: ImageRecord,
    photograph: np.ndarray,
    maps: ScoreMaps,
    pseudo: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Refine the masks of one image.

    Args:
        chunk: The chunk that holds the image.
        record: The image.
        photograph: (H, W, 3), uint8.
        maps: Its score maps.
        pseudo: Its pseudo labels (H, W) by threshold; None makes them from the maps.

    Returns:
        The masks (H, W), uint8, by threshold; a mask that is 255 everywhere stays so.
    """
    crf, segments = chunk.settings.crf, chunk.settings.segments
    labels = np.concatenate([[0], maps.labels]).astype(np.uint8)
    scores = enlarge(maps.scores, *photograph.shape[:2])
    background = build_background(chunk.thresholds["background"])
    saliency = read_saliency_for(background, chunk.manifest, record)
    masks = dict(pseudo or label_choices(background, scores, maps.labels, chunk.thresholds, saliency))
    wanted = [choice for choice, mask in masks.items() if (mask != IGNORE).any() and len(labels) > 1]
    if not wanted:
        return masks

    def read_scores(choice: str) -> FloatArray:
        return np.concatenate([background.score(scores, chunk.thresholds[choice], saliency)[None], scores])

    if segments is not None:
        places = find_segments(chunk, record, photograph, segments)
        for choice in wanted:
            by_labels = segments.votes == "labels"
            weights = weigh_labels(masks[choice], labels) if by_labels else weigh_scores(read_scores(choice))
            masks[choice] = vote(places, masks[choice], weights, labels, segments.majority)
        return masks
    probabilities = [
        score_labels(masks[choice], labels, crf.label_confidence) if crf.unary == "labels" else read_scores(choice)
        for choice in wanted
    ]
    masks.update(zip(wanted, refine_masks(photograph, probabilities, labels, crf), strict=True))
    return masks


def find_segments(
    chunk: Chunk, record: ImageRecord, photograph: np.ndarray, settings: Superpixels | StoredSettings
) -> Int64Array:
    """The segments of an image: superpixels, or those that come with the dataset.

    Raises:
        UserError: the dataset has none for this image, or they cannot be used.
    """
    if not isinstance(settings, StoredSettings):
        return find_superpixels(photograph, settings)
    if record.id not in chunk.segments:
        raise UserError(f"The image {record.id} has no segments: add them to the folder that dataset.segments names.")
    return read_segments(chunk.segments[record.id], record)


def write_masks(directory: Path, record: ImageRecord, masks: dict[str, np.ndarray], tags: Tags) -> None:
    """Write an image's masks, each into the folder of its threshold and tags."""
    for choice, mask in masks.items():
        write_mask(directory / name_folder(choice, tags) / f"{record.id}.png", mask)


def run(context: Context, settings: RefineCrfTask) -> None:
    """Write the shard's refined masks, for given and predicted tags, in a folder for each threshold."""
    paths, shard = context.paths, context.chosen_shard
    manifest = read_manifest(context.layout.manifest, f"shards/{shard}")
    thresholds = read_json(paths.threshold)
    scores = paths.maps_of(shard, settings.maps)
    with open_shard(scores) as maps:
        records = manifest.find(maps.ids)
        kinds: list[Tags] = ["given", "predicted"] if any(map(maps.has_predicted, maps.ids)) else ["given"]
    with write_directory(paths.masks_of("refined") / str(shard)) as directory:
        for tags in kinds:
            for choice in CHOICES:
                (directory / name_folder(choice, tags)).mkdir()
        stored: Mapping[str, Path] = {}
        if isinstance(settings.segments, StoredSettings):
            stored = list_segments(context.layout.manifest, manifest.root, shard)
        inputs = (scores, thresholds, paths.masks_of("pseudo") / str(shard), directory, settings, stored)
        chunks = [
            Chunk(replace(manifest, images=records[start : start + CHUNK]), *inputs)
            for start in range(0, len(records), CHUNK)
        ]
        done = chain.from_iterable(refine_chunks(chunks, settings.workers))
        for _ in track(done, "refining", len(records)):
            pass
    print(f"{len(records)} images")


STAGE = Stage(
    task=RefineCrfTask,
    section=RefineCrfSettings,
    run=run,
    shared={"maps": "run.maps", "supervision": "run.supervision"},
    axes=("run", "seed", "shard"),
    needed=lambda task: task.enabled and task.supervision == "tags",
    cores="workers",
)
