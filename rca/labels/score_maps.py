"""Score maps on disk: a shard is one safetensors file with the maps of many images.

One file holds many images, since ten thousand small files slow down every cache and every network disk;
`rca.data.partition` assigns images to shards.

A shard holds the maps of an image for its given tags. On request it also holds the tags that the classifier predicts,
and the maps for them if they differ from the given tags: the map of a class can depend on the other possible classes,
if a method or a host compares them.

Its tensors: `maps/<image id>` (K, h, w), and `predicted_maps/<image id>` for some images; `logits` (N, C), `tags`
(N, C) and `predicted_tags` (N, C) of 0 and 1, one row per image in the order of the ids. A row of zeros in
`predicted_tags` means that predicted tags were not requested. (One tensor per image for these would make the header the
largest user of memory.)
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from rca.core.arrays import Float32Array, FloatArray, UInt8Array
from rca.core.errors import UserError
from rca.core.files import hash_file, write_file
from rca.core.settings import Plain
from rca.core.tensors import TensorFile, explain_failure, merge_files

Tags = Literal["given", "predicted"]
PART_SIZE, PARTS = 64, 256
"""Minimum images per part, and maximum parts per shard, since a process can open a limited number of files."""
DIGITS = 16  # of a part's checksum
Float16Array = NDArray[np.float16]
GenericArray = NDArray[np.generic]
TABLES = ("logits", "tags", "predicted_tags")


class ScoreMaps(NamedTuple):
    """The score maps and the logits of one image.

    Attributes:
        labels: (K,), ascending: the labels 1..C of the maps (the image's tags).
        scores: (K, h, w), 0..1: the map of each label, normalised as the host defines, at the shard's stride.
        logits: (C,): the classifier's score of every class.
    """

    labels: UInt8Array
    scores: Float16Array
    logits: Float32Array


def write_shard(
    path: Path,
    maps: Mapping[str, ScoreMaps],
    about: Mapping[str, object],
    predicted: Mapping[str, ScoreMaps] = MappingProxyType({}),
) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: The file.
        maps: The maps for the given tags, by image id.
        about: How the maps were made (stride, scales, ...), stored as metadata.
        predicted: The maps for the predicted tags, by image id, of the images for which they are requested.
    """
    tensors: dict[str, NDArray[np.generic]] = {
        f"maps/{image_id}": of_image.scores for image_id, of_image in maps.items()
    }
    for image_id, of_image in predicted.items():
        if not np.array_equal(of_image.labels, maps[image_id].labels):
            tensors[f"predicted_maps/{image_id}"] = of_image.scores
    ids = sorted(maps)
    classes = len(maps[ids[0]].logits) if ids else 0
    tensors["logits"] = np.array([maps[image_id].logits for image_id in ids], np.float32).reshape(len(ids), classes)
    for name, of_name in (("tags", maps), ("predicted_tags", predicted)):
        table = np.zeros((len(ids), classes), np.uint8)
        for row, image_id in enumerate(ids):
            if image_id in of_name:
                table[row, of_name[image_id].labels - 1] = 1
        tensors[name] = table
    with write_file(path) as temporary:
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(contiguous, temporary, _describe(about))


def _describe(about: Mapping[str, object]) -> dict[str, str]:
    return {"about": json.dumps(about, sort_keys=True)}


class ShardWriter:
    """Writes a shard in parts, so that memory holds the maps of few images and a stopped stage can continue.

    Args:
        parts: The folder of the parts; its name must change with everything that the maps depend on.
        images: Number of images of the shard.

    Attributes:
        done: The ids of the images whose maps are on disk.

    Raises:
        UserError: a part is broken.
    """

    def __init__(self, parts: Path, images: int) -> None:
        self.parts, self.part_size = parts, max(PART_SIZE, -(-images // PARTS))
        self.files = sorted(parts.glob("*-*.safetensors"))
        self.done: set[str] = set()
        for file in self.files:
            if file.stem.rpartition("-")[2] != hash_file(file)[:DIGITS]:
                raise UserError(f"The score maps {file} of a stopped stage are broken: delete this file.")
            with open_shard(file) as part:
                self.done.update(part.ids)
        self._maps: dict[str, ScoreMaps] = {}
        self._predicted: dict[str, ScoreMaps] = {}

    def add(self, maps: Mapping[str, ScoreMaps], predicted: Mapping[str, ScoreMaps]) -> None:
        """Add the maps of images that were scored as one batch: a part holds whole batches.

        Args:
            maps: As for `write_shard`.
            predicted: As for `write_shard`.
        """
        self._maps.update(maps)
        self._predicted.update(predicted)
        if len(self._maps) >= self.part_size:
            self._flush()

    def _flush(self) -> None:
        draft = self.parts / "draft.safetensors"
        write_shard(draft, self._maps, {}, self._predicted)
        # Its name holds its checksum: the format has none, and no engine looks after this file.
        file = self.parts / f"{len(self.files):06}-{hash_file(draft)[:DIGITS]}.safetensors"
        draft.replace(file)
        self.files.append(file)
        self.done.update(self._maps)
        self._maps, self._predicted = {}, {}

    def finish(self, path: Path, about: Mapping[str, object]) -> None:
        """Write the shard, whole or not at all, and remove the parts.

        Args:
            path: The file.
            about: How the maps were made, stored as metadata.
        """
        if self._maps:
            self._flush()
        with ExitStack() as stack:
            parts = [stack.enter_context(open_shard(file)) for file in self.files]
            order = np.argsort([image_id for part in parts for image_id in part.ids])
            tables = {name: np.concatenate([part.tables[name] for part in parts])[order] for name in TABLES if parts}
            merge_files(path, [part.file for part in parts], _describe(about), tables)
        shutil.rmtree(self.parts, ignore_errors=True)


class Shard:
    """A shard that is open for reading.

    Attributes:
        path: The path of the file.
        file: The open file.
        about: How the maps were made.
        ids: The ids of its images, ascending.
        tables: `logits`, `tags` and `predicted_tags`, one row per image.
    """

    def __init__(self, path: Path, file: TensorFile) -> None:
        self.path, self.file = path, file
        self.about: Plain = json.loads(file.metadata["about"])
        self.ids = sorted(name.removeprefix("maps/") for name in file.entries if name.startswith("maps/"))
        self.tables: dict[str, GenericArray] = {name: file.read(name) for name in TABLES if name in file.entries}
        self._rows = {image_id: row for row, image_id in enumerate(self.ids)}

    def has(self, image_id: str) -> bool:
        """Whether the shard holds an image."""
        return image_id in self._rows

    def has_predicted(self, image_id: str) -> bool:
        """Whether the shard holds an image's predicted tags."""
        return self.has(image_id) and bool(self._read_row("predicted_tags", image_id).any())

    def read(self, image_id: str, tags: Tags = "given") -> ScoreMaps:
        """The maps of one image.

        Args:
            image_id: The image.
            tags: The maps for the given tags, or those for the predicted tags.

        Raises:
            UserError: the shard does not hold them.
        """
        logits, tag_row = self.read_logits(image_id), self._read_row("tags", image_id)
        name = f"maps/{image_id}"
        if tags == "predicted":
            if not self.has_predicted(image_id):
                raise UserError(
                    f"{self.path} holds no maps for predicted tags of {image_id}: add its split to "
                    "make_cam.predicted_tags.splits and run make_cam again."
                )
            predicted = self._read_row("predicted_tags", image_id)
            name = name if np.array_equal(predicted, tag_row) else f"predicted_{name}"
            tag_row = predicted
        labels = (np.flatnonzero(tag_row) + 1).astype(np.uint8)
        return ScoreMaps(labels, self.file.read(name).astype(np.float16, copy=False), logits)

    def read_logits(self, image_id: str) -> Float32Array:
        """The logits of one image (C,), without its maps.

        Raises:
            UserError: the shard does not hold them.
        """
        return self._read_row("logits", image_id).astype(np.float32, copy=False)

    def _read_row(self, table: str, image_id: str) -> GenericArray:
        if image_id not in self._rows:
            raise UserError(f"{self.path} holds no maps of the image {image_id}: run make_cam again.")
        row: GenericArray = self.tables[table][self._rows[image_id]]
        return row


@contextmanager
def open_shard(path: Path) -> Iterator[Shard]:
    """Open a shard.

    Args:
        path: The file; its name says whether its maps have walked.

    Raises:
        UserError: the file is missing or broken.
    """
    stage = "walk_scores" if path.stem == "walked" else "make_cam"
    with explain_failure(path, stage):
        file = TensorFile(path)
    with closing(file):
        if "about" not in file.metadata:
            raise UserError(f"{path} is no file of score maps: name one that {stage} wrote.")
        yield Shard(path, file)


def hash_maps(maps: ScoreMaps) -> str:
    """The SHA-256 of the maps of one image, in hexadecimal."""
    digest = hashlib.sha256()
    for array in maps:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def enlarge(scores: FloatArray | Float16Array, height: int, width: int) -> Float32Array:
    """Enlarge maps to an image's size, bilinearly.

    Args:
        scores: (K, h, w).
        height: Height of the image.
        width: Width of the image.

    Returns:
        (K, height, width).
    """
    enlarged = np.empty((len(scores), height, width), np.float32)
    for index, label_map in enumerate(scores):
        picture = Image.fromarray(label_map.astype(np.float32))
        enlarged[index] = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return enlarged
