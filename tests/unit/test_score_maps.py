from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from rca.errors import UserError
from rca.labels.score_maps import ScoreMaps, enlarge, open_scores, open_shard, write_shard


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


def test_maps_that_have_walked_go_before_those_that_were_made(tmp_path: Path, shard: Path, maps: dict) -> None:
    walked, off = tmp_path / "walked", tmp_path / "off"
    write_shard(walked, {"b.2": draw_maps(7, [1], 3, 4)}, {"walk": {"steps": 2}})
    write_shard(off, {}, {"enabled": False})
    with open_scores(walked, shard) as opened:
        assert opened.ids == ["b.2"]
        assert opened.about == {"walk": {"steps": 2}}
    with open_scores(off, shard) as opened:
        assert opened.ids == sorted(maps)
    with (
        pytest.raises(UserError, match="nothing does not exist: run walk_scores first"),
        open_scores(tmp_path / "nothing", shard),
    ):
        pass


def test_an_image_that_a_shard_lacks_is_named(shard: Path) -> None:
    with open_shard(shard) as opened, pytest.raises(UserError, match=r"0\.safetensors holds no maps .* nowhere"):
        opened.read("nowhere")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"7\.safetensors does not exist"), open_shard(tmp_path / "7.safetensors"):
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
