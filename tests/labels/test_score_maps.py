from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from rca.core.errors import UserError
from rca.labels import score_maps
from rca.labels.score_maps import ScoreMaps, ShardWriter, enlarge, open_shard, write_shard


def draw_maps(seed: int, labels: list[int], height: int, width: int) -> ScoreMaps:
    random = np.random.default_rng(seed)
    scores = random.random((len(labels), height, width)).astype(np.float16)
    return ScoreMaps(np.array(labels, np.uint8), scores, random.normal(size=5).astype(np.float32))


@pytest.fixture
def maps() -> dict[str, ScoreMaps]:
    return {
        "b.2": draw_maps(0, [1, 4], 7, 5),
        "a-1": draw_maps(1, [3], 11, 13),
        "2007_000032": draw_maps(2, [], 3, 2),
    }


@pytest.fixture
def shard(tmp_path: Path, maps: dict[str, ScoreMaps]) -> Path:
    path = tmp_path / "0.safetensors"
    write_shard(path, maps, {"stride": 4, "scales": [0.5, 1.0]})
    return path


def test_a_shard_gives_back_exactly_what_was_written(shard: Path, maps: dict[str, ScoreMaps]) -> None:
    with open_shard(shard) as opened:
        assert opened.ids == sorted(maps)
        assert opened.about == {"stride": 4, "scales": [0.5, 1.0]}
        for image_id, expected in maps.items():
            for part, found in opened.read(image_id)._asdict().items():
                assert found.dtype == getattr(expected, part).dtype
                np.testing.assert_array_equal(found, getattr(expected, part))


def test_maps_that_are_views_are_written_as_they_look(tmp_path: Path) -> None:
    one = draw_maps(3, [1, 2, 3], 6, 9)
    view = one._replace(scores=one.scores[::2, ::-1].transpose(0, 2, 1))
    write_shard(tmp_path / "s", {"x": view}, {})
    with open_shard(tmp_path / "s") as opened:
        np.testing.assert_array_equal(opened.read("x").scores, view.scores)


def test_the_same_maps_give_the_same_bytes_in_any_order(tmp_path: Path, shard: Path, maps: dict) -> None:
    write_shard(tmp_path / "s", dict(reversed(maps.items())), {"scales": [0.5, 1.0], "stride": 4})
    assert (tmp_path / "s").read_bytes() == shard.read_bytes()


def predict(one: ScoreMaps, labels: list[int], seed: int) -> ScoreMaps:
    """Maps of the same image with other tags."""
    return draw_maps(seed, labels, *one.scores.shape[1:])._replace(logits=one.logits)


@pytest.fixture
def predicted(maps: dict[str, ScoreMaps]) -> dict[str, ScoreMaps]:
    return {
        "b.2": predict(maps["b.2"], [2, 4, 5], 10),
        "a-1": maps["a-1"],
        "2007_000032": predict(maps["2007_000032"], [1], 12),
    }


def compare(found: ScoreMaps, expected: ScoreMaps) -> None:
    for part, array in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, part), array)


def test_maps_with_predicted_tags_lie_beside_those_with_given_ones_where_they_are_others(
    tmp_path: Path, maps: dict[str, ScoreMaps], predicted: dict[str, ScoreMaps]
) -> None:
    del predicted["2007_000032"]
    write_shard(tmp_path / "s", maps, {}, predicted)
    with open_shard(tmp_path / "s") as opened:
        assert opened.ids == sorted(maps)
        for image_id, expected in maps.items():
            compare(opened.read(image_id), expected)
        for image_id, expected in predicted.items():
            compare(opened.read(image_id, "predicted"), expected)
        with pytest.raises(UserError, match=r"no maps for predicted tags of 2007_000032: .*predicted_tags\.splits"):
            opened.read("2007_000032", "predicted")
    tensors = load_file(tmp_path / "s")
    assert [name for name in tensors if "predicted" in name] == ["predicted_maps/b.2", "predicted_tags"]
    # The layout that the module tells of, for those who read a shard without it.
    line = sorted(maps).index("b.2")
    assert tensors["tags"][line].tolist() == [1, 0, 0, 1, 0]
    assert tensors["predicted_tags"][line].tolist() == [0, 1, 0, 1, 1]
    np.testing.assert_array_equal(tensors["logits"][line], maps["b.2"].logits)
    np.testing.assert_array_equal(tensors["maps/b.2"], maps["b.2"].scores)


