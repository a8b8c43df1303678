"""The stage that trains the classification network, on a few small pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from rca.core.files import hash_file
from rca.core.settings import load_params
from rca.data.manifest import read_manifest
from rca.data.partition import write_parts
from rca.models.storage import load_tensors
from rca.stages.context import Context
from rca.stages.run import run_stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The embedded preset cut down, in an empty folder; the stages before the training have run."""
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "workflow/presets/shapes.yaml")
    params["generate"] = {"shapes": {"train": 4, "val": 2, "size": 48, "seed": 0, "objects": [1, 2]}}
    params["run"]["rca"]["options"] = {"memory": {"size": 5, "gate": 0}, "aggregation": {"form": "none"}}
    params["train_cam"]["optimisation"].update(epochs=4, batch_size=2)
    params["train_cam"]["augmentation"]["crop"] = 48
    params["train_cam"]["snapshot_every"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(params))
    stages = [Context("generate_data", item="shapes"), Context("prepare_data"), Context("pin_method", run="rca")]
    for context in (*stages, Context("fetch_weights", item="train_cam")):
        assert run_stage(context) == 0
    return params


def train(params: dict, seed: int = 0) -> Context:
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("train_cam", "snapshot_memory"):
        assert run_stage(Context(stage, run="rca", seed=seed)) == 0
    return Context("train_cam", run="rca", seed=seed)


def test_the_memory_is_kept_over_the_training(params: dict) -> None:
    paths = train(params).paths
    kept = sorted(paths.memory_history.iterdir())
    assert [path.name for path in kept] == ["epoch-0002.safetensors", "epoch-0004.safetensors"]
    early, about = load_tensors(kept[0], "train_cam")
    final, last = load_tensors(paths.memory, "snapshot_memory")
    assert (about["epochs"], last["epochs"]) == (2, 4)
    assert last["network_sha256"] == hash_file(paths.network)
    written = early["memory.epoch"][early["memory.epoch"] >= 0]
    assert set(written.tolist()) <= {0, 1}
    assert final["memory.epoch"].max() == 3
    assert (final["memory.written"] == 2 * early["memory.written"]).all()  # each image enters once in an epoch
    end, _ = load_tensors(kept[1], "train_cam")
    assert all(torch.equal(tensor, end[name]) for name, tensor in final.items())
    assert not list(Path(".rca/checkpoints").iterdir())


def test_extra_sources_are_trained_on_where_a_run_asks_for_them(params: dict, capsys: pytest.CaptureFixture) -> None:
    params["run"]["rca"]["train_cam"] = {"sources": ["web"]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert run_stage(Context("train_cam", run="rca", seed=0)) == 2
    assert "There is no source web: the dataset's sources are none." in capsys.readouterr().err
    path = Path("runs/shapes/data")
    manifest = read_manifest(path)
    images = tuple(
        replace(record, splits=(), source="web", weight=0.5) if "val" in record.splits else record
        for record in manifest.images
    )
    write_parts(path, replace(manifest, images=images), [0, 1])
    train(params)
    assert capsys.readouterr().out.startswith("6 images, ")
    params["run"]["rca"]["train_cam"] = {}
    train(params)
    assert capsys.readouterr().out.startswith("4 images, ")


def test_boxes_lie_in_their_photographs(params: dict) -> None:
    tensors, about = load_tensors(train(params).paths.memory, "snapshot_memory")
    boxes = tensors["memory.box"][tensors["memory.image"] >= 0]
    assert about["images"] == [f"train_{number:05d}" for number in range(4)]  # what was trained on
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes.min() >= -1e-3
    assert boxes.max() <= 48 + 1e-3


def test_a_training_starts_from_a_snapshot_of_another(params: dict, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(params).paths
    params["train_cam"]["start"] = {
        "network": str(first.network),
        "network_sha256": hash_file(first.network),
        "memory": str(first.memory),
        "memory_sha256": hash_file(first.memory),
    }
    params["train_cam"]["optimisation"]["epochs"] = 1
    second = train(params, seed=1).paths
    before, _ = load_tensors(first.memory, "snapshot_memory")
    after, _ = load_tensors(second.memory, "snapshot_memory")
    assert (after["memory.written"] - before["memory.written"] > 0).any()
    assert (after["memory.written"] >= before["memory.written"]).all()
    one, two = (load_tensors(paths.network, "train_cam")[0]["backbone.low.0.0.weight"] for paths in (first, second))
    assert torch.allclose(one, two, atol=0.02)  # one epoch from there, not from a random start
    params["train_cam"]["start"]["memory_sha256"] = "0" * 64
    Path("params.yaml").write_text(yaml.safe_dump(params))
    capsys.readouterr()
    assert run_stage(Context("train_cam", run="rca", seed=1)) == 2
    assert "set train_cam.start.memory_sha256 to it." in capsys.readouterr().err
