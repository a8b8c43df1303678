import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rca.core.errors import UserError
from rca.core.files import read_json
from rca.data.manifest import Manifest, read_manifest, write_manifest
from rca.data.partition import (
    assign_shard,
    check_splits,
    group_by_shard,
    hide_maps,
    list_saliency,
    read_training,
    select_from_shard,
    write_parts,
)


@pytest.mark.parametrize(("image_id", "expected"), [("2007_000032", 1), ("2007_000039", 3), ("img-1.b", 6)])
def test_the_shard_of_an_image_never_changes(image_id: str, expected: int) -> None:
    assert assign_shard(image_id, 7) == expected
    assert assign_shard(image_id, 7) == int(hashlib.sha256(image_id.encode()).hexdigest()[:16], 16) % 7


def test_shards_are_balanced() -> None:
    counts = Counter(assign_shard(f"2008_{number:06d}", 5) for number in range(5000))
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert max(counts.values()) - min(counts.values()) < 200


def test_images_are_grouped_by_shard_in_their_order(manifest: Manifest) -> None:
    groups = group_by_shard(reversed(manifest.images), 6)
    assert list(groups) == list(range(6))
    assert [] in groups.values()
    names = ["d4", "c3", "b2", "a1"]
    for shard, records in groups.items():
        assert [record.id for record in records] == [name for name in names if assign_shard(name, 6) == shard]


@pytest.fixture
def whole(manifest: Manifest) -> Manifest:
    """The small dataset with saliency maps, and with an image of another source."""
    extra = replace(manifest.images[1], id="web.e5", splits=(), source="web", weight=0.5)
    images = (*manifest.images, extra)
    maps = (replace(one, saliency=f"saliency/{one.id}.png", saliency_sha256=f"of {one.id}") for one in images)
    return replace(manifest, images=tuple(maps))


@pytest.fixture
def written(tmp_path: Path, whole: Manifest) -> Path:
    write(tmp_path / "whole", whole)
    return tmp_path / "whole"


def write(directory: Path, manifest: Manifest, shards: int = 3) -> None:
    directory.mkdir()
    write_manifest(directory, manifest)
    write_parts(directory, manifest, range(shards))


def list_files(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(directory.glob("**/*.csv")) + sorted(directory.glob("saliency/*")):
        yield path.relative_to(directory).as_posix(), path.read_bytes()


def test_parts_hold_what_a_stage_may_see(written: Path, whole: Manifest) -> None:
    assert read_manifest(written) == whole
    by_id = {record.id: record for record in whole.images}
    for split, ids in (("train", ("a1", "b2", "c3")), ("val", ("c3", "d4"))):
        assert read_manifest(written, f"truth/{split}").images == tuple(
            replace(by_id[one], splits=(split,)) for one in ids
        )
        blind = read_manifest(written, f"splits/{split}").images
        assert blind == tuple(hide_maps(replace(by_id[one], splits=(split,))) for one in ids)
        assert {(record.mask, record.mask_sha256, record.saliency_sha256) for record in blind} == {(None, "", "")}
    found = {shard: read_manifest(written, f"shards/{shard}").images for shard in range(3)}
    assert {record.id: shard for shard, images in found.items() for record in images} == {
        one: assign_shard(one, 3) for one in ("a1", "b2", "c3", "d4")
    }
    assert all(record == hide_maps(by_id[record.id]) for images in found.values() for record in images)
    saliency = {
        one: checksum for shard in range(3) for one, checksum in read_json(written / f"saliency/{shard}.json").items()
    }
    assert saliency == {one: f"of {one}" for one in ("a1", "b2", "c3", "d4")}
    assert [record.id for record in read_manifest(written, "sources").images] == ["web.e5"]


def test_parts_that_are_read_together_are_one_manifest(written: Path) -> None:
    both = read_manifest(written, "splits/val", "sources")
    assert both.index == {"c3": 0, "d4": 1, "web.e5": 2}


def test_a_new_image_changes_only_its_split_and_its_shard(tmp_path: Path, written: Path, whole: Manifest) -> None:
    new = replace(whole.images[0], id="n6", splits=("val",))
    images = (*whole.images[:4], new, whole.images[4])
    write(tmp_path / "more", replace(whole, images=images))
    before, after = dict(list_files(written)), dict(list_files(tmp_path / "more"))
    assert before.keys() == after.keys()
    changed = {name for name, content in before.items() if after[name] != content}
    shard = assign_shard("n6", 3)
    of_shard = {f"shards/{shard}.csv", f"saliency/{shard}.json"}
    assert changed == {"manifest.csv", "splits/val.csv", "truth/val.csv", *of_shard}


def test_another_split_and_another_mask_leave_a_training_alone(tmp_path: Path, written: Path, whole: Manifest) -> None:
    a1 = replace(whole.images[0], splits=("train", "extra"), mask_sha256="0" * 64)
    write(tmp_path / "more", replace(whole, images=(a1, *whole.images[1:])))
    before, after = dict(list_files(written)), dict(list_files(tmp_path / "more"))
    assert after["splits/train.csv"] == before["splits/train.csv"]
    assert after["truth/train.csv"] != before["truth/train.csv"]


@pytest.mark.parametrize("place", [1, 4])
def test_another_saliency_map_leaves_trainings_alone_that_use_none(
    tmp_path: Path, written: Path, whole: Manifest, place: int
) -> None:
    image = replace(whole.images[place], saliency_sha256="0" * 64)
    write(tmp_path / "more", replace(whole, images=(*whole.images[:place], image, *whole.images[place + 1 :])))
    before, after = dict(list_files(written)), dict(list_files(tmp_path / "more"))
    changed = {name for name, content in before.items() if after[name] != content}
    of_split = {"truth/train.csv", f"saliency/{assign_shard(image.id, 3)}.json"} if image.splits else set()
    assert changed == {"manifest.csv", *of_split}
    earlier, later = (list_saliency(directory, "train", ["web"]) for directory in (written, tmp_path / "more"))
    assert earlier == {one: f"of {one}" for one in ("a1", "b2", "c3", "web.e5")}
    assert later == {**earlier, image.id: "0" * 64}
    assert list_saliency(tmp_path / "more", "val").keys() == {"c3", "d4"}
    assert list_saliency(tmp_path / "more", "val", ["web"]).keys() == {"c3", "d4", "web.e5"}


def test_a_shard_need_not_hold_a_split(written: Path) -> None:
    shard = read_manifest(written, f"shards/{assign_shard('d4', 3)}")
    chosen = select_from_shard(shard, ("val",))
    assert "d4" in {record.id for record in chosen}
    assert not {"a1", "b2"} & {record.id for record in chosen}
    assert select_from_shard(shard, ("test",)) == ()
    check_splits(written, ("train", "val"))
    with pytest.raises(UserError, match="split test: the dataset's splits are train, val"):
        check_splits(written, ("val", "test"))


def test_a_training_sees_its_split_and_the_sources_that_it_names(written: Path, whole: Manifest) -> None:
    assert read_training(written, "train") == read_manifest(written, "splits/train")
    found = read_training(written, "val", ["web"])
    assert found.images[:2] == read_manifest(written, "splits/val").images
    assert found.images[2:] == (hide_maps(replace(whole.images[4], splits=("val",))),)
    assert found.images[2].weight == 0.5
    with pytest.raises(UserError, match="There is no source film: the dataset's sources are web"):
        read_training(written, "train", ["web", "film"])


def test_a_missing_part_is_named(written: Path) -> None:
    with pytest.raises(UserError, match=r"splits/test\.csv does not exist: run prepare_data first"):
        read_manifest(written, "splits/test")
