import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import build_settings
from rca.models.backbones import build_backbone
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings, FileWeights, describe, fetch_weights


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v2(weights=None).state_dict()


def write(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def settings(path: Path, name: str = "mobilenet_v2", **changes: object) -> BackboneSettings:
    checksum = hash_file(path) if path.is_file() else "0" * 64
    weights = {"source": "file", "path": str(path), "sha256": checksum, **changes}
    return build_settings(BackboneSettings, {"name": name, "weights": weights}, "backbone", Path("params.yaml"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@torch.no_grad()
def test_a_local_file_fills_the_backbone(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = write(tmp_path / f"weights{suffix}", state)
    fetch_weights(settings(path, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]), tmp_path / "out.safetensors")
    tensors, about = load_tensors(tmp_path / "out.safetensors", "fetch_weights")
    assert (about["mean"], about["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert about["initialisation"] == f"mobilenet_v2 (weights{suffix} {hash_file(path)[:8]})"
    backbone = build_backbone("mobilenet_v2", 16).eval()
    backbone.load_state_dict(tensors)
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(state)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone(image)[1][:, :, ::2, ::2], model.features(image), rtol=1e-3, atol=1e-5)


def test_training_from_scratch_fetches_nothing_and_scales_to_one(tmp_path: Path) -> None:
    given = {"name": "small", "weights": {"source": "none"}}
    scratch = build_settings(BackboneSettings, given, "backbone", Path("params.yaml"))
    fetch_weights(scratch, tmp_path / "out.safetensors")
    tensors, about = load_tensors(tmp_path / "out.safetensors", "fetch_weights")
    assert tensors == {}
    assert about == {"initialisation": "small (from scratch)", "mean": [0.5] * 3, "std": [0.5] * 3}


def tensors_in_order(name: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Tensors in the order of a backbone's layers, which is that of torchvision's."""
    return [tensors[key] for key in build_backbone(name, 8).state_dict()]


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2"])
def test_every_backbone_takes_torchvisions_weights_by_name(tmp_path: Path, name: str) -> None:
    state = torchvision.models.get_model(name, weights=None).state_dict()
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(("classifier", "fc."))}
    path = write(tmp_path / "w.pth", kept)
    fetch_weights(settings(path, name), tmp_path / "out.safetensors")
    tensors, _ = load_tensors(tmp_path / "out.safetensors", "fetch_weights")
    assert len(kept) == len(tensors)
    assert all(torch.equal(one, two) for one, two in zip(kept.values(), tensors_in_order(name, tensors), strict=True))


def test_the_order_of_a_files_keys_does_not_matter(tmp_path: Path, state: dict[str, Tensor]) -> None:
    outputs = []
    for number, one in enumerate((state, dict(reversed(state.items())))):
        path = write(tmp_path / f"{number}.pth", one)
        fetch_weights(settings(path), tmp_path / "out.safetensors")
        outputs.append(load_tensors(tmp_path / "out.safetensors", "fetch_weights")[0])
    assert all(torch.equal(outputs[0][key], outputs[1][key]) for key in outputs[0])


def check_refused(backbone: BackboneSettings, tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        fetch_weights(backbone, tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    check_refused(settings(tmp_path / "gone.pth"), tmp_path, r"gone\.pth does not exist")


def test_a_swapped_file_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = write(tmp_path / "w.pth", state)
    check_refused(settings(path, sha256="ab" * 32), tmp_path, r"w\.pth has the checksum [0-9a-f]{64}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_broken_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"no weights at all")
    check_refused(settings(path), tmp_path, rf"w\{suffix} cannot be read")


def test_a_file_of_another_network_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = write(tmp_path / "w.pth", state)
    check_refused(settings(path, "resnet50"), tmp_path, r"does not fit resnet50: it lacks bn1\.bias and \d+ others")


def test_a_layer_of_another_shape_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = write(tmp_path / "w.pth", {**state, "features.1.conv.1.weight": torch.zeros(16, 31, 1, 1)})
    check_refused(settings(path), tmp_path, r"features\.1\.conv\.1\.weight is \(16, 31, 1, 1\)")


def test_a_file_that_holds_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save([torch.zeros(3)], path)
    check_refused(settings(path), tmp_path, r"w\.pth")


def test_torchvisions_weights_are_named_where_none_fits(tmp_path: Path) -> None:
    given = {"name": "resnet50", "weights": {"source": "torchvision", "name": "IMAGENET22K"}}
    backbone = build_settings(BackboneSettings, given, "backbone", Path("params.yaml"))
    check_refused(backbone, tmp_path, "no weights IMAGENET22K for resnet50: choose one of IMAGENET1K_V1, IMAGENET1K_V2")
    assert describe(backbone) == "resnet50 (torchvision IMAGENET22K)"


def test_the_small_backbone_takes_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no weights for the backbone small"):
        settings(tmp_path / "w.pth", "small")


def test_a_backbone_from_scratch_must_be_trained(tmp_path: Path) -> None:
    given = {"name": "resnet50", "trainable": "none", "weights": {"source": "none"}}
    with pytest.raises(UserError, match="backbone: a backbone without weights must be trained"):
        build_settings(BackboneSettings, given, "backbone", Path("params.yaml"))
    given["weights"] = {"source": "torchvision", "name": "IMAGENET1K_V1"}
    assert build_settings(BackboneSettings, given, "backbone", Path("params.yaml")).trainable == "none"


def test_a_checksum_must_look_like_one() -> None:
    given = {"source": "file", "path": "w.pth", "sha256": "abc"}
    with pytest.raises(UserError, match=r"weights\.sha256"):
        build_settings(FileWeights, given, "weights", Path("params.yaml"))


def wrap_twice(state: dict[str, Tensor]) -> object:
    return {"epoch": 3, "state_dict": {f"module.backbone.{name}": tensor for name, tensor in state.items()}}


# How others save their weights, all of the same tensors.
WRAPPINGS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "network": lambda state: {"network": state},
    "module": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "backbone": lambda state: {f"backbone.{name}": tensor for name, tensor in state.items()},
    "both, wrapped": wrap_twice,
    "with another head": lambda state: (
        {f"backbone.{name}": tensor for name, tensor in state.items()} | {"head.weight": torch.zeros(3)}
    ),
    "no counters": lambda state: {name: state[name] for name in state if not name.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_the_weights_of_others_are_read(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(WRAPPINGS[kind](state), path)
    outputs = []
    for one in (path, write(tmp_path / "plain.pth", state)):
        fetch_weights(settings(one), tmp_path / "out.safetensors")
        outputs.append(load_tensors(tmp_path / "out.safetensors", "fetch_weights")[0])
    assert all(torch.equal(outputs[0][key], outputs[1][key]) for key in outputs[1])


def test_a_python_object_among_weights_is_told_apart(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": state, "args": Namespace(lr=0.1)}, path)
    check_refused(settings(path), tmp_path, r"holds a Python object \(argparse\.Namespace\) beside tensors")


class Touch:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))])
def test_weights_are_never_run(tmp_path: Path, state: dict[str, Tensor], save: Callable[..., object]) -> None:
    save({"state_dict": state, "x": Touch(tmp_path / "ran")}, tmp_path / "w.pth")
    check_refused(settings(tmp_path / "w.pth"), tmp_path, r"w\.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    name = "features.1.conv.1.weight"
    path = write(tmp_path / "w.pth", {**state, name: torch.full_like(state[name], torch.nan)})
    check_refused(settings(path), tmp_path, rf"holds values in {name} that are not finite")


@pytest.mark.parametrize("std", [[0, 1, 1], [-1, 1, 1], [1e300, 1, 1], [1, 1]])
def test_a_spread_of_nothing_is_refused(tmp_path: Path, std: list[float]) -> None:
    with pytest.raises(UserError, match="std"):
        settings(tmp_path / "w.pth", std=std)


def test_a_wrapping_that_holds_itself_is_refused(tmp_path: Path) -> None:
    circle: dict[str, object] = {}
    circle["model"] = circle
    torch.save(circle, tmp_path / "w.pth")
    check_refused(settings(tmp_path / "w.pth"), tmp_path, "holds no state dict")
