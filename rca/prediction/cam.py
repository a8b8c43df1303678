"""The score maps of one photograph, given its tags: `rca.cam(NETWORK, image, ["cat"])`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rca.classifier.inference import normalise_tagged, score_batch
from rca.classifier.network import CamNetwork, load_network
from rca.classifier.views import InferenceSettings
from rca.core.arrays import Float32Array, UInt8Array
from rca.core.errors import UserError
from rca.core.settings import build_settings
from rca.models.storage import load_tensors
from rca.prediction.inputs import ImageLike, read_image
from rca.prediction.model import find_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ScoredImage:
    """The score maps of an image.

    Attributes:
        tags: The K tags.
        maps: (K, H, W), float32, 0..1: the score map of each tag.
        probabilities: (K,), float32, 0..1: the classifier's probability of each tag.
        photograph: (H, W, 3), uint8, RGB: the image as it was scored, upright.
    """

    tags: tuple[str, ...]
    maps: Float32Array
    probabilities: Float32Array
    photograph: UInt8Array = field(compare=False)

    def plot(self) -> "Figure":
        """A figure of matplotlib: each map over the photograph."""
        from matplotlib.figure import Figure  # imported late: matplotlib takes a second, which scoring can save

        figure = Figure(figsize=(4 * len(self.tags), 4), layout="constrained")
        panels = figure.subplots(1, len(self.tags), squeeze=False)[0]
        for axes, tag, scores, probability in zip(panels, self.tags, self.maps, self.probabilities, strict=True):
            axes.imshow(self.photograph)
            axes.imshow(scores, vmin=0, vmax=1, cmap="inferno", alpha=0.6)
            axes.set_title(f"{tag}, probability {probability:.2f}")
            axes.set_axis_off()
        return figure

    def __repr__(self) -> str:
        height, width = self.photograph.shape[:2]
        return f"ScoredImage({width}x{height}: {', '.join(self.tags)})"


def score_image(
    network: str | Path, image: ImageLike, tags: Sequence[str], device: str = "auto", **options: object
) -> ScoredImage:
    """Score a tagged image with a trained classification network, as the stage make_cam does.

    Args:
        network: A file `network.safetensors` of the stage train_cam. If its method keeps a memory, the snapshot
            `memory.safetensors` must lie beside it.
        image: As for `rca.prediction.model.Model.predict`.
        tags: The names of the classes that the image shows.
        device: As for `rca.load`.
        **options: Those of `rca.classifier.views.InferenceSettings`, e.g. `scales=(1.0,)`.

    Raises:
        UserError: a file is missing or broken, a tag is no class of the network, no tag is given, or an option is
            unknown or out of range.
    """
    settings = build_settings(InferenceSettings, options, "options", "cam")
    loaded = load_with_memory(Path(network)).to(find_device(device))
    classes = loaded.description.classes
    shown = torch.zeros(1, len(classes))
    for tag in (tags,) if isinstance(tags, str) else tags:
        if tag not in classes:
            raise UserError(f"{tag!r} is no class of {network}: choose from {', '.join(classes)}.")
        shown[0, classes.index(tag)] = 1
    if not shown.any():
        raise UserError("No tag is given: name the classes that the image shows.")
    photograph = read_image(image)
    maps, logits = score_batch(loaded, photograph[None], settings, 1, shown)
    chosen = shown[0].bool()
    tagged = normalise_tagged(loaded, maps[0, chosen.to(maps.device)])
    names = tuple(name for name, is_shown in zip(classes, chosen.tolist(), strict=True) if is_shown)
    return ScoredImage(names, tagged.cpu().numpy(), logits[0].cpu()[chosen].sigmoid().numpy(), photograph)


def load_with_memory(path: Path) -> CamNetwork:
    """Load a classification network, and its memory from the snapshot beside it."""
    network = load_network(path, {})
    if not network.method.keeps_memory:
        return network
    return load_network(path, load_tensors(path.with_name("memory.safetensors"), "snapshot_memory")[0])
