"""Segmentation networks: a head on any of the backbones that classifiers have as well."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from rca.core.errors import UserError
from rca.models.backbones import OutputStride, build_backbone
from rca.models.storage import load_tensors, save_tensors
from rca.segmentation.heads import HeadName, build_head


@dataclass(frozen=True)
class Provenance:
    """How a segmentation network came about.

    Attributes:
        dataset: The dataset's name.
        split: The images that it was trained on.
        images: How many they are.
        longest_side: The median of their longest sides, in pixels.
        masks: Which of their masks, in words.
        masks_sha256: Checksum of the list of those masks' checksums.
        run: The run that it belongs to.
        seed: Its random seed.
        version: Of rca.
        code_sha256: Checksum of all code that its training ran.
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
    """All that is needed to build a segmentation network again, and where it comes from.

    Attributes:
        backbone: Its name.
        output_stride: Pixels for each feature.
        head: What sits on it.
        classes: The class names; label 0 is the background.
        mean: Normalisation of the images, for pixels in 0..1.
        std: Likewise.
        initialisation: Backbone and origin of its weights, in words.
        provenance: How it came about; None for one that no pipeline trained.
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
        description: What to build.
    """

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
        return functional.interpolate(self.head(*self.backbone(images)), images.shape[2:], mode="bilinear")


def save_segmenter(path: Path, network: Segmenter) -> None:
    """Write a network's weights and description, whole or not at all."""
    save_tensors(path, network.state_dict(), asdict(network.description))


def load_segmenter(path: Path) -> Segmenter:
    """Read what `save_segmenter` wrote, on the CPU and in evaluation mode.

    Raises:
        UserError: the file is missing, broken or holds something else.
    """
    tensors, fields = load_tensors(path, "train_seg")
    try:
        network = Segmenter(_read_description(fields))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError):
        off = " (train_seg was switched off)" if fields.get("enabled") is False else ""
        raise UserError(
            f"{path} holds no segmentation network of this version{off}: name what train_seg writes, "
            "segmenter.safetensors."
        ) from None
    return network.eval()


def _read_description(fields: dict[str, Any]) -> SegmenterDescription:
    listed = {key: tuple(fields[key]) for key in ("classes", "mean", "std")}
    provenance = fields.get("provenance")
    return SegmenterDescription(**{**fields, **listed, "provenance": provenance and Provenance(**provenance)})
