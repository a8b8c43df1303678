"""Safetensors files that are read and written tensor by tensor.

The library maps a file into memory, where all that was read stays while the file is open, and writes a file from
tensors that are all in memory. Here memory holds one tensor at a time, however large the file.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

from rca.artifacts import write_file

DTYPES: dict[str, np.dtype] = {"U8": np.dtype("u1"), "F16": np.dtype("f2"), "F32": np.dtype("f4")}


class Entry(NamedTuple):
    """Where a tensor lies in its file.

    Attributes:
        dtype: As the format names it.
        shape: Of the tensor.
        start: Of its bytes in the file.
        length: Of its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


class TensorFile:
    """A file that is open for reading.

    Args:
        path: The file.

    Attributes:
        metadata: What the file says of itself.
        entries: Its tensors, by name.

    Raises:
        FileNotFoundError: there is no such file.
        SafetensorError: it is broken.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, "numpy") as checked:  # the library looks whether header and size are sound
            self.metadata: dict[str, str] = checked.metadata() or {}
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        header.pop("__metadata__", None)
        self.entries = {
            name: Entry(one["dtype"], tuple(one["shape"]), 8 + size + start, end - start)
            for name, one in header.items()
            for start, end in [one["data_offsets"]]
        }

    def read(self, name: str) -> np.ndarray:
        """A tensor.

        Raises:
            KeyError: the file has none of that name.
        """
        entry = self.entries[name]
        return np.frombuffer(self.read_bytes(name), DTYPES[entry.dtype]).reshape(entry.shape)

    def read_bytes(self, name: str) -> bytearray:
        """A tensor's bytes.

        Raises:
            KeyError: the file has none of that name.
        """
        entry = self.entries[name]
        content = bytearray(entry.length)
        self._file.seek(entry.start)
        if self._file.readinto(content) != entry.length:
            raise OSError(f"{self._file.name} was cut short while it was read.")
        return content

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def merge_files(path: Path, sources: Iterable[TensorFile], metadata: Mapping[str, str]) -> None:
    """Write the tensors of several files into one, whole or not at all, as the library would write them.

    Args:
        path: The file.
        sources: Whose tensors to write; no two share a name.
        metadata: What the file shall say of itself.
    """
    found = [(name, source, source.entries[name]) for source in sources for name in source.entries]
    found.sort(key=lambda one: (-DTYPES[one[2].dtype].itemsize, one[0]))  # the widest first, so that all are aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, _, entry in found:
        start, end = end, end + entry.length
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with write_file(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, source, _ in found:
            file.write(source.read_bytes(name))
