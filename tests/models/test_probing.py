"""Whose weights a file holds. tests/cli/test_doctor.py tests where weights are."""

from pathlib import Path

import pytest
import torch
import torchvision

from rca.core.errors import UserError
from rca.models import probing
from rca.models.probing import find_backbone


@pytest.mark.parametrize("first", ["resnet50", "resnet101", "small"])
@pytest.mark.parametrize("name", ["resnet50", "resnet101", "vgg16", "mobilenet_v2"])
def test_a_file_tells_its_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: str) -> None:
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in torchvision.models.get_model(name).state_dict().items()}
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}  # takes no memory
    monkeypatch.setattr(probing, "read_state", lambda weights: state)
    (tmp_path / "weights.pth").touch()
    assert find_backbone(tmp_path / "weights.pth", first)[0] == name


def test_other_tensors_fit_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "read_state", lambda weights: {"layer": torch.zeros(3)})
    (tmp_path / "weights.pth").touch()
    with pytest.raises(UserError, match="fits none of the backbones vgg16, resnet50"):
        find_backbone(tmp_path / "weights.pth", "vgg16")
