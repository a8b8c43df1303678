"""The stage that trains the classification network, on a few small pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stages import PREPARE, locate, run_stage, run_stages, shrink_preset, write_params

from rca.core.files import hash_file
from rca.data.manifest import read_manifest
from rca.data.partition import write_parts
from rca.models.storage import load_tensors
from rca.stages.base.layout import RunLayout
from rca.stages.base.pins import Instance


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The embedded preset cut down, in an empty folder; the stages before the training have run."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=4, val=2, epochs=4, batch_size=2)
    head = {"convolutions": 1, "channels": 4}
    params["run"]["rca"]["options"] = {"memory": {"size": 5, "gate": 0}, "aggregation": {"form": "none"}, "head": head}
    params["train_cam"]["snapshot_every"] = 2
    write_params(params)
    run_stages(*PREPARE)
    return params


def train(params: dict, seed: int = 0) -> RunLayout:
    write_params(params)
    run_stages(*(Instance(stage, run="rca", seed=seed) for stage in ("train_cam", "snapshot_memory")))
    return locate("rca", seed)


def test_the_memory_is_kept_over_the_training(params: dict) -> None:
    paths = train(params)
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
    params["dataset"]["sources"] = {"web": {}}
    params["run"]["rca"]["train_cam"] = {"sources": ["web"]}
    write_params(params)
    assert run_stage("train_cam", run="rca", seed=0) == 2
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
    tensors, about = load_tensors(train(params).memory, "snapshot_memory")
    boxes = tensors["memory.box"][tensors["memory.image"] >= 0]
    assert about["images"] == [f"train_{number:05d}" for number in range(4)]  # what was trained on
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes.min() >= -1e-3
    assert boxes.max() <= 48 + 1e-3


def test_a_training_starts_from_a_snapshot_of_another(params: dict, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(params)
    params["train_cam"]["start"] = {
        "network": str(first.network),
        "network_sha256": hash_file(first.network),
        "memory": str(first.memory),
        "memory_sha256": hash_file(first.memory),
    }
    params["train_cam"]["optimisation"]["epochs"] = 1
    second = train(params, seed=1)
    before, _ = load_tensors(first.memory, "snapshot_memory")
    after, _ = load_tensors(second.memory, "snapshot_memory")
    assert (after["memory.written"] - before["memory.written"] > 0).any()
    assert (after["memory.written"] >= before["memory.written"]).all()
    one, two = (load_tensors(paths.network, "train_cam")[0]["backbone.low.0.0.weight"] for paths in (first, second))
    assert torch.allclose(one, two, atol=0.02)  # one epoch from there, not from a random start
    params["train_cam"]["start"]["memory_sha256"] = "0" * 64
    write_params(params)
    capsys.readouterr()
    assert run_stage("train_cam", run="rca", seed=1) == 2
    assert "set train_cam.start.memory_sha256 to it" in capsys.readouterr().err
