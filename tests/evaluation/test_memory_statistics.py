"""The figures of a memory against slow loops, and purity against pixels counted one by one."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from snapshots import make_snapshot, write_snapshot

from rca.core.errors import UserError
from rca.data.manifest import ImageRecord, Manifest
from rca.evaluation.memory_statistics import (
    Snapshot,
    average_memory,
    describe_memory,
    find_centroids,
    measure_purity,
    measure_region,
    read_snapshot,
)
from rca.models.storage import save_tensors

CLASSES, IMAGES = ("cat", "dog", "cow", "context of cat"), ("a1", "b2", "c3", "d4")
# An overflown row, an empty one, one region alone, and one that is not full.
WRITTEN = (9, 0, 1, 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "memory.safetensors", CLASSES, IMAGES, WRITTEN)


def test_figures_agree_with_slow_loops(path: Path) -> None:
    snapshot = read_snapshot(path)
    table = describe_memory(snapshot).set_index("class")
    slots = {name: range(min(count, 6)) for name, count in zip(CLASSES, WRITTEN, strict=True)}
    entries = {name: [snapshot.entries[row, n] for n in slots[name]] for row, name in enumerate(CLASSES)}
    centroids = {name: sum(own) / np.linalg.norm(sum(own)) for name, own in entries.items() if own}
    for row, name in enumerate(CLASSES):
        line, count = table.loc[name], len(slots[name])
        assert line["fill"] == count
        assert line["images"] == len({snapshot.image[row, n] for n in slots[name]})
        if not count:
            assert line["nearest"] == ""
            assert line[["age", "confidence", "spread", "cosine", "purity"]].isna().all()
            continue
        assert line["age"] == pytest.approx(sum(4 - snapshot.epoch[row, n] for n in slots[name]) / count)
        assert line["confidence"] == pytest.approx(sum(snapshot.confidence[row, n] for n in slots[name]) / count)
        cosines = [float(one @ centroids[name]) for one in entries[name]]
        assert line["spread"] == pytest.approx(1 - sum(cosines) / count, abs=1e-6)
        others = {other: float(centroids[name] @ one) for other, one in centroids.items() if other != name}
        assert line["nearest"] == max(others, key=others.get)
        assert line["cosine"] == pytest.approx(max(others.values()), abs=1e-6)


def test_known_answers() -> None:
    """Two entries at a right angle spread by 1 - cos 45°; a centroid has length 1."""
    tensors, about = make_snapshot(("cat", "dog"), IMAGES, (2, 1), size=2, channels=2)
    tensors["memory.entries"] = torch.tensor([[[1.0, 0], [0, 1]], [[-1, 0], [9, 9]]])
    tensors["memory.image"] = torch.tensor([[3, 3], [0, -1]])
    snapshot = read_back(tensors, about)
    table = describe_memory(snapshot)
    assert table["spread"].tolist() == pytest.approx([1 - math.sqrt(0.5), 0])
    assert table["cosine"].tolist() == pytest.approx([-math.sqrt(0.5)] * 2)
    assert table["nearest"].tolist() == ["dog", "cat"]
    assert table["images"].tolist() == [1, 1]
    assert np.linalg.norm(find_centroids(snapshot), axis=1) == pytest.approx(1)


def test_the_norm_of_an_entry_does_not_count() -> None:
    tensors, about = make_snapshot(CLASSES, IMAGES, WRITTEN)
    longer = {**tensors, "memory.entries": tensors["memory.entries"] * torch.linspace(0.1, 30, 6)[:, None]}
    plain, scaled = (describe_memory(read_back(one, about)) for one in (tensors, longer))
    pd.testing.assert_frame_equal(plain, scaled, rtol=1e-5, atol=1e-6)


def test_means_are_over_the_rows_that_have_a_figure(path: Path) -> None:
    table = describe_memory(read_snapshot(path))
    means = average_memory(table)
    assert means["fill"] == (6 + 0 + 1 + 5) / 4
    assert means["spread"] == pytest.approx(table["spread"].dropna().mean())
    assert math.isnan(means["purity"])


def test_one_class_has_no_neighbour(tmp_path: Path) -> None:
    snapshot = read_snapshot(write_snapshot(tmp_path / "x.safetensors", ("cat",), IMAGES, (3,)))
    assert describe_memory(snapshot)["nearest"].tolist() == [""]


def test_purity_counts_pixels_by_weight(path: Path, manifest: Manifest) -> None:
    """Each pixel of each region is looked up by itself."""
    snapshot = read_snapshot(path)
    purity = measure_purity(snapshot, manifest)
    labels = {"cat": 1, "dog": 2, "cow": 3, "context of cat": 0}
    checked = 0
    for row, slot in np.argwhere(snapshot.filled):
        record = next(one for one in manifest.images if one.id == IMAGES[snapshot.image[row, slot]])
        truth = np.array(Image.open(manifest.root / str(record.mask)))
        left, top, right, bottom = snapshot.box[row, slot].astype(float)
        right_weight = weight = 0.0
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                if left <= x + 0.5 < right and top <= y + 0.5 < bottom and truth[y, x] != 255:
                    cell = int(16 * (y + 0.5 - top) / (bottom - top)), int(16 * (x + 0.5 - left) / (right - left))
                    covered = int(snapshot.region[row, slot][cell])
                    weight += covered
                    right_weight += covered * (truth[y, x] == labels[CLASSES[row]])
        assert purity[row, slot] == pytest.approx(right_weight / weight)
        checked += 1
    assert checked == 12
    assert np.isnan(purity[~snapshot.filled]).all()
    table = describe_memory(snapshot, purity)
    assert table["purity"][0] == pytest.approx(purity[0].mean())


def test_purity_of_a_region_by_hand() -> None:
    truth = np.array([[1, 1, 2, 2], [1, 0, 255, 2], [0, 0, 0, 0], [9, 9, 9, 9]], np.uint8)
    whole, left_half = np.full((16, 16), 255, np.uint8), np.zeros((16, 16), np.uint8)
    left_half[:, :8] = 200
    top = np.array([0, 0, 4, 2], np.float32)
    assert measure_region(truth, top, whole, 1) == pytest.approx(3 / 7)
    assert measure_region(truth, top, left_half, 1) == pytest.approx(3 / 4)
    assert measure_region(truth, top, left_half, 0) == pytest.approx(1 / 4)
    over_the_edge = np.array([-4, 2, 4, 4], np.float32)
    assert measure_region(truth, over_the_edge, whole, 9) == pytest.approx(1 / 2)
    assert math.isnan(measure_region(truth, over_the_edge, left_half, 9))
    assert math.isnan(measure_region(truth, np.array([2, 1, 3, 2], np.float32), whole, 1))  # undecided alone
    assert math.isnan(measure_region(truth, np.array([1, 1, 1, 1], np.float32), whole, 1))


def test_an_image_without_a_mask_gives_no_purity(path: Path, manifest: Manifest) -> None:
    snapshot = read_snapshot(path)
    hidden = replace(manifest, images=tuple(hide_mask(one, one.id == "a1") for one in manifest.images))
    purity, full = measure_purity(snapshot, hidden), measure_purity(snapshot, manifest)
    of_a1 = snapshot.filled & (snapshot.image == 0)
    assert of_a1.any()
    assert np.isnan(purity[of_a1]).all()
    assert np.array_equal(purity[~of_a1], full[~of_a1], equal_nan=True)


def hide_mask(record: ImageRecord, hidden: bool) -> ImageRecord:
    return replace(record, mask=None) if hidden else record


def test_a_manifest_of_another_dataset_is_reported(path: Path, manifest: Manifest) -> None:
    with pytest.raises(UserError, match="the class cow, which is not in the manifest"):
        measure_purity(read_snapshot(path), replace(manifest, classes=("cat", "dog", "pig")))
    with pytest.raises(UserError, match="which is not in the manifest"):
        measure_purity(read_snapshot(path), replace(manifest, images=manifest.images[:1]))


def test_regions_of_an_earlier_training_have_no_age_and_perhaps_no_image(path: Path, manifest: Manifest) -> None:
    snapshot = read_snapshot(path)
    images, ages = snapshot.image[0].copy(), 4 - snapshot.epoch[0]
    snapshot.image[0, :2], snapshot.epoch[0, 0] = -1, 20
    line = describe_memory(snapshot).iloc[0]
    assert line["age"] == pytest.approx(ages[1:].mean())
    assert line["images"] == len(set(images[2:]))
    purity = measure_purity(snapshot, manifest)
    assert np.isnan(purity[0, :2]).all()
    assert np.isfinite(purity[0, 2:]).all()


def test_a_bank_without_slots_is_empty(tmp_path: Path) -> None:
    table = describe_memory(
        read_snapshot(write_snapshot(tmp_path / "x.safetensors", CLASSES, IMAGES, (0,) * 4, size=0))
    )
    assert table["fill"].tolist() == [0, 0, 0, 0]


def read_back(tensors: dict[str, Any], about: dict[str, Any]) -> Snapshot:
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "x.safetensors", tensors, about)
        return read_snapshot(Path(folder) / "x.safetensors")


def drop(key: str) -> Callable[[dict, dict], None]:
    return lambda tensors, about: (tensors if key in tensors else about).pop(key)


def put(key: str, value: Any) -> Callable[[dict, dict], None]:
    return lambda tensors, about: (tensors if key in tensors else about).update({key: value})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (drop("memory.box"), "it lacks box"),
        (drop("prototypes"), "it lacks prototypes"),
        (drop("epochs"), "it does not state its epochs"),
        (put("epochs", "many"), "its epochs are no number"),
        (put("classes", []), "it names no classes"),
        (put("classes", ["cat"]), "its entries has the shape"),
        (put("memory.region", torch.zeros(4, 6, 8, 8, dtype=torch.uint8)), "its region has the shape"),
        (put("prototypes", torch.zeros(9, 3, 8)), "its prototypes have the shape"),
        (put("images", ["a1"]), "it has regions of images that it does not name"),
    ],
)
def test_a_foreign_file_is_reported_in_one_sentence(spoil: Callable[[dict, dict], None], sentence: str) -> None:
    tensors, about = make_snapshot(CLASSES, IMAGES, WRITTEN)
    spoil(tensors, about)
    with pytest.raises(UserError, match=rf"is not a memory snapshot \({sentence}"):
        read_back(tensors, about)


def test_fewer_rows_of_prototypes_are_no_fault() -> None:
    tensors, about = make_snapshot(CLASSES, IMAGES, WRITTEN)
    tensors.update(prototypes=tensors["prototypes"][:3], prototypes_usable=tensors["prototypes_usable"][:3])
    assert read_back(tensors, about).usable.shape == (3, 3)
