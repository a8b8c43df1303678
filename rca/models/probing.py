"""What can be known of initial weights before they are fetched: where they are, and whose they are."""

from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.models.backbones import NAMES, OutputStride, find_problem
from rca.models.timm_backbones import PREFIX
from rca.models.weights import (
    BackboneSettings,
    FileWeights,
    TorchvisionWeights,
    check_file,
    describe,
    find_torchvision,
    fit_state,
    is_efficientnet_pytorch,
    read_state,
)

LITES = tuple(f"{PREFIX}tf_efficientnet_lite{size}" for size in range(5))
PATIENCE = 5.0  # seconds until a server counts as out of reach


def find_backbone(path: Path, first: str, output_stride: OutputStride = 16) -> tuple[str, str]:
    """Find the backbone whose weights a file holds.

    Args:
        path: The file, as `FileWeights` takes it.
        first: The backbone to try first; the only one of timm that is tried, but for the EfficientNet-Lites.
        output_stride: Its output stride.

    Returns:
        The backbone's name, and the SHA-256 of the file.

    Raises:
        UserError: the file is missing or broken, or fits no backbone that is tried.
    """
    if not path.is_file():
        raise UserError(f"The weights file {path} does not exist: name the file.")
    weights = FileWeights(source="file", path=path, sha256=hash_file(path))
    state = read_state(weights)
    # What the user named has the stride that the user named.
    strides: dict[str, OutputStride] = {**dict.fromkeys(NAMES, 16), first: output_stride}
    if is_efficientnet_pytorch(state):
        strides = dict.fromkeys(LITES, 16)
    names = [name for name in dict.fromkeys((first, *strides)) if name in strides and name != "small"]
    if problem := find_problem(names[0], strides[names[0]]):
        raise UserError(f"{path} cannot be tried: {problem}.")
    used = {}
    for name in names:
        with suppress(UserError):
            settings = BackboneSettings(name=name, output_stride=strides[name], weights=weights)
            used[name] = len(fit_state(settings, state, str(path)))
    if used:
        # ResNet-101 has all layers of ResNet-50 and more: the right one uses the most of the file.
        return max(used, key=lambda name: used[name]), weights.sha256
    raise UserError(
        f"{path} fits none of the backbones {', '.join(names)}: name another file, or the model of timm that it fits,"
        " with --set train_cam.backbone.name=timm/MODEL --set train_seg.backbone.name=timm/MODEL."
    )


def find_normalisation(name: str) -> dict[str, list[float]]:
    """The keys `mean` and `std` of the images that timm's own weights of a backbone were trained on.

    Args:
        name: The backbone.

    Returns:
        The keys; none for torchvision's backbones, whose normalisation is the default of a file.
    """
    if not name.startswith(PREFIX):
        return {}
    import timm

    known = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    return {"mean": list(known.mean), "std": list(known.std)} if known else {}


def probe_weights(settings: BackboneSettings, made: Path) -> str:
    """Find out whether `fetch_weights` will succeed, without fetching anything.

    Args:
        settings: The backbone.
        made: What the stage would write; if it exists, nothing is fetched.

    Returns:
        Where the weights are.

    Raises:
        UserError: they are missing, and cannot be fetched.
    """
    weights = settings.weights
    if isinstance(weights, FileWeights):
        check_file(weights)
    if not isinstance(weights, TorchvisionWeights):
        return describe(settings)
    url = find_torchvision(settings.name, weights).url
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    for place in (made, cached):
        if place.is_file():
            return f"{describe(settings)}, in {place}"
    try:
        with urlopen(Request(url, method="HEAD"), timeout=PATIENCE):
            return f"{describe(settings)}, to be downloaded from {url}"
    except (OSError, ValueError) as error:
        raise UserError(
            f"The weights {weights.name} of {settings.name} are not here, and {url} cannot be reached ({error}):"
            f" download them on a machine with a network and put them into {cached.parent}, or name a file with `rca"
            " init --weights FILE` or in train_cam.backbone.weights and train_seg.backbone.weights (source: file)."
        ) from None