def test_a_shard_that_is_written_part_by_part_is_the_same_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: dict[str, ScoreMaps], predicted: dict[str, ScoreMaps]
) -> None:
    monkeypatch.setattr(score_maps, "PART_SIZE", 2)
    write_shard(tmp_path / "whole", maps, {"stride": 4}, predicted)
    batches = [["b.2"], ["2007_000032"], ["a-1"]]
    stopped = ShardWriter(tmp_path / "parts", len(maps))
    for batch in batches:
        stopped.add({name: maps[name] for name in batch}, {name: predicted[name] for name in batch})
    assert stopped.done == {"b.2", "2007_000032"}  # the third waits for company
    again = ShardWriter(tmp_path / "parts", len(maps))
    assert again.done == stopped.done
    again.add({"a-1": maps["a-1"]}, {"a-1": predicted["a-1"]})
    again.finish(tmp_path / "s", {"stride": 4})
    assert (tmp_path / "s").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not (tmp_path / "parts").exists()


def test_a_part_with_a_wrong_byte_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: dict[str, ScoreMaps]
) -> None:
    monkeypatch.setattr(score_maps, "PART_SIZE", 1)
    first = dict([next(iter(maps.items()))])
    ShardWriter(tmp_path / "parts", len(maps)).add(first, {})
    (part,) = (tmp_path / "parts").iterdir()
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=f"The score maps {part} of a stopped stage are broken: delete this file"):
        ShardWriter(tmp_path / "parts", len(maps))
    part.unlink()
    again = ShardWriter(tmp_path / "parts", len(maps))
    again.add(maps, {})
    again.finish(tmp_path / "s", {})
    write_shard(tmp_path / "whole", maps, {})
    assert (tmp_path / "s").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_shard_of_many_images_has_few_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_maps, "PART_SIZE", 2)
    monkeypatch.setattr(score_maps, "PARTS", 5)
    writer = ShardWriter(tmp_path / "parts", 23)
    for number in range(23):
        writer.add({f"i{number:02}": draw_maps(number, [1], 2, 3)}, {})
    assert len(list((tmp_path / "parts").iterdir())) <= 5
    writer.finish(tmp_path / "s", {})
    with open_shard(tmp_path / "s") as opened:
        assert opened.ids == [f"i{number:02}" for number in range(23)]
        compare(opened.read("i17"), draw_maps(17, [1], 2, 3))


def test_a_shard_of_no_images_is_a_shard(tmp_path: Path) -> None:
    ShardWriter(tmp_path / "parts", 0).finish(tmp_path / "s", {"stride": 4})
    with open_shard(tmp_path / "s") as opened:
        assert opened.ids == []


def test_another_tensor_file_is_no_shard(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "s")
    with pytest.raises(UserError, match="is no file of score maps"), open_shard(tmp_path / "s"):
        pass


def test_an_image_that_a_shard_lacks_is_named(shard: Path) -> None:
    with open_shard(shard) as opened, pytest.raises(UserError, match=r"0\.safetensors holds no maps .* nowhere"):
        opened.read("nowhere")


@pytest.mark.parametrize(("name", "stage"), [("scores", "make_cam"), ("walked", "walk_scores")])
def test_a_missing_shard_is_named(tmp_path: Path, name: str, stage: str) -> None:
    message = rf"7/{name}\.safetensors does not exist: run {stage} first"
    with pytest.raises(UserError, match=message), open_shard(tmp_path / f"7/{name}.safetensors"):
        pass


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise"])
def test_a_broken_shard_is_named(shard: Path, damage: str) -> None:
    content = shard.read_bytes()
    shard.write_bytes({"truncated": content[:-9], "empty": b"", "noise": b"noise" * 40}[damage])
    with pytest.raises(UserError, match=r"0\.safetensors is broken"), open_shard(shard):
        pass


@pytest.mark.parametrize(("height", "width"), [(43, 61), (11, 13), (23, 14)])
def test_enlarging_agrees_with_torch(height: int, width: int) -> None:
    scores = draw_maps(4, [1, 2, 3], 11, 13).scores
    found = enlarge(scores, height, width)
    expected = functional.interpolate(
        torch.from_numpy(scores).float()[None], (height, width), mode="bilinear", align_corners=False
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[0], atol=1e-5)


def test_enlarging_no_map_gives_no_map() -> None:
    assert enlarge(np.zeros((0, 3, 4), np.float16), 9, 8).shape == (0, 9, 8)
