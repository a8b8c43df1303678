"""What every backbone is: features at stride 4 and at the output stride."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

Trainable = Literal["all", "last_stage", "none"]


class Backbone(nn.Module):
    """A feature extractor.

    Attributes:
        low_channels: Channels of the features at stride 4.
        channels: Channels of the features at the output stride.
        level_channels: Channels of the two earlier levels, ResNet's layer2 and layer3.
    """

    __call__: Callable[..., tuple[Tensor, Tensor]]  # nn.Module leaves it untyped
    low_channels: int
    channels: int
    level_channels: tuple[int, int]

    def list_last_stage(self) -> Sequence[nn.Module]:
        """The layers of the last stage (ResNet's layer4, VGG's conv5)."""
        raise NotImplementedError

    def train_parts(self, trainable: Trainable) -> None:
        """Let gradients reach the whole backbone, its last stage only, or none of it."""
        self.requires_grad_(trainable == "all")
        if trainable == "last_stage":
            for layer in self.list_last_stage():
                layer.requires_grad_(True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract features.

        Args:
            images: (B, 3, H, W), normalised as the weights require.

        Returns:
            Features at stride 4 (B, low_channels, ~H/4, ~W/4) and at the output stride s (B, channels, ~H/s, ~W/s).
        """
        raise NotImplementedError

    def extract_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features at stride 4, of the two earlier levels, and at the output stride.

        Args:
            images: (B, 3, H, W), as for `forward`.
        """
        raise NotImplementedError
