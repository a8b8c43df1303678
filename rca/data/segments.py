"""Segments that come with a dataset, such as those of SAM: a file of numbers for each photograph.

`<id>.png` of 8 or 16 bits, or `<id>.npz` with one array (H, W) of whole numbers. A number is a segment, 0 is none.
`segments/<k>.json` beside the manifest holds the files of a shard and their checksums.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from rca.core.arrays import Int64Array
from rca.core.errors import UserError
from rca.core.files import hash_file, read_json, write_json
from rca.core.images import open_picture
from rca.data.formats.files import check_folder, find_file
from rca.data.manifest import ImageRecord, Manifest, locate
from rca.data.partition import group_by_shard

SUFFIXES = (".png", ".npz")


def write_segments(directory: Path, manifest: Manifest, folder: str | None, shards: Sequence[int]) -> None:
    """Write the list of each shard's segments; an image without segments is left out.

    Args:
        directory: The manifest's directory.
        manifest: All images.
        folder: The folder of the segments, relative to the dataset's root; None if there is none.
        shards: The shards' numbers, from 0.

    Raises:
        UserError: the folder does not exist.
    """
    if folder is not None:
        check_folder(manifest.root, folder, "dataset.segments")
    of_splits = (record for record in manifest.images if record.splits)
    for shard, members in group_by_shard(of_splits, len(shards)).items():
        found = {record.id: find_segments(manifest.root, folder, record) for record in members}
        listed = {name: [file, hash_file(locate(manifest.root, file))] for name, file in found.items() if file}
        write_json(directory / f"segments/{shard}.json", listed)


def find_segments(root: Path, folder: str | None, record: ImageRecord) -> str | None:
    """The file of an image's segments, relative to the dataset's root; None if there is none."""
    return None if folder is None else find_file(root, (folder,), record.id, SUFFIXES)


def list_segments(directory: Path, root: Path, shard: int) -> dict[str, Path]:
    """The file of the segments of each image of a shard that has any."""
    listed = read_json(directory / f"segments/{shard}.json")
    return {name: locate(root, file) for name, (file, _) in listed.items()}


def check_segments(root: Path, folder: str | None, records: Iterable[ImageRecord], what: str) -> None:
    """Check that images have segments of their size.

    Args:
        root: The dataset's root.
        folder: The folder of the segments, relative to the root.
        records: The images.
        what: What uses the segments, for the message.

    Raises:
        UserError: segments are missing or cannot be used.
    """
    for record in records:
        file = find_segments(root, folder, record)
        if file is None:
            raise UserError(
                f"{what} uses stored segments, but {record.id} has none: name their folder in dataset.segments."
            )
        read_segments(locate(root, file), record)


def read_segments(path: Path, record: ImageRecord) -> Int64Array:
    """Read the segments of an image.

    Returns:
        (H, W), the number of each pixel's segment, counted up from 1; 0 for none.

    Raises:
        UserError: the file is broken, holds no whole numbers, or is of another size than the photograph.
    """
    numbers = _read_array(path) if path.suffix.lower() == ".npz" else _read_picture(path)
    if numbers.ndim != 2 or numbers.dtype.kind not in "ui":
        raise UserError(f"The segments {path} are no whole number for each pixel: save them as one array (H, W).")
    if numbers.shape != (record.height, record.width):
        height, width = numbers.shape
        raise UserError(
            f"The segments {path} are {width}x{height}, their photograph {record.width}x{record.height}: make the two"
            " the same size."
        )
    known, counted = np.unique(numbers, return_inverse=True)
    # 0 stays 0, whatever numbers are below it.
    ranks = np.where(known == 0, 0, np.cumsum(known != 0))
    segments: Int64Array = ranks[counted.reshape(numbers.shape)].astype(np.int64)
    return segments


def _read_picture(path: Path) -> np.ndarray:
    with open_picture(path, "segments") as picture:
        return np.asarray(picture)


def _read_array(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            return np.asarray(arrays[names[0]]) if len(names) == 1 else np.empty(0)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"The segments {path} cannot be read ({error}): make them again.") from None
