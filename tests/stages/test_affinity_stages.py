"""From score maps to a network that finds boundaries, and to maps that have walked, by the stages themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from stages import locate, prepare, read_preset, write_params

from rca.classifier.network import CamNetwork, NetworkDescription, save_network
from rca.core.errors import UserError
from rca.core.files import read_json
from rca.data.manifest import Manifest, write_manifest
from rca.data.partition import assign_shard, write_parts
from rca.labels.random_walk import WalkSettings
from rca.labels.score_maps import ScoreMaps, open_shard, write_shard
from rca.stages import train_affinity
from rca.stages.base.stage import load_stage

SHARDS = 2
PLACE: dict[str, Any] = {"run": "cam", "seed": 0}
PATHS = locate(**PLACE, dataset="tiny")


@pytest.fixture
def maps(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ScoreMaps]:
    """A project of four images with a network and score maps; the maps."""
    monkeypatch.chdir(tmp_path)
    place()
    made = {}
    for seed, record in enumerate(manifest.images):
        random = np.random.default_rng(seed)
        labels = np.array([tag + 1 for tag in record.tags], np.uint8)
        scores = random.beta(0.6, 0.6, (len(labels), -(-record.height // 4), -(-record.width // 4)))
        made[record.id] = ScoreMaps(labels, scores.astype(np.float16), random.normal(size=3).astype(np.float32))
    data = Path("runs/tiny/data")
    data.mkdir(parents=True)
    write_manifest(data, manifest)
    write_parts(data, manifest, range(SHARDS))
    for shard in range(SHARDS):
        write_maps(shard, made)
    torch.manual_seed(0)
    about = NetworkDescription("small", 8, 0, "cam", "cam", {}, manifest.classes, (0.5,) * 3, (0.5,) * 3, "")
    save_network(PATHS.network, CamNetwork(about))
    return made


def write_maps(shard: int, maps: dict[str, ScoreMaps]) -> None:
    own = {name: one for name, one in maps.items() if assign_shard(name, SHARDS) == shard}
    write_shard(PATHS.maps_of(shard, "scores"), own, {"stride": 4, "tags": "given"})


def place(walk: dict[str, Any] | None = None) -> None:
    params = read_preset()
    params.update(dataset={"name": "tiny", "format": "voc", "splits": ["train", "val"]}, runs=["cam"], seeds=[0])
    params["generate_data"]["train"] = 0
    params["train_affinity"] = {
        "augmentation": {"scale": [1, 1], "crop": 48},
        "optimisation": {"epochs": 2, "batch_size": 2},
    }
    params["walk_scores"] = {"enabled": True, "walk": walk or {"steps": 16}}
    write_params(params)


def run_one(stage: str, **shard: int) -> None:
    """Run an instance so that its errors are raised."""
    load_stage(stage).run(*prepare(stage, **PLACE, **shard))


def pin() -> dict[str, str]:
    """Run pin_scores; the checksums of all shards."""
    for shard in range(SHARDS):
        run_one("pin_scores", shard=shard)
    parts = [read_json(PATHS.pinned_scores / f"{shard}.json") for shard in range(SHARDS)]
    assert not set(parts[0]) & set(parts[1])
    return parts[0] | parts[1]


def run() -> dict[str, ScoreMaps]:
    """Run the stages; the maps that have walked."""
    pin()
    run_one("train_affinity")
    walked = {}
    for shard in range(SHARDS):
        run_one("walk_scores", shard=shard)
        with open_shard(PATHS.maps_of(shard, "walked")) as opened:
            walked.update({name: opened.read(name) for name in opened.ids})
            walk = WalkSettings(**opened.about.pop("walk"))
            assert walk.steps == 16
            with open_shard(PATHS.maps_of(shard, "scores")) as made:
                assert opened.about == made.about
    return walked


def test_walked_maps_are_as_their_like_and_the_same_again(maps: dict[str, ScoreMaps]) -> None:
    walked = run()
    assert walked.keys() == maps.keys()
    for name, one in walked.items():
        made = maps[name]
        np.testing.assert_array_equal(one.labels, made.labels)
        np.testing.assert_array_equal(one.logits, made.logits)
        assert one.scores.shape == made.scores.shape
        if len(made.labels):
            assert one.scores.max() == pytest.approx(1, abs=2e-3)
            # A walk levels what lies side by side.
            assert np.abs(np.diff(one.scores)).mean() < 0.8 * np.abs(np.diff(made.scores)).mean()
    history = pd.read_csv(PATHS.affinity_history)
    assert list(history["epoch"]) == [1, 2]
    assert {"loss_object", "loss_background", "loss_boundary"} <= set(history.columns)
    before = PATHS.affinity.read_bytes()
    run()
    assert PATHS.affinity.read_bytes() == before


def test_a_training_that_was_stopped_goes_on(maps: dict[str, ScoreMaps], monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    expected = PATHS.affinity.read_bytes()
    save = train_affinity.Trainer._save

    def stop(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_affinity.Trainer, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        run_one("train_affinity")
    monkeypatch.setattr(train_affinity.Trainer, "_save", save)
    assert list(Path(".rca/checkpoints").glob("train_affinity*.pt"))
    run_one("train_affinity")
    assert PATHS.affinity.read_bytes() == expected
    assert not list(Path(".rca/checkpoints").glob("*.pt"))


def test_what_is_trained_on_is_pinned_and_nothing_else(maps: dict[str, ScoreMaps]) -> None:
    before = pin()
    assert set(before) == {"a1", "b2", "c3"}  # the training split
    for shard in range(SHARDS):
        new = f"n{next(number for number in range(9) if assign_shard(f'n{number}', SHARDS) == shard)}"
        write_maps(shard, {**maps, new: maps["a1"], "d4": maps["d4"]._replace(scores=1 - maps["d4"].scores)})
    assert pin() == before
    scores = maps["b2"].scores.copy()
    scores.reshape(-1)[-1] = np.nextafter(scores.reshape(-1)[-1], np.float16(2))
    write_maps(assign_shard("b2", SHARDS), {**maps, "b2": maps["b2"]._replace(scores=scores)})
    after = pin()
    assert {name for name, one in after.items() if one != before[name]} == {"b2"}


def test_maps_that_were_made_again_after_they_were_pinned_are_refused(maps: dict[str, ScoreMaps]) -> None:
    pin()
    shard = assign_shard("b2", SHARDS)
    write_maps(shard, {**maps, "b2": maps["b2"]._replace(scores=maps["b2"].scores / 2)})
    with pytest.raises(UserError, match=rf"maps of b2 in .*maps/{shard}/scores\.safetensors .* run pin_scores again"):
        run_one("train_affinity")


def test_fewer_shards_leave_no_pinned_scores(maps: dict[str, ScoreMaps]) -> None:
    pin()
    (PATHS.pinned_scores / "2.json").write_text("{}")  # of an earlier setting
    run_one("train_affinity")
    assert sorted(path.name for path in PATHS.pinned_scores.iterdir()) == ["0.json", "1.json"]


def test_an_image_that_was_not_scored_is_named(maps: dict[str, ScoreMaps]) -> None:
    for shard in range(SHARDS):
        write_maps(shard, {})
    with pytest.raises(UserError, match="holds no maps of the image a1"):
        pin()


def test_too_little_memory_is_told(maps: dict[str, ScoreMaps]) -> None:
    run()
    place(walk={"radius": 60, "memory_mb": 1})
    with pytest.raises(UserError, match=r"needs \d+ MB: raise walk\.memory_mb"):
        run_one("walk_scores", shard=assign_shard("b2", SHARDS))
