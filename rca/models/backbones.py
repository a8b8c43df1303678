"""Backbones behind one interface: convolutional ones at output stride 8 or 16, and timm's.

Dilation replaces the strides that would exceed the output stride (Chen et al., DeepLab, 2018, section 3.1), so that
ImageNet weights still fit. Torchvision takes a second to import, so it is imported only to build a backbone.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor, nn

from rca.core.errors import UserError
from rca.models.backbone import Backbone

NAMES = ("small", "vgg16", "resnet50", "resnet101", "mobilenet_v2")
OutputStride = Literal[8, 16, 32]


class SequentialBackbone(Backbone):
    """A backbone of consecutive layers.

    Args:
        low: The layers from the image to the features at stride 4, which the decoder of DeepLab-V3+ uses.
        high: The layers from there to the features at the output stride.
        low_channels: Channels after `low`.
        channels: Channels after `high`.
        levels: Numbers of layers of `high` after which the two earlier levels end.
        level_channels: Channels of the two earlier levels.
        last: Number of layers at the end of `high` that make up the last stage.
    """

    def __init__(
        self,
        low: nn.Module,
        high: nn.Sequential,
        low_channels: int,
        channels: int,
        levels: tuple[int, int],
        level_channels: tuple[int, int],
        last: int,
    ) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.low_channels = low_channels
        self.channels = channels
        self.levels = levels
        self.level_channels = level_channels
        self.last = last

    def list_last_stage(self) -> Sequence[nn.Module]:
        """The last layers of `high`."""
        return list(self.high[-self.last :])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract features, see `Backbone.forward`."""
        low = self.low(images)
        return low, self.high(low)

    def extract_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of all four levels, see `Backbone.extract_levels`."""
        features, start = self.low(images), 0
        levels = [features]
        for end in (*self.levels, len(self.high)):
            features, start = self.high[start:end](features), end
            levels.append(features)
        return tuple(levels)


def find_problem(name: str, output_stride: OutputStride) -> str:
    """The reason why a backbone cannot be built, as part of a sentence; empty if it seems possible."""
    if name.startswith("timm/"):
        from rca.models import timm_backbones

        return timm_backbones.find_problem(name)
    if name not in NAMES:
        return f"there is no backbone {name}: choose one of {', '.join(NAMES)}, or timm/ and a model of timm"
    if output_stride == 32:
        return f"the features of {name} are at stride 8 or 16: set output_stride to one of them"
    return ""


def build_backbone(name: str, output_stride: OutputStride) -> Backbone:
    """Build a backbone with random weights.

    Args:
        name: "small" has 0.3 million weights, for training from scratch; `timm/<model>` is an image model of timm; the
            others are torchvision's.
        output_stride: Pixels of the image per feature; 32 is for models of timm that cannot be dilated.

    Raises:
        UserError: there is no such backbone, or it does not support the output stride.
    """
    if problem := find_problem(name, output_stride):
        raise UserError(f"The backbone {name} cannot be built: {problem}.")
    if name.startswith("timm/"):
        from rca.models.timm_backbones import TimmBackbone

        return TimmBackbone(name, output_stride)
    if name == "small":
        return _build_small(output_stride)
    if name == "vgg16":
        return _build_vgg16(output_stride)
    if name == "mobilenet_v2":
        return _build_mobilenet_v2(output_stride)
    return _build_resnet(name, output_stride)


def _dilate(modules: Iterable[nn.Module], dilation: int) -> None:
    """Turn strides into dilation: the first strided layer loses its stride, the layers after it are dilated."""
    seen_stride = False
    for module in modules:
        for layer in module.modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            after_stride = seen_stride
            if layer.stride != (1, 1):
                layer.stride = (1, 1)
                seen_stride = True
            size = layer.kernel_size[0]
            if size > 1:
                # The layer that lost its stride still gets features without dilation.
                rate = dilation if after_stride else max(dilation // 2, 1)
                layer.dilation = (rate, rate)
                layer.padding = (rate * (size - 1) // 2,) * 2


def _build_mobilenet_v2(output_stride: OutputStride) -> Backbone:
    import torchvision

    blocks = torchvision.models.mobilenet_v2(weights=None).features
    # Blocks 7 and 14 begin strides 16 and 32.
    if output_stride == 8:
        _dilate(blocks[7:14], 2)
        _dilate(blocks[14:], 4)
    else:
        _dilate(blocks[14:], 2)
    # The last stage is the one that begins stride 32.
    return SequentialBackbone(blocks[:4], blocks[4:], 24, 1280, (3, 10), (32, 96), last=5)


def _build_resnet(name: str, output_stride: OutputStride) -> Backbone:
    import torchvision

    build = {"resnet50": torchvision.models.resnet50, "resnet101": torchvision.models.resnet101}[name]
    dilate = [False, output_stride == 8, True]
    net = build(weights=None, replace_stride_with_dilation=dilate)
    low = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
    return SequentialBackbone(
        low, nn.Sequential(net.layer2, net.layer3, net.layer4), 256, 2048, (1, 2), (512, 1024), last=1
    )


def _build_vgg16(output_stride: OutputStride) -> Backbone:
    import torchvision

    layers = torchvision.models.vgg16(weights=None).features
    # pool5 is dropped; at stride 8 pool4 loses its stride but keeps its window, and conv5 is dilated (DeepLab-V1).
    high = layers[10:30]
    if output_stride == 8:
        high[23 - 10] = nn.MaxPool2d(3, stride=1, padding=1)
        for layer in high[24 - 10 :]:
            if isinstance(layer, nn.Conv2d):
                layer.dilation = layer.padding = (2, 2)
    return SequentialBackbone(
        layers[:10], high, 128, 512, (7, 14), (256, 512), last=6
    )  # each level ends with its pooling


def _build_small(output_stride: OutputStride) -> Backbone:
    strides = {8: (2, 2, 1, 2, 1), 16: (2, 2, 2, 2, 1)}[output_stride]
    widths = (3, 24, 48, 96, 128, 128)
    layers = [
        nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False)
    ]
    low, high = nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:])
    return SequentialBackbone(low, high, widths[2], widths[-1], (1, 2), widths[3:5], last=2)
