from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn

from rca.models.backbone import Backbone
from rca.models.backbones import OutputStride, build_backbone

CHANNELS = {"small": (48, 128), "vgg16": (128, 512), "resnet50": (256, 2048), "mobilenet_v2": (24, 1280)}
SIZES = [(97, 65), (64, 96)]


def draw_image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@cache
def build(name: str, stride: OutputStride) -> Backbone:
    """One of each for the whole file: VGG takes a second to build."""
    return build_backbone(name, stride).eval()


def build_original(name: str) -> nn.Module:
    """Torchvision's features at stride 32 with statistics that tell every layer apart."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.05, 0.05)
            module.running_var.uniform_(0.5, 1.0)
    # A ResNet ends with its pooling and its classifier.
    features = model.features if hasattr(model, "features") else nn.Sequential(*list(model.children())[:-2])
    return features.eval()


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Layer by layer in their order: the names differ."""
    tensors = list(source.state_dict().values())
    names = list(target.state_dict())
    assert len(tensors) == len(names)
    target.load_state_dict(dict(zip(names, tensors, strict=True)))


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(("height", "width"), [(70, 45), (33, 64)])
@torch.no_grad()
def test_features_have_the_requested_stride(name: str, stride: OutputStride, height: int, width: int) -> None:
    backbone = build(name, stride)
    low, high = backbone(draw_image(height, width))
    assert (backbone.low_channels, backbone.channels) == CHANNELS[name]
    assert (low.shape[1], high.shape[1]) == CHANNELS[name]
    for features, step in ((low, 4), (high, stride)):
        for found, side in zip(features.shape[2:], (height, width), strict=True):
            # VGG's pooling drops what does not fill a window, the others round up.
            assert found == (side // step if name == "vgg16" else -(-side // step))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(("height", "width"), SIZES)
@torch.no_grad()
def test_dilation_in_place_of_stride_keeps_what_the_original_computes(
    name: str, stride: OutputStride, height: int, width: int
) -> None:
    """At every second position (stride 16), or fourth (8), stands what torchvision's network gives at stride 32."""
    original, backbone = build_original(name), build(name, stride)
    copy_weights(original, backbone)
    image = draw_image(height, width)
    expected, found = original(image), backbone(image)[1]
    step = 32 // stride
    scale = expected.abs().max()
    assert scale > 1e-3
    torch.testing.assert_close(found[:, :, ::step, ::step] / scale, expected / scale, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_vgg_at_stride_16_is_the_original_without_its_last_pooling() -> None:
    original, backbone = build_original("vgg16"), build("vgg16", 16)
    copy_weights(original, backbone)
    image = draw_image(70, 45)
    torch.testing.assert_close(backbone(image)[1], original[:30](image))


def test_vgg_at_stride_8_dilates_only_its_last_block() -> None:
    backbone = build("vgg16", 8)
    convolutions = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation[0] for layer in convolutions] == [1] * 10 + [2] * 3
    assert all(layer.padding == layer.dilation for layer in convolutions)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("stride", [8, 16])
@torch.no_grad()
def test_earlier_levels_lie_on_the_way_to_the_features(name: str, stride: OutputStride) -> None:
    backbone, image = build(name, stride), draw_image(70, 45)
    first, *levels, features = backbone.extract_levels(image)
    low, expected = backbone(image)
    torch.testing.assert_close(first, low)
    torch.testing.assert_close(features, expected)
    assert tuple(level.shape[1] for level in levels) == backbone.level_channels
    heights = [one.shape[2] for one in (low, *levels, features)]
    assert heights == sorted(heights, reverse=True)
    for end, level in zip(backbone.levels, levels, strict=True):
        torch.testing.assert_close(backbone.high[end:](level), expected)


@torch.no_grad()
def test_earlier_levels_of_a_resnet_end_with_its_middle_stages() -> None:
    original, backbone, image = build_original("resnet50"), build("resnet50", 16), draw_image(64, 96)
    copy_weights(original, backbone)
    _, one, two, _ = backbone.extract_levels(image)
    expected = original[:6](image)  # conv1, bn1, relu, maxpool, layer1, layer2
    torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(two, original[6](expected), rtol=1e-3, atol=1e-4)


def test_a_resnet101_is_a_deeper_resnet50() -> None:
    blocks = [len(build_backbone(name, 16).high[1]) for name in ("resnet50", "resnet101")]
    assert blocks == [6, 23]


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("vgg16", 6), ("resnet50", 30), ("mobilenet_v2", 39), ("small", 6)],  # weights and biases of conv5, layer4, ...
)
def test_only_the_last_stage_is_trained(name: str, tensors: int) -> None:
    backbone = build_backbone(name, 16)
    backbone.train_parts("last_stage")
    trained = [key for key, one in backbone.named_parameters() if one.requires_grad]
    keys = [key for key, _ in backbone.named_parameters()]
    assert trained == keys[-tensors:]
    if name == "resnet50":
        assert all(key.startswith("high.2.") for key in trained)
    backbone.train_parts("none")
    assert not any(one.requires_grad for one in backbone.parameters())
    backbone.train_parts("all")
    assert all(one.requires_grad for one in backbone.parameters())
