"""The classification network: backbone, neck, and a host with a method on top; saved as one safetensors file."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rca.core.errors import UserError
from rca.core.precision import keep_digits
from rca.core.settings import Settings, build_settings
from rca.data.loading.images import Sample
from rca.hosts.base import Host, Levels
from rca.methods.base import Method, Output
from rca.models.backbones import OutputStride, build_backbone
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
    options: dict[str, Any]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    initialisation: str
    epochs: int = 0
    host_options: dict[str, Any] = field(default_factory=dict)
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
        host, kind = load_host(description.host), load_method(description.method)
        host_options = read_options(host, description.host_options, "host_options", f"host {description.host}")
        options = read_options(kind, description.options, "options", f"method {description.method}")
        make_host = partial(host, options=host_options, level_channels=self.backbone.level_channels)
        self.method: Method = kind(options, channels, len(description.classes), make_host)

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
        with keep_digits(batch.image.device):
            self.host.observe(output, batch, epoch)
            return self.method.compute_losses(output, batch, epoch)


def load_method(name: str) -> type[Method]:
    """The class of a method, from the module `rca/methods/<name>.py`.

    Raises:
        UserError: there is no such method.
    """
    return _load("methods", name, "METHOD")


def load_host(name: str) -> type[Host]:
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


def check_pair(host: str, method: str, source: Path | str, cached: bool = False) -> None:
    """Tell why a host and a method do not go together, if they do not.

    Args:
        host: The host's module.
        method: The method's module.
        source: What messages begin with.
        cached: Whether they are to be trained on features that were computed once, without the images.

    Raises:
        UserError: they do not.
    """
    refused = load_method(method).refuses.get(host)
    if refused:
        raise UserError(f"{source}: the method {method} does not go with the host {host}: {refused}.")
    for part, name, kind in (("host", host, load_host(host)), ("method", method, load_method(method))):
        if cached and (kind.needs_second_view or getattr(kind, "needs_levels", False)):
            raise UserError(
                f"{source}: the {part} {name} looks at the images themselves, but train_cam.backbone.trainable is none:"
                " set that to last_stage or all."
            )
    if cached and load_host(host).needs_saliency:
        raise UserError(
            f"{source}: the host {host} goes by saliency maps, which are not kept with features, but"
            " train_cam.backbone.trainable is none: set that to last_stage or all."
        )


def check_processes(host: str, processes: int, source: Path | str) -> None:
    """Tell why a host cannot be trained by so many processes, if it cannot.

    Args:
        host: The host's module.
        processes: How many.
        source: What messages begin with.

    Raises:
        UserError: it cannot.
    """
    if processes > 1 and load_host(host).needs_one_process:
        raise UserError(
            f"{source}: the host {host} keeps maps of each image in files of one process, but"
            f" train_cam.optimisation.processes is {processes}: set it to 1."
        )


def read_options(kind: type[Method] | type[Host], options: dict[str, Any], key: str, source: Path | str) -> Settings:
    """The options of a method or a host as typed settings.

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
    if fields.get("enabled") is False:
        raise UserError(f"{path} holds no network, since its run was trained on true masks: name another run's.")
    fields.update({key: tuple(fields.get(key, ())) for key in ("classes", "mean", "std", "sources")})
    network = CamNetwork(NetworkDescription(**fields))
    network.load_state_dict({**tensors, **{f"method.{name}": tensor for name, tensor in memory.items()}})
    return network.eval()
