"""Heads of segmentation networks: they turn a backbone's features into a score per label.

Dilation rates are those of the papers at output stride 8; at other strides they are scaled to cover the same distance.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.models.backbone import Backbone
from rca.models.backbones import OutputStride

HeadName = Literal[
    "linear", "deeplab_v1", "deeplab_v2", "deeplab_v3", "deeplab_v3plus", "simple_pyramid", "segformer", "upernet"
]


class Head(nn.Module):
    """Scores the positions of an image from its features."""

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Score every position.

        Args:
            low: The backbone's features at stride 4 (of a plain transformer: at the stride of its patches).
            high: The backbone's features at the output stride s, (B, channels, ~H/s, ~W/s).

        Returns:
            (B, C+1, h, w), logits, background first, at the stride of `high` or finer.
        """
        raise NotImplementedError


class LevelsHead(nn.Module):
    """Scores the positions of an image from the features of all four levels of a backbone."""

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    def forward(self, *levels: Tensor) -> Tensor:
        """Score every position.

        Args:
            levels: What `Backbone.extract_levels` returns, the finest first.

        Returns:
            (B, C+1, h, w), logits, background first, at the stride of the finest level.
        """
        raise NotImplementedError


class _Linear(Head):
    """A 1x1 classifier: the simplest head, for upper bounds and small networks."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, outputs, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        scores: Tensor = self.classifier(high)
        return scores


class _DeepLabV1(Head):
    """LargeFOV (Chen et al., ICLR 2015; DeepLab, 2018, section 4.1.1).

    VGG's fc6 as a 3x3 convolution of rate 12 with 1024 channels, then fc7 and fc8.
    """

    def __init__(self, channels: int, outputs: int, output_stride: OutputStride) -> None:
        super().__init__()
        (rate,) = _scale_rates((12,), output_stride)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 1024, 3, 1, rate, rate),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(1024, outputs, 1),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        scores: Tensor = self.layers(high)
        return scores


class _DeepLabV2(Head):
    """The sum of four dilated 3x3 classifiers (Chen et al., DeepLab, 2018): rates 6, 12, 18, 24 at stride 8."""

    def __init__(self, channels: int, outputs: int, output_stride: OutputStride) -> None:
        super().__init__()
        rates = _scale_rates((6, 12, 18, 24), output_stride)
        self.branches = nn.ModuleList(nn.Conv2d(channels, outputs, 3, 1, rate, rate) for rate in rates)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.stack([branch(high) for branch in self.branches]).sum(0)


class _DeepLabV3(Head):
    """Pyramid pooling with batch norm and the image's mean (Chen et al., Rethinking Atrous Convolution, 2017)."""

    def __init__(self, channels: int, outputs: int, output_stride: OutputStride) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        self.layers = DeepLabHead(channels, outputs, _scale_rates((12, 24, 36), output_stride))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        scores: Tensor = self.layers(high)
        return scores


