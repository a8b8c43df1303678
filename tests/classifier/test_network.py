from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rca.classifier.network import (
    CamNetwork,
    NetworkDescription,
    load_network,
    save_network,
)
from rca.classifier.registry import load_method
from rca.core.errors import UserError
from rca.data.loading.images import Sample
from rca.models.output import Output
from rca.models.storage import save_tensors

OPTIONS = {"memory": {"size": 5, "gate": 0.0}, "aggregation": {"prototypes": 2}, "head": {"channels": 4}}
PLAIN = NetworkDescription(
    "small", 8, 0, "cam", "cam", {}, ("a", "b", "c"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "from scratch"
)
RCA = replace(PLAIN, neck=10, method="rca", options=OPTIONS)


def draw_batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(4, 3, 41, 53, generator=torch.Generator().manual_seed(0))
    return images, torch.ones(4, 1, 41, 53)


def build(description: NetworkDescription) -> CamNetwork:
    """A network whose memory is not empty."""
    torch.manual_seed(0)
    network = CamNetwork(description)
    images, valid = draw_batch()
    frame = torch.tensor([1.0, 0, 1, 0]).repeat(4, 1)
    batch = Sample(images, valid, torch.ones(4, 3), torch.zeros(4, 41, 53).long(), torch.arange(4), frame)
    network.method.compute_losses(network(images, valid), batch, epoch=0)
    network.method.start_epoch(1, seed=0)
    return network.eval()


@torch.no_grad()
def score(network: CamNetwork) -> Output:
    return network(*draw_batch())


@pytest.mark.parametrize("description", [PLAIN, RCA], ids=["cam", "rca"])
def test_a_network_is_loaded_as_it_was_saved(tmp_path: Path, description: NetworkDescription) -> None:
    network = build(description)
    save_network(tmp_path / "network.safetensors", network)
    loaded = load_network(tmp_path / "network.safetensors", {})
    assert loaded.description == description
    assert not loaded.training
    before, after = score(network), score(loaded)
    assert before.extras.keys() == after.extras.keys()
    for one, two in zip([*before[:-1], *before.extras.values()], [*after[:-1], *after.extras.values()], strict=True):
        assert one is two is None or torch.equal(one, two)


def test_a_network_saved_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_network(tmp_path / name, build(RCA))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_loaded_memory_replaces_the_memory_of_the_network(tmp_path: Path) -> None:
    network = build(RCA)
    save_network(tmp_path / "network.safetensors", network)
    memory = {name: tensor.clone() for name, tensor in network.method.memory_state().items()}
    memory["prototypes"] = memory["prototypes"].flip(2)
    loaded = load_network(tmp_path / "network.safetensors", memory)
    assert torch.equal(loaded.method.prototypes, memory["prototypes"])
    assert torch.equal(loaded.method.memory.entries, network.method.memory.entries)
    assert not torch.allclose(score(loaded).maps, score(network).maps)
    assert torch.equal(score(loaded).extras["plain"], score(network).extras["plain"])


def test_there_is_one_map_per_class_at_the_output_stride() -> None:
    for description, channels in ((PLAIN, 128), (RCA, 10)):
        output = score(build(description))
        assert output.maps.shape == (4, 3, 6, 7)
        assert output.features.shape == (4, channels, 6, 7)
        assert output.valid.shape == (4, 1, 6, 7)


def test_the_valid_region_excludes_padding() -> None:
    network = build(PLAIN)
    images, valid = draw_batch()
    valid[:, :, :, 26:] = 0
    found = network(images, valid).valid[0, 0]
    assert (found[:, :3] == 1).all()
    assert (found[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "hscc"}, r"There is no method hscc: choose one of .*cam.*rca"),
        ({"method": "memory"}, "There is no method memory"),
        ({"method": "../errors"}, "There is no method"),
        ({"host": "vgg"}, r"There is no host vgg: choose one of .*cam"),
        ({"options": {"memory": {"sise": 3}}}, r"options\.memory\.sise is an unknown key"),
        ({"options": {"memory": {"size": -1}}}, r"options\.memory\.size is -1"),
        ({"options": {"contrast": {"weight": "0.1"}}}, r"options\.contrast\.weight is \"0\.1\""),
        ({"method": "cam"}, r"options\.memory is an unknown key"),
        ({"host_options": {"memory": {}}}, r"host cam: host_options\.memory is an unknown key"),
    ],
)
def test_an_invalid_description_raises_a_clear_error(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CamNetwork(replace(RCA, **change))


def test_a_refused_pair_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_method("rca"), "refuses", {"cam": "its classifier is too plain"})
    with pytest.raises(UserError, match="the network: the method rca does not work with the host cam: its cl"):
        CamNetwork(RCA)


def test_a_network_file_without_host_options_is_loaded(tmp_path: Path) -> None:
    network, path = build(PLAIN), tmp_path / "network.safetensors"
    fields = asdict(network.description)
    del fields["host_options"]
    save_tensors(path, network.state_dict(), fields)
    assert load_network(path, {}).description == PLAIN


@pytest.mark.parametrize("threshold", ["mean", 0.3])
def test_a_region_threshold_may_be_a_word_or_a_number(threshold: str | float) -> None:
    network = CamNetwork(replace(RCA, options={"region_threshold": threshold}))
    assert network.method.options.region_threshold == threshold


def test_the_plain_method_has_no_memory() -> None:
    assert build(PLAIN).method.memory_state() == {}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    "damage", [truncate, lambda path: path.write_bytes(b"junk"), lambda path: save_file({"a": torch.zeros(2)}, path)]
)
def test_a_broken_network_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "network.safetensors"
    save_network(path, build(PLAIN))
    damage(path)
    with pytest.raises(UserError, match=r"network\.safetensors is (broken \(.*\): delete it|not of this project)"):
        load_network(path, {})


def test_a_missing_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone does not exist: run train_cam first"):
        load_network(tmp_path / "gone", {})


@pytest.mark.parametrize("description", [PLAIN, RCA], ids=["cam", "rca"])
def test_an_image_counts_by_its_weight(description: NetworkDescription) -> None:
    """The loss is the mean of weight times cross-entropy; a weight of 0 is as if the image had given no gradient."""
    images, valid = draw_batch()
    tags, weight = torch.eye(4, 3), torch.tensor([1.0, 0, 0.25, 0.5])
    frame = torch.tensor([1.0, 0, 1, 0]).repeat(4, 1)
    batch = Sample(images, valid, tags, torch.zeros(4, 41, 53).long(), torch.arange(4), frame, weight)
    network = build(description)
    output = network(images, valid)
    losses = network.method.compute_losses(output, batch, epoch=0)
    maps = {"classification": (output.maps, 1.0)}
    if "plain" in output.extras:
        maps["auxiliary"] = (output.extras["plain"], 0.4)
    for name, (scored, share) in maps.items():
        scores = scored.double().mean((2, 3)).sigmoid()
        entropy = -(tags * scores.log() + (1 - tags) * (1 - scores).log()).mean(1)
        torch.testing.assert_close(losses[name].double(), share * (weight * entropy).sum() / 4)
    (gradient,) = torch.autograd.grad(losses["classification"], output.maps)
    assert gradient.flatten(1).norm(dim=1).gt(0).tolist() == [True, False, True, True]
