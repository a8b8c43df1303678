"""The classification network: backbone, neck, and a host with a method on top; saved as one safetensors file."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rca.errors import UserError
from rca.methods.base import Method, Output
from rca.models.backbones import BackboneName, OutputStride, build_backbone
from rca.models.pooling import shrink_valid
from rca.models.storage import load_tensors, save_tensors
from rca.settings import Settings, build_settings


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
    """

    backbone: BackboneName
    output_stride: OutputStride
    neck: int
    host: str
    method: str
    options: dict[str, Any]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    initialisation: str
    epochs: int = 0


class CamNetwork(nn.Module):
    """A backbone, a neck and a method.

    Args:
        description: What to build.

    Raises:
        UserError: an unknown host or method, or options that the method does not take.
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
        kind = load_method(description.method)
        options = read_options(kind, description.options, "options", f"method {description.method}")
        self.method: Method = kind(options, channels, len(description.classes), load_host(description.host))

    def forward(self, images: Tensor, valid: Tensor) -> Output:
        """Score a batch.

        Args:
            images: (B, 3, H, W), normalised.
            valid: (B, 1, H, W), 1 on the image and 0 on padding.
        """
        return self.score(self.backbone(images)[1], valid)

    def score(self, features: Tensor, valid: Tensor) -> Output:
        """Score a batch by what the backbone made of it.

        Args:
            features: (B, D, h, w), at the output stride.
            valid: (B, 1, h, w) or as large as the images, 1 on the image and 0 on padding.
        """
        features = self.neck(features)
        size = (features.shape[2], features.shape[3])
        return self.method(features, shrink_valid(valid, size))


def load_method(name: str) -> type[Method]:
    """The class of a method, from the module `rca/methods/<name>.py`.

    Raises:
        UserError: there is no such method.
    """
    return _load("methods", name, "METHOD")


def load_host(name: str) -> Any:
    """The class of a host, from the module `rca/hosts/<name>.py`.

    Raises:
        UserError: there is no such host.
    """
    return _load("hosts", name, "HOST")


def _load(folder: str, name: str, attribute: str) -> Any:
    path = Path(__file__).parent.parent / folder / f"{name}.py"
    module = importlib.import_module(f"rca.{folder}.{name}") if name.isidentifier() and path.is_file() else None
    if module is None or not hasattr(module, attribute):
        known = sorted(file.stem for file in path.parent.glob("*.py") if f"\n{attribute} = " in file.read_text())
        raise UserError(f"There is no {folder[:-1]} {name}: choose one of {', '.join(known)}.")
    return getattr(module, attribute)


def read_options(kind: type[Method], options: dict[str, Any], key: str, source: Path | str) -> Settings:
    """A method's options as typed settings.

    Raises:
        UserError: an option is unknown or out of range.
    """
    return build_settings(kind.Options, options, key, source)


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
    fields.update({key: tuple(fields[key]) for key in ("classes", "mean", "std")})
    network = CamNetwork(NetworkDescription(**fields))
    network.load_state_dict({**tensors, **{f"method.{name}": tensor for name, tensor in memory.items()}})
    return network.eval()
