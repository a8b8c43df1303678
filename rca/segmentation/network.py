"""Segmentation networks: a head on a backbone."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.core.errors import UserError, flatten
from rca.models.backbones import OutputStride, build_backbone
from rca.models.description import check_shapes, read_description
from rca.models.storage import load_tensors, save_tensors
from rca.segmentation.heads import HeadName, LevelsHead, build_head


@dataclass(frozen=True)
class Provenance:
    """The origin of a segmentation network.

    Attributes:
        dataset: The dataset's name.
        split: The split that it was trained on.
        images: Number of images in the split.
        longest_side: The median of the images' longest sides, in pixels.
        masks: The kind of masks, in words.
        masks_sha256: Checksum of the list of the masks' checksums.
        run: The run that it belongs to.
        seed: The run's seed.
        version: The version of the package rca.
        code_sha256: Checksum of all code that the training ran.
    """

    dataset: str
    split: str
    images: int
    longest_side: int
    masks: str
    masks_sha256: str
    run: str
    seed: int
    version: str
    code_sha256: str


@dataclass(frozen=True)
class SegmenterDescription:
    """Everything needed to build the segmentation network again, and its origin.

    Attributes:
        backbone: The backbone's name.
        output_stride: Pixels per feature.
        head: The head's name.
        classes: The class names; label 0 is the background.
        mean: Mean of the images' normalisation, per channel, for pixels in 0..1.
        std: Standard deviation of the images' normalisation, per channel, for pixels in 0..1.
        initialisation: Backbone and origin of its weights, in words.
        provenance: The origin of the network; None if no pipeline trained it.
    """

    backbone: str
    output_stride: OutputStride
    head: HeadName
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    initialisation: str
    provenance: Provenance | None = None


class Segmenter(nn.Module):
    """A backbone with a segmentation head.

    Args:
        description: The network to build.
    """

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    def __init__(self, description: SegmenterDescription) -> None:
        super().__init__()
        self.description = description
        self.backbone = build_backbone(description.backbone, description.output_stride)
        outputs = len(description.classes) + 1
        self.head = build_head(description.head, self.backbone, outputs, description.output_stride)

    def forward(self, images: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, C+1, H, W), logits, background first.
        """
        by_levels = isinstance(self.head, LevelsHead)
        features = self.backbone.extract_levels(images) if by_levels else self.backbone(images)
        return functional.interpolate(self.head(*features), images.shape[2:], mode="bilinear")


def save_segmenter(path: Path, network: Segmenter) -> None:
    """Write a network's weights and description, whole or not at all."""
    save_tensors(path, network.state_dict(), asdict(network.description))


def load_segmenter(path: Path) -> Segmenter:
    """Load a network that `save_segmenter` wrote, on the CPU and in evaluation mode.

    Raises:
        UserError: the file is missing or broken, or holds no segmentation network.
    """
    tensors, fields = load_tensors(path, "train_seg")
    try:
        description = read_description(SegmenterDescription, fields)
        with torch.device("meta"):  # takes no memory, whatever the description asks for
            check_shapes(Segmenter(description), tensors)
    except ValueError as error:
        raise UserError(
            f"{path} holds no segmentation network of this version ({flatten(str(error))}): name what train_seg writes,"
            " segmenter.safetensors."
        ) from None
    network = Segmenter(description)
    network.load_state_dict(tensors)
    return network.eval()
