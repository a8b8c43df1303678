from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.artifacts import hash_file
from rca.data.listing import Entry, Listing, locate
from rca.data.reading import check_entry, read_listing
from rca.errors import UserError

CLASSES = ("cat", "dog", "cow")
ENTRY = Entry("a1", "JPEGImages/a1.jpg", splits=("train",))


@pytest.fixture
def root(make_voc: Callable[..., Path]) -> Path:
    root = make_voc()
    (root / "saliency").mkdir()
    Image.fromarray(np.arange(40 * 52, dtype=np.uint8).reshape(40, 52)).save(root / "saliency/a1.png")
    return root


def test_an_entry_becomes_a_record(root: Path) -> None:
    entry = replace(ENTRY, saliency="saliency/a1.png", tags=("cow", "cat", "cow"), source="web", weight=0.25)
    record = check_entry(root, CLASSES, entry)
    assert (record.id, record.width, record.height, record.tags) == ("a1", 52, 40, (0, 2))
    assert (record.source, record.weight, record.splits) == ("web", 0.25, ("train",))
    assert (record.mask, record.mask_sha256) == (None, "")
    assert record.saliency_sha256 == hash_file(root / "saliency/a1.png")


def test_tags_that_are_listed_go_before_those_of_the_mask(root: Path) -> None:
    masked = replace(ENTRY, mask="SegmentationClass/a1.png")
    assert check_entry(root, CLASSES, masked).tags == (0,)
    assert check_entry(root, CLASSES, replace(masked, tags=("dog",))).tags == (1,)
    assert check_entry(root, CLASSES, ENTRY).tags == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": ("cat", "horse")}, r"a1\.jpg has the tag 'horse', which is no class"),
        ({"saliency": "saliency/b2.png"}, r"The saliency map .*b2\.png does not exist"),
        ({"saliency": "SegmentationClass/b2.png"}, r"The saliency map .*b2\.png is 47x33, its photograph 52x40"),
        ({"saliency": "JPEGImages/a1.jpg"}, r"saliency map .*a1\.jpg is a RGB picture, not one 8-bit channel"),
    ],
)
def test_a_fault_is_told_with_its_file(root: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_entry(root, CLASSES, replace(ENTRY, **change))


def test_a_path_that_begins_with_a_dot_starts_at_the_working_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "saliency")
    entry = replace(ENTRY, saliency="./a1.png")
    manifest = read_listing(root, Listing(CLASSES, (entry,)))
    assert manifest.saliency(manifest.images[0]) == Path("a1.png")
    assert locate(root, "a1.png") == root / "a1.png"
