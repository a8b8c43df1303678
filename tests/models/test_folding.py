"""BatchNorm folded into convolutions, against the backbone as it was."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from rca.models.backbone import Backbone
from rca.models.backbones import build_backbone
from rca.models.folding import fold_batchnorm


def build(name: str) -> Backbone:
    """A backbone whose statistics tell every layer apart and keep the size of its features."""
    torch.manual_seed(0)
    backbone = build_backbone(name, 16).train()
    images = torch.randn(4, 3, 64, 96)
    with torch.no_grad():
        for _ in range(3):
            backbone(images)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.uniform_(-0.1, 0.1)
    return backbone.eval()


@pytest.mark.parametrize("name", ["small", "vgg16", "resnet50", "mobilenet_v2"])
def test_a_folded_backbone_has_the_same_features(name: str) -> None:
    backbone = build(name)
    folded = deepcopy(backbone)
    fold_batchnorm(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(2, 3, 65, 96)
    with torch.no_grad():
        pairs = zip(backbone.extract_levels(images), folded.extract_levels(images), strict=True)
        for expected, found in pairs:
            assert (found - expected).norm() < 1e-4 * expected.norm()
        torch.testing.assert_close(folded(images)[1], folded.extract_levels(images)[3])


def test_a_backbone_of_timm_stays_as_it_is() -> None:
    backbone = build_backbone("timm/resnet18", 16).eval()
    before = [type(module) for module in backbone.modules()]
    fold_batchnorm(backbone)
    assert [type(module) for module in backbone.modules()] == before
