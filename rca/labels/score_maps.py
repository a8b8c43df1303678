"""Score maps on disk: a shard is one safetensors file that holds the maps of many images.

One file for many images, since ten thousand small files make every cache and every network disk slow; which is whose
`rca.data.partition` says.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rca.artifacts import write_file
from rca.errors import UserError


class ScoreMaps(NamedTuple):
    """What a network says of one image.

    Attributes:
        labels: (K,), uint8, ascending: the labels 1..C that were scored (the image's tags).
        scores: (K, h, w), float16, 0..1: each label's map, normalised as the host asks for, at the shard's stride.
        logits: (C,), float32: the classifier's score of every class.
    """

    labels: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


def write_shard(path: Path, maps: dict[str, ScoreMaps], about: dict[str, Any]) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: The file.
        maps: By image id.
        about: What the maps were made with (stride, scales, ...), kept as metadata.
    """
    tensors = {}
    for image_id, one in maps.items():
        for part, array in one._asdict().items():
            tensors[f"{image_id}/{part}"] = np.ascontiguousarray(array)
    with write_file(path) as temporary:
        save_file(tensors, temporary, {"about": json.dumps(about, sort_keys=True)})


class Shard:
    """A shard that is open for reading."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self.about: dict[str, Any] = json.loads(file.metadata()["about"])
        self.ids = sorted({key.rpartition("/")[0] for key in file.keys()})  # noqa: SIM118 - no mapping

    def read(self, image_id: str) -> ScoreMaps:
        """The maps of one image.

        Raises:
            UserError: the shard does not hold it.
        """
        try:
            return ScoreMaps(*(self._file.get_tensor(f"{image_id}/{part}") for part in ScoreMaps._fields))
        except SafetensorError:
            raise UserError(f"{self.path} holds no maps of the image {image_id}: run make_cam again.") from None


@contextmanager
def open_shard(path: Path, stage: str = "make_cam") -> Iterator[Shard]:
    """Open a shard.

    Args:
        path: The file.
        stage: The stage that writes it, for the message.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        with safe_open(path, "numpy") as file:
            yield Shard(path, file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run {stage} first.") from None
    except SafetensorError as error:
        raise UserError(f"{path} is broken ({error}): delete it and run {stage} again.") from None


@contextmanager
def open_scores(walked: Path, made: Path) -> Iterator[Shard]:
    """Open the score maps that masks are made of: those after a random walk, or, where that is off, as they were made.

    Args:
        walked: The shard after the walk, which says whether that is off.
        made: The shard as the network made it.

    Raises:
        UserError: a file is missing or broken.
    """
    with open_shard(walked, "walk_scores") as shard:
        on = shard.about.get("enabled", True)
        if on:
            yield shard
    if not on:
        with open_shard(made) as shard:
            yield shard


def enlarge(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge maps to an image's size, bilinearly.

    Args:
        scores: (K, h, w).
        height: Of the image.
        width: Of the image.

    Returns:
        (K, height, width), float32.
    """
    enlarged = np.empty((len(scores), height, width), np.float32)
    for index, one in enumerate(scores):
        picture = Image.fromarray(one.astype(np.float32))
        enlarged[index] = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return enlarged
