"""A trained segmentation model, ready for use: `rca.load(MODEL).predict(image)`."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from rca.core.arrays import Float32Array, UInt8Array
from rca.core.devices import choose_device
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import build_settings
from rca.prediction.inputs import ImageLike, read_image
from rca.prediction.tiling import PredictionOptions, segment
from rca.segmentation.network import Segmenter, SegmenterDescription, load_segmenter

# Rows to count at a time: counting takes 16 bytes a pixel.
COUNTED_ROWS = 256


@dataclass(frozen=True)
class LabelSummary:
    """A label of a mask.

    Attributes:
        label: 0 for the background, else 1..C.
        name: "background", or the class's name.
        pixels: The number of pixels with the label.
        share: Their share of the image, 0..1.
        confidence: The label's mean probability at these pixels, 0..1.
    """

    label: int
    name: str
    pixels: int
    share: float
    confidence: float


@dataclass(frozen=True)
class Prediction:
    """The segmentation of an image.

    Attributes:
        mask: (H, W), uint8, 0 background and 1..C.
        confidence: (H, W), float32: the probability of the mask's label, 0..1.
        labels: The labels in the mask, ascending, with the background.
    """

    mask: UInt8Array
    confidence: Float32Array
    labels: tuple[LabelSummary, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the mask."""
        return tuple(summary.name for summary in self.labels if summary.label)

    @property
    def areas(self) -> dict[str, int]:
        """The number of pixels of each class in the mask."""
        return {summary.name: summary.pixels for summary in self.labels if summary.label}


class Model:
    """A segmentation network and its file.

    Attributes:
        path: The file.
        sha256: The file's checksum.
        network: The network, in evaluation mode, on its device.
    """

    def __init__(self, path: Path, network: Segmenter) -> None:
        self.path = path
        self.sha256 = hash_file(path)
        self.network = network

    @property
    def description(self) -> SegmenterDescription:
        """The network's description: its classes, the normalisation of images, its provenance."""
        return self.network.description

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    def describe(self) -> dict[str, object]:
        """The model's file, checksum and description, for JSON."""
        return {"file": self.path.as_posix(), "sha256": self.sha256, **asdict(self.description)}

    def predict(self, image: ImageLike, **options: object) -> Prediction:
        """Segment an image.

        Args:
            image: A path or a Pillow image, which is rotated as its EXIF orientation says, or an array (H, W, 3),
                uint8, RGB.
            **options: Those of `rca.prediction.tiling.PredictionOptions`, e.g. `tile=512`.

        Raises:
            UserError: the image is missing, broken or not an 8-bit image, or an option is unknown or out of range.
        """
        return self.predict_with(read_image(image), read_options(options))

    def predict_with(self, image: UInt8Array, options: PredictionOptions) -> Prediction:
        """Segment an image (H, W, 3), uint8, RGB, with typed options."""
        mask, confidence = segment(self.network, image, options)
        return Prediction(mask, confidence, count_classes(mask, confidence, self.description.classes))


def load_model(path: str | Path, device: str = "auto") -> Model:
    """Load a segmentation model.

    Args:
        path: A file `segmenter.safetensors` of the stage train_seg.
        device: "auto" for a GPU if there is one, or torch's name, e.g. "cpu" or "cuda:1".

    Raises:
        UserError: the file is missing or holds no segmentation network, or there is no such device.
    """
    chosen = find_device(device)
    return Model(Path(path), load_segmenter(Path(path)).to(chosen))


def read_options(options: dict[str, object]) -> PredictionOptions:
    """Turn plain options into typed ones.

    Raises:
        UserError: an option is unknown or out of range.
    """
    return build_settings(PredictionOptions, options, "options", "predict")


def find_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        return choose_device()
    try:
        device = torch.device(name)
        torch.empty(1, device=device).add(1)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"There is no device {name} here ({reason}): choose auto, cpu or cuda.") from None
    return device


def count_classes(mask: UInt8Array, confidence: Float32Array, classes: tuple[str, ...]) -> tuple[LabelSummary, ...]:
    """Count the pixels of each label in a mask.

    Args:
        mask: (H, W), uint8, 0 background and 1..C.
        confidence: (H, W), float32, 0..1.
        classes: The C names.
    """
    names = ("background", *classes)
    pixels, sums = np.zeros(len(names), np.int64), np.zeros(len(names))
    for start in range(0, len(mask), COUNTED_ROWS):
        rows = slice(start, start + COUNTED_ROWS)
        labels = mask[rows].ravel()
        pixels += np.bincount(labels, minlength=len(names))
        sums += np.bincount(labels, confidence[rows].ravel(), len(names))
    return tuple(
        LabelSummary(label, names[label], count, count / mask.size, float(sums[label]) / count)
        for label, count in enumerate(pixels.tolist())
        if count
    )
