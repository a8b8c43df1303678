"""The classification network: backbone, neck, and a host with a method on top; saved as one safetensors file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from rca.classifier.registry import check_pair, load_host, load_method, read_options
from rca.core.errors import UserError
from rca.core.precision import keep_digits
from rca.data.loading.images import Sample
from rca.hosts.base import Host, Levels
from rca.models.backbones import OutputStride, build_backbone
from rca.models.output import Output
from rca.models.pooling import shrink_valid
from rca.models.storage import load_tensors, save_tensors


@dataclass(frozen=True)
class NetworkDescription:
    """All that is needed to build a network again.

    Attributes:
        backbone: Its name.
        output_stride: Pixels for each feature.
        neck: Channels of the 1x1 convolution after the backbone; 0 for none.
        host: The host's module.
        method: The method's module.
        options: The method's options, as given.
        classes: The class names.
        mean: Normalisation of the images, for pixels in 0..1.
        std: Likewise.
        initialisation: Backbone and origin of its weights, in words.
        epochs: How many epochs it was trained.
        host_options: The host's options, as given.
        sources: The extra sources that it was trained on beside the split.
    """

    backbone: str
    output_stride: OutputStride
    neck: int
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
    """A backbone, a neck and a method.

    Args:
        description: What to build.

    Raises:
        UserError: an unknown host or method, options that they do not take, or a pair that does not go together.
    """

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
        """How the maps come about and learn from tags."""
        return self.method.host

    @property
    def needs_second_view(self) -> bool:
        """Whether the loss looks at the batch a second time, at another scale."""
        return self.host.needs_second_view or self.method.needs_second_view

    def forward(self, images: Tensor, valid: Tensor, tags: Tensor | None = None) -> Output:
        """Score a batch.

        Args:
            images: (B, 3, H, W), normalised.
            valid: (B, 1, H, W), 1 on the image and 0 on padding.
            tags: (B, C) of 0 and 1, the classes that may be there; None for all.
        """
        features, levels = self.encode(images)
        return self.score(features, valid, levels, tags)

    def encode(self, images: Tensor) -> tuple[Tensor, Levels | None]:
        """What the backbone makes of images (B, 3, H, W): the features that are scored, and the levels a host needs.

        All of it in float32, whatever the backbone computes with.
        """
        if not self.host.needs_levels:
            return self.backbone(images)[1].float(), None
        _, earlier, later, features = self.backbone.extract_levels(images)
        return features.float(), (images, earlier.float(), later.float())

    def score(
        self, features: Tensor, valid: Tensor, levels: Levels | None = None, tags: Tensor | None = None
    ) -> Output:
        """Score a batch by what the backbone made of it.

        Args:
            features: (B, D, h, w), at the output stride.
            valid: (B, 1, h, w) or as large as the images, 1 on the image and 0 on padding.
            levels: What `encode` gave with the features.
            tags: As in `forward`.
        """
        with keep_digits(features.device):
            features = self.neck(features)
            size = (features.shape[2], features.shape[3])
            output = self.method(features, shrink_valid(valid, size))
            if not self.training:
                output = self.method.locate(output, tags)
            return self.host.refine(output, levels, tags)

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name; host and method take in the batch.

        Args:
            output: Of `forward` or `score`, with the second view added where one is needed.
            batch: What it was computed from.
            epoch: Counted from 0.
        """
        with keep_digits(output.maps.device):
            self.host.observe(output, batch, epoch)
            return self.method.compute_losses(output, batch, epoch)


def save_network(path: Path, network: CamNetwork) -> None:
    """Write a network's weights and description, whole or not at all."""
    save_tensors(path, network.state_dict(), asdict(network.description))


def load_network(path: Path, memory: Mapping[str, Tensor]) -> CamNetwork:
    """Read what `save_network` wrote, on the CPU and in evaluation mode.

    Args:
        path: The network's file.
        memory: What a method's memory holds, by the names of `Method.memory_state`; it takes the place of the memory
            that the network ended its training with. Empty for a method without.

    Raises:
        UserError: the file is missing or broken.
    """
    tensors, fields = load_tensors(path, "train_cam")
    if fields.get("enabled") is False:
        raise UserError(f"{path} holds no network, since its run was trained on true masks: name another run's.")
    fields.update({key: tuple(fields.get(key, ())) for key in ("classes", "mean", "std", "sources")})
    network = CamNetwork(NetworkDescription(**fields))
    network.load_state_dict({**tensors, **{f"method.{name}": tensor for name, tensor in memory.items()}})
    return network.eval()
