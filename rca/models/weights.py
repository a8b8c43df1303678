"""The initial weights of a backbone, and the normalisation of images that belongs to them."""

import re
from collections.abc import Iterable
from itertools import islice, zip_longest
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor

from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import Settings
from rca.models.backbone import Trainable
from rca.models.backbones import OutputStride, build_backbone, find_problem
from rca.models.storage import save_tensors

Colour = tuple[float, float, float]
Mean = Annotated[float, Field(ge=-10, le=10)]
Spread = Annotated[float, Field(ge=1e-4, le=10)]
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
# Where trainings of others keep the state dict in their files, and what they put before its names.
WRAPPINGS = ("state_dict", "model_state_dict", "model", "network", "net", "model_state")
PREFIXES = ("module.", "backbone.", "model.", "encoder.")
_FOREIGN = re.compile(r"(?:Unsupported global: GLOBAL |Unsupported class |Trying to .* )([\w.]+)")


class NoWeights(Settings):
    """No weights: train from scratch, on images scaled to -1..1."""

    source: Literal["none"]


class TorchvisionWeights(Settings):
    """Weights of torchvision, by their name there, e.g. IMAGENET1K_V1; the stage fetch_weights downloads them once.

    Attributes:
        name: Torchvision's name of the weights.
    """

    source: Literal["torchvision"]
    name: str


class FileWeights(Settings):
    """A local `.safetensors` or `.pth` file with the state dict of torchvision's (or timm's) model of the same name.

    EfficientNets may also have the names of EfficientNet-PyTorch. The state dict may lie under a key such as
    `state_dict` or `model`, and its names may begin with `module.` or `backbone.`.

    Attributes:
        path: The file, relative to the project.
        sha256: The checksum of the file: if it changes, the pipeline reruns; a file with another checksum is refused.
        trained_on: The data that the weights were trained on, e.g. ImageNet-1k or COCO, shown with every result.
        mean: Mean of the images that the weights were trained on, per channel, for pixels in 0..1.
        std: Standard deviation of those images, per channel, for pixels in 0..1.
    """

    source: Literal["file"]
    path: Path = Field(strict=False)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    trained_on: str | None = None
    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    std: tuple[Spread, Spread, Spread] = IMAGENET_STD


class BackboneSettings(Settings):
    """The backbone, its output stride and its weights.

    Attributes:
        name: "small", "vgg16", "resnet50", "resnet101", "mobilenet_v2", or `timm/<model>`.
        output_stride: Pixels per feature, 8 or 16; 32 for models of timm that cannot be dilated.
        trainable: Train "all" of it, its "last_stage" only (ResNet's layer4, VGG's conv5), or "none" of it. The rest
            keeps its initial weights.
        weights: The initial weights.
    """

    name: str
    output_stride: OutputStride = 16
    trainable: Trainable = "all"
    weights: Annotated[NoWeights | TorchvisionWeights | FileWeights, Field(discriminator="source")]

    @model_validator(mode="after")
    def _exists(self) -> "BackboneSettings":
        if problem := find_problem(self.name, self.output_stride):
            raise ValueError(problem)
        if self.name.startswith("timm/") and self.weights.source == "torchvision":
            raise ValueError(f"{self.name} needs a local file or no weights: set weights.source to file or none")
        return self

    @model_validator(mode="after")
    def _small_has_no_weights(self) -> "BackboneSettings":
        if self.name == "small" and self.weights.source != "none":
            raise ValueError("there are no weights for the backbone small: set source to none")
        return self

    @model_validator(mode="after")
    def _frozen_has_weights(self) -> "BackboneSettings":
        if self.trainable != "all" and self.weights.source == "none":
            raise ValueError("a backbone without weights must be trained: set trainable to all")
        return self


def fetch_weights(settings: BackboneSettings, path: Path) -> None:
    """Write a backbone's weights and the normalisation of its images as one safetensors file.

    The file holds the backbone's state dict (empty for a training from scratch). Its description holds `initialisation`
    (in words), `mean` and `std` (per channel, for pixels in 0..1).

    Raises:
        UserError: the weights are unknown, missing, broken, have another checksum, or do not fit the backbone.
    """
    weights = settings.weights
    if settings.name.startswith("timm/"):
        build_backbone(settings.name, settings.output_stride)  # raises before anything is trained
    tensors: dict[str, Tensor] = {}
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if isinstance(weights, TorchvisionWeights):
        state, mean, std = _download(settings.name, weights)
        tensors = fit_state(settings, state, f"torchvision's {weights.name}")
    elif isinstance(weights, FileWeights):
        mean, std = weights.mean, weights.std
        tensors = fit_state(settings, read_state(weights), str(weights.path))
    about = {"initialisation": describe(settings), "mean": list(mean), "std": list(std)}
    save_tensors(path, tensors, about)


def describe(settings: BackboneSettings) -> str:
    """A backbone and its initial weights in words, e.g. "resnet101 (torchvision IMAGENET1K_V2)"."""
    weights = settings.weights
    if isinstance(weights, TorchvisionWeights):
        origin = f"torchvision {weights.name}"
    elif isinstance(weights, FileWeights):
        trained_on = f"{weights.trained_on}, " if weights.trained_on else ""
        origin = f"{trained_on}{weights.path.name} {weights.sha256[:8]}"
    else:
        origin = "from scratch"
    return f"{settings.name} ({origin})"


