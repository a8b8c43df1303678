from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rca.classifier.network import CamNetwork, NetworkDescription, save_network
from rca.classifier.snapshots import StartSettings, save_snapshot, start_from
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.data.loading.images import Sample
from rca.data.manifest import ImageRecord, Manifest
from rca.models.storage import load_tensors

OPTIONS = {"memory": {"size": 5, "gate": 0.0}, "aggregation": {"prototypes": 2}, "head": {"convolutions": 0}}
ABOUT = NetworkDescription(
    "small", 8, 10, "cam", "rca", OPTIONS, ("a", "b", "c"), (0.5,) * 3, (0.3,) * 3, "from scratch", epochs=7
)


def build(seed: int, learn: bool, description: NetworkDescription = ABOUT) -> CamNetwork:
    """A network; if trained, with a memory of the images at positions 1 to 4."""
    torch.manual_seed(seed)
    network = CamNetwork(description)
    if learn:
        images, valid = torch.randn(4, 3, 41, 53), torch.ones(4, 1, 41, 53)
        frame = torch.tensor([1.0, 0, 1, 0]).repeat(4, 1)
        batch = Sample(images, valid, torch.ones(4, 3), torch.zeros(4, 41, 53).long(), torch.arange(4) + 1, frame)
        network.method.compute_losses(network(images, valid), batch, epoch=0)
        network.method.start_epoch(1, seed=0)
    return network


def make_manifest(ids: list[str], tmp_path: Path) -> Manifest:
    records = tuple(ImageRecord(one, f"{one}.jpg", None, 53, 41, (0,), ("train",), "main", "0" * 64) for one in ids)
    return Manifest(root=tmp_path, classes=ABOUT.classes, images=records)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_manifest(["i0", "i1", "i2", "i3", "i4"], tmp_path)


@pytest.fixture
def files(tmp_path: Path, manifest: Manifest) -> tuple[CamNetwork, StartSettings]:
    """A trained network, and the files of the network and its memory."""
    network = build(0, learn=True)
    save_network(tmp_path / "network.safetensors", network)
    checksum = hash_file(tmp_path / "network.safetensors")
    save_snapshot(tmp_path / "memory.safetensors", network, manifest, "rca", 3, 7, checksum)
    return network, StartSettings(
        network=tmp_path / "network.safetensors",
        network_sha256=checksum,
        memory=tmp_path / "memory.safetensors",
        memory_sha256=hash_file(tmp_path / "memory.safetensors"),
    )


def test_a_snapshot_names_the_images_of_its_entries(files: tuple[CamNetwork, StartSettings], tmp_path: Path) -> None:
    network, start = files
    tensors, about = load_tensors(start.memory, "snapshot_memory")
    assert about["classes"] == ["a", "b", "c"]
    assert (about["run"], about["seed"], about["epochs"]) == ("rca", 3, 7)
    assert about["network_sha256"] == start.network_sha256
    found = {about["images"][one] for one in tensors["memory.image"][tensors["memory.image"] >= 0].tolist()}
    assert found == {"i1", "i2", "i3", "i4"}
    assert all(torch.equal(tensors[name], value) for name, value in network.method.memory_state().items())


def test_a_training_starts_from_the_network_and_memory_of_another(files: tuple[CamNetwork, StartSettings]) -> None:
    trained, start = files
    fresh = build(1, learn=False)
    before = fresh.state_dict()["method.host.classifier.weight"].clone()
    start_from(fresh, make_manifest(["new", "i4", "i3", "i2"], Path()), start)
    expected = trained.state_dict()
    for name, tensor in fresh.state_dict().items():
        if name != "method.memory.image":
            assert torch.equal(tensor, expected[name]), name
    assert not torch.equal(before, expected["method.host.classifier.weight"])
    # i1 is not among the new images; i2, i3 and i4 have other places there.
    places = {1: -1, 2: 3, 3: 2, 4: 1, -1: -1}
    wanted = expected["method.memory.image"].apply_(lambda one: places[one])
    assert torch.equal(fresh.method.memory.image, wanted)


def test_a_memory_alone_leaves_the_weights(files: tuple[CamNetwork, StartSettings], manifest: Manifest) -> None:
    trained, start = files
    fresh, untouched = build(1, learn=False), build(1, learn=False)
    start_from(fresh, manifest, start.model_copy(update={"network": None}))
    for (name, one), other in zip(fresh.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert torch.equal(fresh.method.memory.entries, trained.method.memory.entries)


def test_a_network_alone_leaves_the_memory_empty(files: tuple[CamNetwork, StartSettings], manifest: Manifest) -> None:
    _, start = files
    fresh = build(1, learn=False)
    start_from(fresh, manifest, start.model_copy(update={"memory": None}))
    assert fresh.method.memory.written.sum() == 0


def test_without_start_files_nothing_changes(manifest: Manifest) -> None:
    fresh, untouched = build(1, learn=False), build(1, learn=False)
    start_from(fresh, manifest, StartSettings())
    assert all(torch.equal(one, untouched.state_dict()[name]) for name, one in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": Path("gone.safetensors")}, r"gone\.safetensors does not exist: set train_cam\.start\.memory"),
        ({"memory_sha256": "0" * 64}, r"memory\.safetensors has the checksum .*: set train_cam\.start\.memory_sha256"),
        ({"network_sha256": None}, r"network\.safetensors has the checksum .*network_sha256"),
    ],
)
def test_a_missing_or_changed_start_file_raises_a_clear_error(
    files: tuple[CamNetwork, StartSettings], manifest: Manifest, change: dict, message: str
) -> None:
    _, start = files
    with pytest.raises(UserError, match=message):
        start_from(build(1, learn=False), manifest, start.model_copy(update=change))


def test_a_start_file_that_does_not_fit_raises_a_clear_error(
    files: tuple[CamNetwork, StartSettings], manifest: Manifest
) -> None:
    _, start = files
    smaller = replace(ABOUT, options={**OPTIONS, "memory": {"size": 4}})
    with pytest.raises(UserError, match=r"does not fit the network: its method\.memory\.\w+ is \(3, 5"):
        start_from(build(1, False, smaller), manifest, start.model_copy(update={"network": None}))
    others = replace(ABOUT, classes=("a", "b", "d"))
    with pytest.raises(UserError, match="no snapshot of a memory with the rows a, b, d:"):
        start_from(build(1, False, others), manifest, start.model_copy(update={"network": None}))
    narrow = replace(ABOUT, neck=6)
    with pytest.raises(UserError, match=r"network\.safetensors does not fit the network: its "):
        start_from(build(1, False, narrow), manifest, start)
