"""A run that trains no network: it takes another's, fills a memory, and is scored with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stages import PREPARE, locate, prepare, run_stage, run_stages, shrink_preset, write_params

from rca.classifier.inference import score_images
from rca.classifier.network import load_network
from rca.data.manifest import read_manifest
from rca.labels.score_maps import open_shard
from rca.models.storage import load_tensors
from rca.stages.base.pins import Instance
from rca.stages.evaluate import list_stale

BASE, TAKEN = locate("cam"), locate("taken")
TRAIN = Instance("train_cam", run="cam", seed=0)
TAKE, FILL = (Instance(stage, run="taken", seed=0) for stage in ("take_network", "snapshot_memory"))
SCORE = Instance("make_cam", run="taken", seed=0, shard=0)
RUN = {
    "base": "cam",
    "train": "none",
    "method": "rca_extended",
    "options": {"memory": {"size": 12, "prototypes": 2, "object": 0.5, "context": 0.4}},
}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The embedded preset cut down, and a run that takes the network of cam, which is trained."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=9, val=3, epochs=3, batch_size=3)
    params["run"]["taken"] = dict(RUN)
    params.update(runs=["cam", "taken"], seeds=[0], shards=[0])
    write_params(params)
    run_stages(*PREPARE, TRAIN)
    return params


def test_a_network_is_taken_and_its_memory_is_filled_and_used(params: dict) -> None:
    run_stages(TAKE)
    base, taken = (load_network(paths.network, {}) for paths in (BASE, TAKEN))
    assert taken.description.method == "rca_extended"
    assert (taken.description.classes, taken.description.epochs) == (base.description.classes, 3)
    weights = {name: tensor for name, tensor in taken.state_dict().items() if name in base.state_dict()}
    assert all(torch.equal(tensor, base.state_dict()[name]) for name, tensor in weights.items())
    assert weights.keys() == base.state_dict().keys()
    memory = {f"method.{name}" for name in taken.method.memory_state()}
    assert taken.state_dict().keys() - weights.keys() == memory
    assert not taken.method.memory.written.any()
    assert not taken.method.prototypes_usable.any()

    before = TAKEN.network.read_bytes()
    run_stages(FILL)
    assert TAKEN.network.read_bytes() == before
    tensors, about = load_tensors(TAKEN.memory, "snapshot_memory")
    classes = base.description.classes
    assert about["classes"] == [*classes, *(f"context of {name}" for name in classes)]
    assert (about["run"], about["seed"], about["epochs"]) == ("taken", 0, 3)
    manifest = read_manifest(TAKEN.dataset.manifest, "splits/train")
    shown = {label for record in manifest.images for label in record.tags}
    assert about["images"] == [record.id for record in manifest.images]
    for row, written in enumerate(tensors["memory.written"].tolist()):
        assert not written or row % len(classes) in shown
        images = tensors["memory.image"][row, :written].tolist()
        assert all(row % len(classes) in manifest.images[image].tags for image in images)
    assert all((tensors["memory.written"].unflatten(0, (2, -1)) > 0).any(1))  # objects and contexts
    run_stages(FILL)
    again, _ = load_tensors(TAKEN.memory, "snapshot_memory")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())

    run_stages(SCORE)
    records = read_manifest(TAKEN.dataset.manifest, "shards/0")
    _, task = prepare("make_cam", run="taken", seed=0, shard=0)
    full, empty = load_network(TAKEN.network, tensors), taken
    differ = []
    with open_shard(TAKEN.maps_of(0, "scores")) as shard:
        for network in (full, empty):
            scored = score_images(network, records, records.images, task.inference, task.stride)
            differ.append(max(np.abs(shard.read(one.id).scores - maps.scores).max() for one, maps in scored))
    assert differ[0] < 2e-3
    assert differ[1] > 0.1


@pytest.mark.parametrize("method", ["mcis", "rca"])
def test_a_method_that_trains_weights_of_its_own_is_refused(
    params: dict, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    params["run"]["taken"] = {"base": "cam", "train": "none", "method": method}
    write_params(params)
    assert run_stage("take_network", run="taken", seed=0) == 2
    assert not TAKEN.network.exists()
    message = capfd.readouterr().err
    assert "run taken: the network of cam has no method." in message
    assert f"which the method {method} trains: remove run.taken.train, so that the run trains" in message


def test_a_run_that_takes_a_network_leaves_no_history_of_an_earlier_training(params: dict) -> None:
    _, task = prepare("evaluate", run="taken", seed=0)
    assert {TAKEN.memory_history, TAKEN.cam_history} <= set(list_stale(TAKEN, task))
    _, task = prepare("evaluate", run="cam", seed=0)
    assert not {BASE.memory_history, BASE.cam_history} & set(list_stale(BASE, task))