def find_torchvision(name: str, weights: TorchvisionWeights) -> Any:
    """Torchvision's entry of some weights.

    Raises:
        UserError: it has no such weights.
    """
    import torchvision

    choices = torchvision.models.get_model_weights(name)
    if weights.name not in choices.__members__:
        known = ", ".join(choices.__members__)
        raise UserError(f"torchvision has no weights {weights.name} for {name}: choose one of {known}.")
    return choices[weights.name]


def _download(name: str, weights: TorchvisionWeights) -> tuple[dict[str, Tensor], Colour, Colour]:
    chosen = find_torchvision(name, weights)
    try:
        state = chosen.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise UserError(
            f"The weights {weights.name} of {name} cannot be downloaded from {chosen.url} ({error}): "
            "download them on a machine with a network, and name the file with source: file."
        ) from None
    transforms = chosen.transforms()
    return state, tuple(transforms.mean), tuple(transforms.std)


def check_file(weights: FileWeights) -> None:
    """Check that a weights file exists and has its checksum.

    Raises:
        UserError: the file is missing or has another checksum.
    """
    path = weights.path
    if not path.is_file():
        raise UserError(f"The weights file {path} does not exist: put it there, or set weights.path.")
    checksum = hash_file(path)
    if checksum != weights.sha256:
        raise UserError(f"The weights file {path} has the checksum {checksum}: set weights.sha256 to it.")


def read_state(weights: FileWeights) -> dict[str, Tensor]:
    """Read the state dict of a file.

    Raises:
        UserError: the file is missing or broken, or has another checksum.
    """
    check_file(weights)
    path = weights.path
    try:
        if path.suffix == ".safetensors":
            return unwrap(load_file(path))
        return unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises anything on a broken file
        if isinstance(error, UnpicklingError) and (found := _FOREIGN.search(str(error))):
            raise UserError(
                f"The weights file {path} holds a Python object ({found[1]}) beside tensors, which could run code: save"
                " its state dict alone, with torch.save."
            ) from None
        # PyTorch's own words on a file that it did not write advise to load it unsafely.
        foreign = isinstance(error, UnpicklingError)
        reason = "it is no file of torch.save" if foreign else str(error).split("\n")[0]
        raise UserError(
            f"The weights file {path} cannot be read ({reason}): fetch it again, or name another."
        ) from None


def unwrap(content: object) -> dict[str, Tensor]:
    """Find the state dict in what a weights file holds, and remove what trainings put before its names.

    A training that was wrapped for several GPUs writes `module.`, a detector `backbone.`.

    Raises:
        ValueError: there is no state dict.
    """
    for _ in WRAPPINGS:  # one may lie in another
        if isinstance(content, dict):
            content = next((content[name] for name in WRAPPINGS if isinstance(content.get(name), dict)), content)
    if not isinstance(content, dict) or not content or not all(isinstance(one, Tensor) for one in content.values()):
        raise ValueError("it holds no state dict")
    state = {str(name): tensor for name, tensor in content.items()}
    while prefix := next((one for one in PREFIXES if any(name.startswith(one) for name in state)), None):
        inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        state = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)} | inner
    return state


def fit_state(settings: BackboneSettings, state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The state dict of our backbone, from that of torchvision's or timm's model.

    Args:
        settings: The backbone.
        state: The state dict of torchvision's or timm's model.
        origin: What messages call it.

    Raises:
        UserError: it does not fit, or holds values that are not finite.
    """
    names = _timm_names(settings, state) if settings.name.startswith("timm/") else _torchvision_names(settings)
    # Not in files of before PyTorch 0.4.1, and no result depends on it.
    state = {**{name: torch.tensor(0) for name in names.values() if name.endswith("num_batches_tracked")}, **state}
    missing = sorted(set(names.values()) - set(state))
    if missing:
        raise UserError(f"{origin} does not fit {settings.name}: it lacks {missing[0]} and {len(missing) - 1} others.")
    with torch.device("meta"):
        backbone = build_backbone(settings.name, settings.output_stride)
    ours = {name: state[theirs].contiguous() for name, theirs in names.items()}
    for key, tensor in backbone.state_dict().items():
        if tensor.shape != ours[key].shape:
            raise UserError(f"{origin} does not fit {settings.name}: {names[key]} is {tuple(ours[key].shape)}.")
        if not ours[key].isfinite().all():
            raise UserError(f"{origin} holds values in {names[key]} that are not finite: fetch it again.")
    return ours


def is_efficientnet_pytorch(state: Iterable[str]) -> bool:
    """Whether a state dict has the names of EfficientNet-PyTorch and EfficientNet-Lite-PyTorch."""
    return "_conv_stem.weight" in state


def _timm_names(settings: BackboneSettings, state: Iterable[str]) -> dict[str, str]:
    """For each name in our backbone's state, the name in the file, or our name if the file lacks it."""
    from rca.models.timm_backbones import unify

    theirs = {unify(name): name for name in state}
    ours = build_backbone(settings.name, settings.output_stride).state_dict()
    if is_efficientnet_pytorch(state):  # the same layers in the same order, under other names
        return dict(zip_longest(ours, islice(state, len(ours)), fillvalue="the last layers"))
    return {name: theirs.get(unify(name), name) for name in ours}


def _torchvision_names(settings: BackboneSettings) -> dict[str, str]:
    """For each name in our backbone's state, the name in torchvision's model.

    Both have the same layers in the same order; ours ends with the features, without the classifier.
    """
    import torchvision

    with torch.device("meta"):  # only the names are needed
        ours = list(build_backbone(settings.name, settings.output_stride).state_dict())
        theirs = list(torchvision.models.get_model(settings.name, weights=None).state_dict())
    return dict(zip(ours, theirs[: len(ours)], strict=True))
