"""The classification network: a backbone, a neck, and a method on a host; saved as one safetensors file."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from rca.classifier.registry import check_pair, load_host, load_method, read_options
from rca.core.errors import UserError, flatten
from rca.core.precision import keep_digits
from rca.data.loading.images import Sample
from rca.hosts.base import Host, Levels
from rca.models.backbones import OutputStride, build_backbone
from rca.models.description import check_shapes, read_description
from rca.models.folding import fold_batchnorm
from rca.models.output import Output
from rca.models.pooling import shrink_valid
from rca.models.storage import load_tensors, save_tensors


@dataclass(frozen=True)
class NetworkDescription:
    """Everything needed to build the network again.

    Attributes:
        backbone: The backbone's name.
        output_stride: Pixels per feature.
        neck: Channels of the 1x1 convolution after the backbone; 0 for none.
        host: The host's name.
        method: The method's name.
        options: The method's options, as in the params file.
        classes: The class names.
        mean: Mean of the images' normalisation, per channel, for pixels in 0..1.
        std: Standard deviation of the images' normalisation, per channel, for pixels in 0..1.
        initialisation: Backbone and origin of its weights, in words.
        epochs: Number of epochs of the training.
        host_options: The host's options, as in the params file.
        sources: The extra sources that it was trained on beside the split.
    """

    backbone: str
    output_stride: OutputStride
    neck: Annotated[int, Field(ge=0, le=1 << 16)]
    host: str
    method: str
    options: dict[str, object]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    initialisation: str
    epochs: int = 0
    host_options: dict[str, object] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


class CamNetwork(nn.Module):
    """A backbone, a neck, and a method on a host.

    Args:
        description: The network to build.

    Raises:
        UserError: the host or the method is unknown, refuses an option, or does not work with the other.
    """

    __call__: Callable[..., Output]  # nn.Module leaves it untyped

    def __init__(self, description: NetworkDescription) -> None:
        super().__init__()
        self.description = description
        self.backbone = build_backbone(description.backbone, description.output_stride)
        channels = self.backbone.channels
        self.neck: nn.Module = nn.Identity()
        if description.neck:
            self.neck = nn.Sequential(nn.Conv2d(channels, description.neck, 1), nn.ReLU())
            channels = description.neck
        check_pair(description.host, description.method, "the network")
        host, method = load_host(description.host), load_method(description.method)
        host_options = read_options(host, description.host_options, "host_options", f"host {description.host}")
        options = read_options(method, description.options, "options", f"method {description.method}")
        make_host = partial(host, options=host_options, level_channels=self.backbone.level_channels)
        self.method = method(options, channels, len(description.classes), make_host)

    @property
    def host(self) -> Host:
        """The host, which turns features into maps and learns from tags."""
        return self.method.host

    @property
    def needs_second_view(self) -> bool:
        """Whether the loss needs the batch at a second scale."""
        return self.host.needs_second_view or self.method.needs_second_view

    def forward(self, images: Tensor, valid: Tensor, tags: Tensor | None = None) -> Output:
        """Score a batch.

        Args:
            images: (B, 3, H, W), normalised.
            valid: (B, 1, H, W), 1 on the image and 0 on padding.
            tags: (B, C) of 0 and 1, the classes that may be present; None for all.
        """
        features, levels = self.encode(images)
        return self.score(features, valid, levels, tags)

    def encode(self, images: Tensor) -> tuple[Tensor, Levels | None]:
        """The features of images (B, 3, H, W), and the earlier levels if the host needs them.

        Both are float32, whatever the precision of the backbone.
        """
        if not self.host.needs_levels:
            return self.backbone(images)[1].float(), None
        _, earlier, later, features = self.backbone.extract_levels(images)
        return features.float(), (images, earlier.float(), later.float())

    def score(
        self, features: Tensor, valid: Tensor, levels: Levels | None = None, tags: Tensor | None = None
    ) -> Output:
        """Score a batch from its features.

        Args:
            features: (B, D, h, w), at the output stride.
            valid: (B, 1, h, w) or of the images' size, 1 on the image and 0 on padding.
            levels: The levels that `encode` returned with the features.
            tags: As for `forward`.
        """
        with keep_digits(features.device):
            features = self.neck(features)
            output = self.method(features, shrink_valid(valid, (features.shape[2], features.shape[3])))
            return self.host.refine(output, levels, tags)

    def look(self, images: Tensor, valid: Tensor) -> Output:
        """The method's output for a further view of a batch in training, without the host's refinement.

        Args:
            images: (B, 3, H, W), normalised.
            valid: (B, 1, H, W) or of another size, 1 on the image and 0 on padding.
        """
        features, _ = self.encode(images)
        with keep_digits(features.device):
            features = self.neck(features)
            output: Output = self.method(features, shrink_valid(valid, (features.shape[2], features.shape[3])))
            return output

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name; host and method may store something of the batch.

        Args:
            output: The output of `forward` or `score`, with the second view if one is needed.
            batch: The batch.
            epoch: Counted from 0.
        """
        with keep_digits(output.maps.device):
            self.host.observe(output, batch, epoch)
            return self.method.compute_losses(output, batch, epoch)


def prepare_inference(network: CamNetwork) -> None:
    """Make a network in evaluation mode faster, in place; it can then neither learn nor be saved."""
    fold_batchnorm(network.backbone)
    network.to(memory_format=torch.channels_last)


def save_network(path: Path, network: CamNetwork) -> None:
    """Write a network's weights and description, whole or not at all."""
    save_tensors(path, network.state_dict(), asdict(network.description))


def load_network(path: Path, memory: Mapping[str, Tensor]) -> CamNetwork:
    """Load a network that `save_network` wrote, on the CPU and in evaluation mode.

    Args:
        path: The network's file.
        memory: The tensors of the method's memory, by the names of `Method.memory_state`; they replace the memory at
            the end of the training. Empty for a method without a memory.

    Raises:
        UserError: the file is missing or broken, or holds no network of this version.
    """
    tensors, fields = load_tensors(path, "train_cam")
    tensors |= {f"method.{name}": tensor for name, tensor in memory.items()}
    try:
        network = CamNetwork(read_description(NetworkDescription, fields))
        check_shapes(network, tensors)
    except ValueError as error:
        raise UserError(
            f"{path} holds no network of this version ({flatten(str(error))}): run train_cam again."
        ) from None
    network.load_state_dict(tensors)
    return network.eval()
