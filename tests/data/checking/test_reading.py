from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.files import hash_file
from rca.data.checking.reading import read_entry
from rca.data.listing import Entry
from rca.data.manifest import ImageRecord, Manifest, locate

CLASSES = ("cat", "dog", "cow")
ENTRY = Entry("a1", "JPEGImages/a1.jpg", splits=("train",))


@pytest.fixture
def root(make_voc: Callable[..., Path]) -> Path:
    root = make_voc()
    (root / "saliency").mkdir()
    Image.fromarray(np.arange(40 * 52, dtype=np.uint8).reshape(40, 52)).save(root / "saliency/a1.png")
    return root


def read(root: Path, entry: Entry) -> ImageRecord:
    found = read_entry(root, CLASSES, entry)
    assert found.faults == ()
    assert found.record is not None
    return found.record


def test_an_entry_becomes_a_record(root: Path) -> None:
    entry = replace(ENTRY, saliency="saliency/a1.png", tags=("cow", "cat", "cow"), source="web", weight=0.25)
    record = read(root, entry)
    assert (record.id, record.width, record.height, record.tags) == ("a1", 52, 40, (0, 2))
    assert (record.source, record.weight, record.splits) == ("web", 0.25, ("train",))
    assert (record.mask, record.mask_sha256) == (None, "")
    assert record.saliency_sha256 == hash_file(root / "saliency/a1.png")


def test_listed_tags_precede_those_of_the_mask(root: Path) -> None:
    masked = replace(ENTRY, mask="SegmentationClass/a1.png")
    assert read(root, masked).tags == (0,)
    assert read(root, replace(masked, tags=("dog",))).tags == (1,)
    assert read(root, ENTRY).tags == ()


def test_a_path_that_begins_with_a_dot_starts_at_the_working_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "saliency")
    record = read(root, replace(ENTRY, saliency="./a1.png"))
    assert Manifest(root, CLASSES, (record,)).saliency(record) == Path("a1.png")
    assert locate(root, "a1.png") == root / "a1.png"
