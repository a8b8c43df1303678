"""The map of a memory and the regions that stand for its classes."""

from pathlib import Path

import numpy as np
import pytest
from snapshots import write_snapshot
from threadpoolctl import threadpool_limits

from rca.evaluation import memory_map
from rca.evaluation.memory_map import choose_regions, place_entries
from rca.evaluation.memory_statistics import Snapshot, read_snapshot

CLASSES, IMAGES = ("cat", "dog", "cow", "context of cat"), ("a1", "b2", "c3", "d4")


def build(folder: Path, written: tuple[int, ...] = (9, 0, 1, 5), **options: int) -> Snapshot:
    return read_snapshot(write_snapshot(folder / "x.safetensors", CLASSES, IMAGES, written, **options))


def test_every_entry_has_a_place(tmp_path: Path) -> None:
    snapshot = build(tmp_path)
    places = place_entries(snapshot)
    assert places["class"].tolist() == ["cat"] * 6 + ["cow"] + ["context of cat"] * 5
    assert places["image"].tolist() == [IMAGES[image] for image in snapshot.image[snapshot.filled]]
    assert places["epoch"].tolist() == snapshot.epoch[snapshot.filled].tolist()
    assert np.isfinite(places[["x", "y"]].to_numpy()).all()


def test_similar_entries_lie_close_together(tmp_path: Path) -> None:
    """Entries about two directions far apart stay two heaps."""
    snapshot = build(tmp_path, (30, 30, 0, 0), size=30)
    direction = np.zeros(8)
    for row, sign in ((0, 10), (1, -10)):
        direction[0] = sign
        own = snapshot.entries[row] + direction
        snapshot.entries[row] = own / np.linalg.norm(own, axis=1, keepdims=True)
    places = place_entries(snapshot)
    xy, of_cat = places[["x", "y"]].to_numpy(), (places["class"] == "cat").to_numpy()
    distance = np.linalg.norm(xy[:, None] - xy, axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (of_cat[distance.argmin(1)] == of_cat).all()


def test_few_entries_lie_along_their_principal_components(tmp_path: Path) -> None:
    """Distances within a plane are kept as they are; entries that are all the same share one place."""
    snapshot = build(tmp_path, (4, 0, 0, 0), channels=2)
    xy = place_entries(snapshot)[["x", "y"]].to_numpy()
    entries = snapshot.entries[0, :4]
    kept = np.linalg.norm(entries[:, None] - entries, axis=2)
    assert np.allclose(np.linalg.norm(xy[:, None] - xy, axis=2), kept, atol=1e-5)
    full = build(tmp_path, (6, 6, 6, 6))
    full.entries[:] = full.entries[0, 0]
    assert np.allclose(place_entries(full)[["x", "y"]], 0, atol=1e-5)
    assert len(place_entries(build(tmp_path, (1, 0, 0, 0)))) == 1
    assert place_entries(build(tmp_path, (0, 0, 0, 0))).empty


def test_a_large_bank_is_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_map, "MOST", 8)
    places = place_entries(build(tmp_path, (6, 4, 6, 0)))
    assert places["class"].value_counts().to_dict() == {"cat": 3, "dog": 2, "cow": 3}


def test_the_map_is_the_same_on_any_number_of_threads(tmp_path: Path) -> None:
    snapshot = build(tmp_path, (300, 300, 0, 0), size=300, channels=512)  # enough for BLAS to share it out
    tables = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            tables.append(place_entries(snapshot))
    assert tables[0].equals(tables[1])


def test_prototypes_show_their_nearest_regions(tmp_path: Path) -> None:
    snapshot = build(tmp_path)
    lines, regions = choose_regions(snapshot)
    assert len(lines) == len(regions)
    assert set(lines["centre"][lines["class"] == "cat"]) == {"1", "3"}  # the second is not usable
    assert set(lines["centre"][lines["class"] == "cow"]) == {"centroid"}  # one region: no prototype
    assert "dog" not in set(lines["class"])
    for (name, centre), group in lines.groupby(["class", "centre"], sort=False):
        row = CLASSES.index(name)
        own = snapshot.entries[row, snapshot.filled[row]].astype(float)
        target = own.sum(0) if centre == "centroid" else snapshot.prototypes[row, int(centre) - 1].astype(float)
        cosines = own @ target / np.linalg.norm(target)
        best = {}  # of each image
        for slot in range(len(own)):
            image = IMAGES[snapshot.image[row, slot]]
            best[image] = max(best.get(image, (-2, 0)), (cosines[slot], slot))
        wanted = sorted(best.items(), key=lambda item: -item[1][0])[:4]
        assert group["image"].tolist() == [image for image, _ in wanted]
        assert group["cosine"].tolist() == pytest.approx([cosine for _, (cosine, _) in wanted])
        for number, (_, (_, slot)) in zip(group.index, wanted, strict=True):
            assert np.array_equal(regions[number], snapshot.region[row, slot])
            box = lines.loc[number, ["left", "top", "right", "bottom"]].tolist()
            assert box == pytest.approx(snapshot.box[row, slot].tolist())
    members = lines.groupby(["class", "centre"])["entries"].first()
    assert members["cat"].sum() == 6
    assert members["cow", "centroid"] == 1


def test_the_prototypes_with_most_entries_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_map, "PROTOTYPES", 1)
    snapshot = build(tmp_path)
    snapshot.usable[0] = True
    snapshot.prototypes[0] = -snapshot.entries[0, 0]
    snapshot.prototypes[0, 1] = snapshot.entries[0, :6].sum(0)
    lines, _ = choose_regions(snapshot)
    assert set(lines["centre"][lines["class"] == "cat"]) == {"2"}
    assert set(lines["entries"][lines["class"] == "cat"]) == {6}


def test_an_empty_bank_shows_nothing(tmp_path: Path) -> None:
    lines, regions = choose_regions(build(tmp_path, (0, 0, 0, 0)))
    assert lines.empty
    assert "left" in lines
    assert regions.shape == (0, 16, 16)


def test_regions_without_a_photograph_are_on_the_map_alone(tmp_path: Path) -> None:
    snapshot = build(tmp_path)
    snapshot.image[0, :5] = -1
    lines, _ = choose_regions(snapshot)
    assert set(lines["image"][lines["class"] == "cat"]) == {IMAGES[snapshot.image[0, 5]]}
    assert place_entries(snapshot)["image"].tolist()[:5] == [""] * 5
