"""Fixtures that several test files share."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError, flatten
from rca.core.files import hash_file
from rca.data.faults import Fault
from rca.data.manifest import ImageRecord, Manifest

MakeVoc = Callable[..., Path]
CLASSES = ("cat", "dog", "cow")
# Name, height, width, the labels in its mask.
IMAGES = (("a1", 40, 52, (1,)), ("b2", 33, 47, (1, 3)), ("c3", 47, 33, (0,)), ("d4", 51, 35, (2, 255)))


# What is wrong, and after a colon, a semicolon or a comma the next step; two lines of a terminal beside paths.
FORM = re.compile(r".+[:;,] \S.*[.?]", re.DOTALL)
LONGEST = 2 * 120
# The rooms whose messages `rca check` prints.
ROOMS = tuple(str(Path(__file__).parents[1] / "rca" / room) for room in ("core", "data", "params", "cli/check.py"))


@pytest.fixture(autouse=True)
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold each message of `rca check` that any test calls forth against the form that all have."""
    errors: list[str] = []
    faults: list[Fault] = []
    make_fault = Fault.__init__

    def make_error(error: UserError, *args: object) -> None:
        Exception.__init__(error, *args)
        if sys._getframe(1).f_code.co_filename.startswith(ROOMS):
            errors.append(str(error))

    def keep_fault(fault: Fault, *args: str, **more: str) -> None:
        make_fault(fault, *args, **more)
        faults.append(fault)

    monkeypatch.setattr(UserError, "__init__", make_error)
    monkeypatch.setattr(Fault, "__init__", keep_fault)
    yield
    for text in [*errors, *(fault.sentence for fault in faults)]:
        assert FORM.fullmatch(text), text
        assert len(flatten(text)) <= LONGEST
        assert "\n" not in flatten(text)
    for fault in faults:
        name = Path(fault.file).name
        assert name in fault.sentence or ascii(name)[1:-1] in fault.sentence, fault


def draw_pair(seed: int, height: int, width: int, labels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A noisy photograph, and a mask that holds background and `labels`."""
    random = np.random.default_rng(seed)
    mask = random.choice(np.array([0, *labels], np.uint8), (height, width))
    mask.flat[: len(labels)] = labels
    photograph = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return photograph, mask


@pytest.fixture
def make_voc(tmp_path: Path) -> MakeVoc:
    """Write a small dataset in VOC layout: a1, b2 and c3 are on train, c3 and d4 on val."""

    def make(masks: str = "SegmentationClass") -> Path:
        root = tmp_path / "voc"
        for folder in ("JPEGImages", masks, "ImageSets/Segmentation"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for seed, (name, height, width, labels) in enumerate(IMAGES):
            photograph, mask = draw_pair(seed, height, width, labels)
            Image.fromarray(photograph).save(root / f"JPEGImages/{name}.jpg")
            Image.fromarray(mask).save(root / masks / f"{name}.png")
        (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        (root / "ImageSets/Segmentation/train.txt").write_text("c3\na1\n\nb2 \n")
        (root / "ImageSets/Segmentation/val.txt").write_text("c3\nd4\n")
        return root

    return make


@pytest.fixture
def manifest(make_voc: MakeVoc) -> Manifest:
    """The manifest of that dataset, written down rather than read."""
    root = make_voc()
    splits = {"a1": ("train",), "b2": ("train",), "c3": ("train", "val"), "d4": ("val",)}
    records = []
    for name, height, width, labels in IMAGES:
        photograph, mask = f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png"
        tags = tuple(label - 1 for label in labels if label not in (0, 255))
        record = ImageRecord(
            name, photograph, mask, width, height, tags, splits[name], "main", hash_file(root / photograph)
        )
        records.append(replace(record, mask_sha256=hash_file(root / mask)))
    return Manifest(root, CLASSES, tuple(records))
