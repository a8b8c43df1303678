"""Segments that come with a dataset."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.data.manifest import ImageRecord, Manifest
from rca.data.partition import assign_shard
from rca.data.segments import check_segments, list_segments, read_segments, write_segments

RECORD = ImageRecord("a", "a.jpg", None, 7, 5, (), ("train",), "main", "")


def draw(kind: type[np.generic] = np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 200, (5, 7)).astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, "P"])
def test_a_picture_of_numbers_is_read(tmp_path: Path, kind: type[np.generic] | str) -> None:
    numbers = draw() if kind == "P" else draw(kind) * (1 if kind is np.uint8 else 300)  # type: ignore[arg-type]
    picture = Image.fromarray(numbers)
    if kind == "P":
        picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / "a.png")
    check_same_parts(read_segments(tmp_path / "a.png", RECORD), numbers)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16])
def test_an_array_of_numbers_is_read(tmp_path: Path, kind: type[np.generic]) -> None:
    numbers = draw(kind)
    numbers[2, 3] = 60_000  # not counted up
    np.savez(tmp_path / "a.npz", numbers)
    check_same_parts(read_segments(tmp_path / "a.npz", RECORD), numbers)


def check_same_parts(found: np.ndarray, numbers: np.ndarray) -> None:
    """The same pixels belong together, 0 stays 0, and the others count up."""
    assert ((found == 0) == (numbers == 0)).all()
    for one in np.unique(numbers):
        assert len(set(found[numbers == one])) == 1
    assert set(found.flat) - {0} == set(range(1, len(set(numbers.flat) - {0}) + 1))


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((7, 5), np.uint8), "a.npz are 5x7, their photograph 7x5: make the two the same size"),
        (np.zeros((5, 7), np.float32), "a.npz are no whole number for each pixel: save them as one array"),
        (np.zeros((2, 5, 7), bool), "a.npz are no whole number for each pixel: save them as one array"),
    ],
)
def test_what_are_no_segments_of_the_photograph_is_told(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(UserError, match=sentence):
        read_segments(tmp_path / "a.npz", RECORD)


def test_broken_files_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", draw(), draw())
    np.savez(tmp_path / "object.npz", np.array([{}], object))
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.png").write_text("text")
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(tmp_path / "colours.png")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=path.name):
            read_segments(path, RECORD)


def test_the_lists_hold_the_files_of_a_shard(manifest: Manifest, tmp_path: Path) -> None:
    folder = manifest.root / "SAM"
    folder.mkdir()
    for record in manifest.images[:3]:
        np.savez(folder / f"{record.id}.npz", np.zeros((record.height, record.width), np.uint8))
    write_segments(tmp_path, manifest, "SAM", [0, 1])
    seen = {}
    for shard in (0, 1):
        for name, path in list_segments(tmp_path, manifest.root, shard).items():
            assert assign_shard(name, 2) == shard
            seen[name] = path
    assert seen == {record.id: folder / f"{record.id}.npz" for record in manifest.images[:3]}
    listed = json.loads((tmp_path / "segments/0.json").read_text())
    assert all(checksum == hash_file(seen[name]) for name, (_, checksum) in listed.items())
    check_segments(manifest.root, "SAM", manifest.images[:3], "it")
    with pytest.raises(
        UserError, match=r"it uses stored segments, but d4 has none: name their folder in dataset\.segm"
    ):
        check_segments(manifest.root, "SAM", manifest.images, "it")
    with pytest.raises(UserError, match="are 52x40, their photograph 9x40"):
        check_segments(manifest.root, "SAM", [replace(manifest.images[0], width=9)], "it")


def test_without_a_folder_the_lists_are_empty_and_one_that_is_missing_is_told(
    manifest: Manifest, tmp_path: Path
) -> None:
    write_segments(tmp_path, manifest, None, [0])
    assert list_segments(tmp_path, manifest.root, 0) == {}
    with pytest.raises(UserError, match=r"SAM does not exist: put it there, or correct dataset\.segments"):
        write_segments(tmp_path, manifest, "SAM", [0])
