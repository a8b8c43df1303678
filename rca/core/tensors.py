"""Safetensors files, read and written one tensor at a time.

The library maps a file into memory, where everything that was read stays while the file is open, and writes a file from
tensors that are all in memory. Here memory holds one tensor at a time, however large the file.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from rca.core.errors import UserError
from rca.core.files import write_file
from rca.core.reading import check_file, parse_json

DTYPES: dict[str, np.dtype[np.generic]] = {
    "U8": np.dtype(np.uint8),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@contextmanager
def explain_failure(path: Path, stage: str) -> Iterator[None]:
    """Turn the library's errors about a file into sentences that say what to do.

    Args:
        path: The file.
        stage: The stage that writes it.

    Raises:
        UserError: the file is missing, broken or no regular file.
    """
    try:
        check_file(path)
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run {stage} first, or name a file that it wrote.") from None
    except SafetensorError as error:
        if path.suffix != ".safetensors":  # nobody is told to delete what the pipeline did not write
            raise UserError(f"{path} is no .safetensors file: name one that {stage} wrote.") from None
        raise UserError(f"{path} is broken ({error}): delete it and run {stage} again.") from None


def read_about(path: Path, stage: str) -> dict[str, object]:
    """Read a file's description, the JSON in its metadata.

    Args:
        path: The file.
        stage: The stage that writes it, for the message.

    Raises:
        UserError: the file is missing or broken, or has no description.
    """
    about: object = None
    with explain_failure(path, stage), safe_open(path, "numpy") as file:
        text = (file.metadata() or {}).get("about", "")
    with suppress(ValueError):  # told below
        about = parse_json(text)
    if not isinstance(about, dict):
        raise UserError(f"{path} is not of this project: name one that {stage} wrote.")
    return about


class Location(NamedTuple):
    """Where a tensor lies in its file.

    Attributes:
        dtype: The type of its numbers.
        shape: Its shape.
        start: The position of its first byte in the file.
    """

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile:
    """A file that is open for reading.

    Args:
        path: The file.

    Attributes:
        metadata: The file's metadata.
        entries: Where its tensors lie, by name.

    Raises:
        FileNotFoundError: there is no such file.
        SafetensorError: it is broken.
    """

    def __init__(self, path: Path) -> None:
        about = path.stat()
        self.metadata, self.entries = _read_header(path, about.st_ino, about.st_mtime_ns, about.st_size)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()

    def read(self, name: str) -> np.ndarray:
        """Read a tensor.

        Raises:
            KeyError: the file has no tensor of that name.
        """
        location = self.entries[name]
        return np.frombuffer(self.read_bytes(name), location.dtype).reshape(location.shape)

    def read_bytes(self, name: str) -> bytearray:
        """Read a tensor's bytes.

        Raises:
            KeyError: the file has no tensor of that name.
        """
        location = self.entries[name]
        content = bytearray(location.length)
        self._file.seek(location.start)
        if self._file.readinto(content) != location.length:
            raise OSError(f"{self._file.name} was cut short while it was read.")
        return content

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@lru_cache(maxsize=1)  # a worker opens one file over and over
def _read_header(path: Path, inode: int, modified: int, size: int) -> tuple[dict[str, str], dict[str, Location]]:
    """The metadata and the tensors' locations in the file that is now at a path."""
    with safe_open(path, "numpy") as checked:  # the library checks header and size
        metadata = checked.metadata() or {}
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")

        def shrink(pairs: list[tuple[str, object]]) -> object:
            """Reduce a tensor's fields to its location at once: a header may describe a hundred thousand tensors."""
            match fields := dict(pairs):
                case {"dtype": str(dtype), "shape": [*sides], "data_offsets": [int(start), _]}:
                    shape = tuple(side for side in sides if isinstance(side, int))
                    return Location(DTYPES[dtype], shapes.setdefault(shape, shape), 8 + length + start)
            return fields

        entries = json.loads(file.read(length), object_pairs_hook=shrink)
    entries.pop("__metadata__", None)
    return metadata, entries


def merge_files(
    path: Path, sources: Iterable[TensorFile], metadata: Mapping[str, str], further: Mapping[str, np.ndarray]
) -> None:
    """Merge the tensors of several files into one, whole or not at all, in the library's own layout.

    Args:
        path: The file to write.
        sources: The files, without shared names but those in `further`.
        metadata: The metadata to write.
        further: More tensors to write, in place of those of the same names.
    """
    tensors: list[tuple[str, np.dtype[np.generic], tuple[int, ...], TensorFile | None]] = [
        *((name, tensor.dtype, tensor.shape, None) for name, tensor in further.items()),
        *(
            (name, location.dtype, location.shape, source)
            for source in sources
            for name, location in source.entries.items()
            if name not in further
        ),
    ]
    tensors.sort(key=lambda tensor: (-tensor[1].itemsize, tensor[0]))  # the widest first, so that all are aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape, _ in tensors:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with write_file(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, _, _, source in tensors:
            file.write(further[name].tobytes() if source is None else source.read_bytes(name))