class _DeepLabV3Plus(Head):
    """Pyramid pooling, then a decoder on the features at stride 4 (Chen et al., Encoder-Decoder, ECCV 2018)."""

    def __init__(self, low_channels: int, channels: int, outputs: int, output_stride: OutputStride) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import ASPP

        self.pyramid = ASPP(channels, _scale_rates((12, 24, 36), output_stride), 256)
        self.low = nn.Sequential(nn.Conv2d(low_channels, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Conv2d(256 + 48, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Conv2d(256, outputs, 1),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        pooled = functional.interpolate(self.pyramid(high), low.shape[2:], mode="bilinear")
        scores: Tensor = self.decoder(torch.cat([pooled, self.low(low)], 1))
        return scores


class _SimplePyramid(Head):
    """A pyramid built from the features at one stride, for plain transformers (Li et al., ViTDet, ECCV 2022, sec. 3).

    Its levels, at a quarter, half, one and two times the output stride, are enlarged to the finest level and added
    (Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, section 3).
    """

    WIDTH = 256

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        from torchvision.models.convnext import LayerNorm2d

        half, quarter = max(channels // 2, 1), max(channels // 4, 1)
        resized: list[tuple[int, nn.Module]] = [
            (
                quarter,
                nn.Sequential(
                    nn.ConvTranspose2d(channels, half, 2, 2),
                    LayerNorm2d(half, eps=1e-6),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ),
            ),
            (half, nn.ConvTranspose2d(channels, half, 2, 2)),
            (channels, nn.Identity()),
            (channels, nn.MaxPool2d(2, ceil_mode=True)),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                resize,
                nn.Conv2d(width, self.WIDTH, 1, bias=False),
                LayerNorm2d(self.WIDTH, eps=1e-6),
                nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=1, bias=False),
                LayerNorm2d(self.WIDTH, eps=1e-6),
            )
            for width, resize in resized
        )
        self.classifier = nn.Conv2d(self.WIDTH, outputs, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        finest, *coarser = (level(high) for level in self.levels)
        for level in coarser:
            finest = finest + functional.interpolate(level, finest.shape[2:], mode="bilinear")
        scores: Tensor = self.classifier(finest)
        return scores


class _SegFormer(LevelsHead):
    """A linear layer for each level, and two over all of them (Xie et al., SegFormer, NeurIPS 2021, section 3.2)."""

    WIDTH = 256

    def __init__(self, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(width, self.WIDTH, 1) for width in channels)
        self.fusion = nn.Sequential(
            nn.Conv2d(len(channels) * self.WIDTH, self.WIDTH, 1, bias=False),
            nn.BatchNorm2d(self.WIDTH),
            nn.ReLU(),
            nn.Dropout2d(0.1),
        )
        self.classifier = nn.Conv2d(self.WIDTH, outputs, 1)

    def forward(self, *levels: Tensor) -> Tensor:
        size = levels[0].shape[2:]
        mixed = [mix(level) for mix, level in zip(self.levels, levels, strict=True)]
        enlarged = [functional.interpolate(level, size, mode="bilinear") for level in mixed]
        scores: Tensor = self.classifier(self.fusion(torch.cat(enlarged, 1)))
        return scores


class _UPerNet(LevelsHead):
    """Pyramid pooling of the coarsest level, then a feature pyramid whose levels are joined (Xiao et al., ECCV 2018).

    The pooling is PSPNet's (Zhao et al., CVPR 2017, section 3.2), the pyramid torchvision's. The layers over the pooled
    means have no BatchNorm: one of them holds a single position, of which a batch of one image has no statistics.
    """

    WIDTH = 256
    GRIDS = (1, 2, 3, 6)

    def __init__(self, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        width, coarsest = self.WIDTH, channels[-1]
        self.pooled = nn.ModuleList(nn.Sequential(nn.Conv2d(coarsest, width, 1), nn.ReLU()) for _ in self.GRIDS)
        self.context = _convolve(coarsest + len(self.GRIDS) * width, width)
        self.pyramid = FeaturePyramidNetwork([*channels[:-1], width], width, norm_layer=nn.BatchNorm2d)
        self.fusion = _convolve(len(channels) * width, width)
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, *levels: Tensor) -> Tensor:
        coarsest = levels[-1]
        means = [
            functional.interpolate(mix(pool_grid(coarsest, grid)), coarsest.shape[2:], mode="bilinear")
            for mix, grid in zip(self.pooled, self.GRIDS, strict=True)
        ]
        context = self.context(torch.cat([coarsest, *means], 1))
        joined = self.pyramid({str(number): level for number, level in enumerate((*levels[:-1], context))})
        size = levels[0].shape[2:]
        enlarged = [functional.interpolate(level, size, mode="bilinear") for level in joined.values()]
        scores: Tensor = self.classifier(self.fusion(torch.cat(enlarged, 1)))
        return scores


def _convolve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def pool_grid(features: Tensor, grid: int) -> Tensor:
    """The means of a grid's cells, as `torch.nn.AdaptiveAvgPool2d` has them, which ONNX has for known sizes only.

    Args:
        features: (B, C, H, W).
        grid: The cells along each side, at least 1.

    Returns:
        (B, C, grid, grid).
    """
    down, across = (_share_out(size, grid, features) for size in features.shape[2:])
    return down @ features @ across.T


def _share_out(size: int, cells: int, like: Tensor) -> Tensor:
    """What each position adds to each cell's mean (cells, size); cells may overlap by a position."""
    start = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(size, device=like.device)
    inside = (place >= start * size // cells) & (place < -(-(start + 1) * size // cells))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def build_head(name: HeadName, backbone: Backbone, outputs: int, output_stride: OutputStride) -> Head | LevelsHead:
    """Build a head with random weights.

    Args:
        name: The head.
        backbone: The backbone below the head.
        outputs: Number of labels to score.
        output_stride: The backbone's output stride.
    """
    channels = backbone.channels
    if name == "deeplab_v1":
        return _DeepLabV1(channels, outputs, output_stride)
    if name == "deeplab_v2":
        return _DeepLabV2(channels, outputs, output_stride)
    if name == "deeplab_v3":
        return _DeepLabV3(channels, outputs, output_stride)
    if name == "deeplab_v3plus":
        return _DeepLabV3Plus(backbone.low_channels, channels, outputs, output_stride)
    if name == "simple_pyramid":
        return _SimplePyramid(channels, outputs)
    levels = (backbone.low_channels, *backbone.level_channels, channels)
    if name == "segformer":
        return _SegFormer(levels, outputs)
    if name == "upernet":
        return _UPerNet(levels, outputs)
    return _Linear(channels, outputs)


def _scale_rates(rates: tuple[int, ...], output_stride: OutputStride) -> list[int]:
    """Scale dilation rates for output stride 8 to another output stride."""
    return [max(rate * 8 // output_stride, 1) for rate in rates]
