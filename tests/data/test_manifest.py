import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rca.core.errors import UserError
from rca.data.manifest import Manifest, read_manifest, summarise, write_manifest


@pytest.fixture
def written(tmp_path: Path, manifest: Manifest) -> Path:
    directory = tmp_path / "manifest"
    directory.mkdir()
    write_manifest(directory, manifest)
    return directory


def test_a_manifest_is_read_as_it_was_written(written: Path, manifest: Manifest) -> None:
    assert read_manifest(written) == manifest


@pytest.mark.parametrize("name", ["café, au lait", '"quoted"', "a|b", "two words"])
def test_class_names_survive_special_characters(tmp_path: Path, manifest: Manifest, name: str) -> None:
    named = replace(manifest, classes=(name, *manifest.classes[1:]))
    write_manifest(tmp_path, named)
    assert read_manifest(tmp_path) == named


def test_an_image_without_a_mask_stays_without(tmp_path: Path, manifest: Manifest) -> None:
    bare = replace(manifest, images=(replace(manifest.images[0], mask=None), *manifest.images[1:]))
    write_manifest(tmp_path, bare)
    found = read_manifest(tmp_path)
    assert found == bare
    with pytest.raises(UserError, match="a1 has no mask"):
        found.truth(found.images[0])


def test_statistics_count_images_tags_and_masks(written: Path, manifest: Manifest) -> None:
    found = json.loads((written / "statistics.json").read_text())
    assert found == summarise(manifest)
    assert found["images"] == 4
    assert found["splits"]["train"] == {
        "images": 3,
        "with_mask": 3,
        "images_per_class": {"cat": 2, "dog": 0, "cow": 1},
        "images_per_number_of_tags": {"0": 1, "1": 1, "2": 1},
    }


def test_the_same_manifest_gives_the_same_bytes(written: Path, manifest: Manifest, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    write_manifest(again, read_manifest(written))
    for path in written.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["manifest.csv", "dataset.json"])
def test_a_missing_file_is_named(written: Path, name: str) -> None:
    (written / name).unlink()
    with pytest.raises(UserError, match=f"{name} does not exist"):
        read_manifest(written)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("manifest.csv", "52,40", "wide,40"),
        ("manifest.csv", "cat", "horse"),
        ("manifest.csv", "height", "depth"),
        ("manifest.csv", ",cat,train,main,", ""),
        ("dataset.json", "[", ""),
    ],
)
def test_a_corrupt_file_is_named(written: Path, name: str, old: str, new: str) -> None:
    path = written / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"{name} is (corrupt|not valid)"):
        read_manifest(written)


def test_splits_select_their_images_each_once(manifest: Manifest) -> None:
    assert [record.id for record in manifest.select("val")] == ["c3", "d4"]
    assert [record.id for record in manifest.select_any(("val", "train"))] == ["a1", "b2", "c3", "d4"]
    with pytest.raises(UserError, match="split test: the dataset's splits are train, val"):
        manifest.select_any(("val", "test"))


def test_images_are_found_by_their_ids_and_an_unknown_one_is_named(manifest: Manifest) -> None:
    wanted = [record.id for record in reversed(manifest.images)]
    assert [record.id for record in manifest.find(wanted)] == wanted
    with pytest.raises(UserError, match="no image stranger"):
        manifest.find([*wanted, "stranger"])


def test_tags_are_encoded_as_ones(manifest: Manifest) -> None:
    encoded = [manifest.encode_tags(record) for record in manifest.images]
    np.testing.assert_array_equal(encoded, [[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert encoded[0].dtype == np.float32


def test_saliency_and_weight_survive(tmp_path: Path, manifest: Manifest) -> None:
    image = replace(manifest.images[0], saliency="saliency/a1.png", weight=0.1, source="web", saliency_sha256="ab")
    changed = replace(manifest, images=(image, *manifest.images[1:]))
    write_manifest(tmp_path, changed)
    found = read_manifest(tmp_path)
    assert found == changed
    assert found.saliency(found.images[0]) == manifest.root / "saliency/a1.png"
    with pytest.raises(UserError, match="b2 has no saliency map"):
        found.saliency(found.images[1])
