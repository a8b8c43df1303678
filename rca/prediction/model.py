"""A segmentation model as people use it: `rca.load(MODEL).predict(image)`."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from rca.core.arrays import Float32Array, UInt8Array
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import build_settings
from rca.prediction.inputs import ImageLike, read_image
from rca.prediction.tiling import PredictionOptions, segment
from rca.segmentation.network import Segmenter, SegmenterDescription, load_segmenter
from rca.training.trainer import choose_device

# Rows that are counted at a time: counting needs 16 bytes for each of their pixels.
COUNTED_ROWS = 256


@dataclass(frozen=True)
class FoundClass:
    """A label that a mask holds.

    Attributes:
        label: 0 for the background, else 1..C.
        name: "background", or the class.
        pixels: How many have the label.
        share: Of the image's pixels, 0..1.
        confidence: The mean probability of the label at those pixels, 0..1.
    """

    label: int
    name: str
    pixels: int
    share: float
    confidence: float


@dataclass(frozen=True)
class Prediction:
    """What a model finds in one image.

    Attributes:
        mask: (H, W), uint8, 0 background and 1..C.
        confidence: (H, W), float32: the probability of the mask's label, 0..1.
        found: The labels that the mask holds, ascending, the background among them.
    """

    mask: UInt8Array
    confidence: Float32Array
    found: tuple[FoundClass, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that were found."""
        return tuple(one.name for one in self.found if one.label)

    @property
    def areas(self) -> dict[str, int]:
        """The pixels of each class that was found."""
        return {one.name: one.pixels for one in self.found if one.label}


class Model:
    """A segmentation network with its file.

    Attributes:
        path: The file.
        sha256: Its checksum.
        network: In evaluation mode, on its device.
    """

    def __init__(self, path: Path, network: Segmenter) -> None:
        self.path = path
        self.sha256 = hash_file(path)
        self.network = network

    @property
    def description(self) -> SegmenterDescription:
        """What the network is: its classes, the normalisation of images, where it comes from."""
        return self.network.description

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device

    def describe(self) -> dict[str, object]:
        """All that is known of the model, as JSON holds it."""
        return {"file": self.path.as_posix(), "sha256": self.sha256, **asdict(self.description)}

    def predict(self, image: ImageLike, **options: object) -> Prediction:
        """Segment an image.

        Args:
            image: A path, a Pillow image or (H, W, 3), uint8, RGB. A path's or a Pillow image's EXIF orientation
                counts: the mask lies over the picture as one looks at it.
            **options: Of `rca.prediction.tiling.PredictionOptions`, e.g. `tile=512`.

        Raises:
            UserError: the image is missing, broken or no 8-bit image, or an option is unknown or out of range.
        """
        return self.predict_with(read_image(image), read_options(options))

    def predict_with(self, image: UInt8Array, options: PredictionOptions) -> Prediction:
        """The same of an image (H, W, 3), uint8, RGB, with options that were read."""
        mask, confidence = segment(self.network, image, options)
        return Prediction(mask, confidence, count_classes(mask, confidence, self.description.classes))


def load_model(path: str | Path, device: str = "auto") -> Model:
    """Load a segmentation model.

    Args:
        path: What train_seg wrote, `segmenter.safetensors`.
        device: "auto" for a GPU where there is one, or torch's name, e.g. "cpu" or "cuda:1".

    Raises:
        UserError: the file is missing or holds no segmentation network, or there is no such device.
    """
    place = find_device(device)
    return Model(Path(path), load_segmenter(Path(path)).to(place))


def read_options(options: dict[str, object]) -> PredictionOptions:
    """Options as typed settings.

    Raises:
        UserError: one is unknown or out of range.
    """
    return build_settings(PredictionOptions, options, "options", "predict")


def find_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        UserError: there is no such device here.
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


def count_classes(mask: UInt8Array, confidence: Float32Array, classes: tuple[str, ...]) -> tuple[FoundClass, ...]:
    """Count what a mask holds.

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
        FoundClass(label, names[label], count, count / mask.size, float(sums[label]) / count)
        for label, count in enumerate(pixels.tolist())
        if count
    )
