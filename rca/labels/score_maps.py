"""Score maps on disk: a shard is one safetensors file that holds the maps of many images.

One file for many images, since ten thousand small files make every cache and every network disk slow; which is whose
`rca.data.partition` says.

A shard holds the maps that an image has with the tags that it was given. Where asked for, it also says which tags the
classifier predicts, and holds the maps with those where they are others: maps of one class differ where a method or a
host weighs it against the classes that may be there.

Its tensors: `maps/<image id>` (K, h, w), and `predicted_maps/<image id>` for some; `logits` (N, C), `tags` (N, C) and
`predicted_tags` (N, C), of 0 and 1, a line for each image in the order of the ids. A line of zeros in `predicted_tags`
is of an image for which they were not wanted. (A header that names a tensor for each of these would take more memory
than all else.)
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from rca.core.errors import UserError
from rca.core.files import write_file
from rca.core.tensors import TensorFile, explain_failure, merge_files

Tags = Literal["given", "predicted"]
# Images of a part, at least, and parts of a shard, at most, since a process may open but so many files.
PART_SIZE, PARTS = 64, 256
TABLES = ("logits", "tags", "predicted_tags")


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


def write_shard(
    path: Path,
    maps: Mapping[str, ScoreMaps],
    about: Mapping[str, Any],
    predicted: Mapping[str, ScoreMaps] = MappingProxyType({}),
) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: The file.
        maps: Those with the tags that images were given, by image id.
        about: What the maps were made with (stride, scales, ...), kept as metadata.
        predicted: Those with the tags that the classifier predicts, of the images for which they are wanted.
    """
    tensors = {f"maps/{image_id}": one.scores for image_id, one in maps.items()}
    for image_id, one in predicted.items():
        if not np.array_equal(one.labels, maps[image_id].labels):
            tensors[f"predicted_maps/{image_id}"] = one.scores
    ids = sorted(maps)
    classes = len(maps[ids[0]].logits) if ids else 0
    tensors["logits"] = np.array([maps[one].logits for one in ids], np.float32).reshape(len(ids), classes)
    for name, of_name in (("tags", maps), ("predicted_tags", predicted)):
        tensors[name] = np.zeros((len(ids), classes), np.uint8)
        for line, image_id in enumerate(ids):
            if image_id in of_name:
                tensors[name][line, of_name[image_id].labels - 1] = 1
    with write_file(path) as temporary:
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(contiguous, temporary, _describe(about))


def _describe(about: Mapping[str, Any]) -> dict[str, str]:
    return {"about": json.dumps(about, sort_keys=True)}


class ShardWriter:
    """Writes a shard part by part, so that memory holds few images' maps and a stopped stage goes on where it was.

    Args:
        parts: The folder of the parts, of a fingerprint of all that the maps depend on.
        images: How many the shard will hold.

    Attributes:
        done: The ids of the images whose maps are on disk.
    """

    def __init__(self, parts: Path, images: int) -> None:
        self.parts, self.part_size = parts, max(PART_SIZE, -(-images // PARTS))
        self.files = sorted(parts.glob("*.safetensors"))
        self.done: set[str] = set()
        for file in self.files:
            with open_shard(file) as part:
                self.done.update(part.ids)
        self._maps: dict[str, ScoreMaps] = {}
        self._predicted: dict[str, ScoreMaps] = {}

    def add(self, maps: Mapping[str, ScoreMaps], predicted: Mapping[str, ScoreMaps]) -> None:
        """Take the maps of images that were scored as one batch: a part holds whole batches.

        Args:
            maps: As for `write_shard`.
            predicted: Likewise.
        """
        self._maps.update(maps)
        self._predicted.update(predicted)
        if len(self._maps) >= self.part_size:
            self._flush()

    def _flush(self) -> None:
        file = self.parts / f"{len(self.files):06}.safetensors"
        write_shard(file, self._maps, {}, self._predicted)
        self.files.append(file)
        self.done.update(self._maps)
        self._maps, self._predicted = {}, {}

    def finish(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write the shard, whole or not at all, and remove the parts.

        Args:
            path: The file.
            about: What the maps were made with, kept as metadata.
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
        path: The file.
        file: The same, open.
        about: What the maps were made with.
        ids: Of its images, ascending.
        tables: `logits`, `tags` and `predicted_tags`, a line for each image.
    """

    def __init__(self, path: Path, file: TensorFile) -> None:
        self.path, self.file = path, file
        self.about: dict[str, Any] = json.loads(file.metadata["about"])
        self.ids = sorted(name.removeprefix("maps/") for name in file.entries if name.startswith("maps/"))
        self.tables = {name: file.read(name) for name in TABLES if name in file.entries}
        self._lines = {image_id: line for line, image_id in enumerate(self.ids)}

    def has(self, image_id: str) -> bool:
        """Whether the shard holds an image."""
        return image_id in self._lines

    def has_predicted(self, image_id: str) -> bool:
        """Whether the shard holds an image's maps with predicted tags."""
        return self.has(image_id) and bool(self._read_line("predicted_tags", image_id).any())

    def read(self, image_id: str, tags: Tags = "given") -> ScoreMaps:
        """The maps of one image.

        Args:
            image_id: The image.
            tags: Whether those with the tags that it was given, or with those that the classifier predicts.

        Raises:
            UserError: the shard does not hold them.
        """
        logits, shown = self.read_logits(image_id), self._read_line("tags", image_id)
        name = f"maps/{image_id}"
        if tags == "predicted":
            if not self.has_predicted(image_id):
                raise UserError(
                    f"{self.path} holds no maps with predicted tags of {image_id}: add its split to "
                    "make_cam.predicted_tags.splits and run make_cam again."
                )
            predicted = self._read_line("predicted_tags", image_id)
            name = name if np.array_equal(predicted, shown) else f"predicted_{name}"
            shown = predicted
        labels = (np.flatnonzero(shown) + 1).astype(np.uint8)
        return ScoreMaps(labels, self.file.read(name), logits)

    def read_logits(self, image_id: str) -> np.ndarray:
        """The classifier's scores of one image (C,), without its maps.

        Raises:
            UserError: the shard does not hold them.
        """
        return self._read_line("logits", image_id)

    def _read_line(self, table: str, image_id: str) -> np.ndarray:
        if image_id not in self._lines:
            raise UserError(f"{self.path} holds no maps of the image {image_id}: run make_cam again.")
        return self.tables[table][self._lines[image_id]]


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
    """The SHA-256 of what a shard holds of one image, in hexadecimal."""
    digest = hashlib.sha256()
    for array in maps:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


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
