"""A trained segmentation model, ready for use: `rca.load(MODEL).predict(image)`.

MODEL is the file of a network, or a folder that `rca export hub` wrote.
"""

from dataclasses import asdict
from pathlib import Path
from typing import overload

import torch

from rca.core.arrays import UInt8Array
from rca.core.devices import choose_device
from rca.core.errors import UserError
from rca.core.files import hash_file, read_json
from rca.core.settings import build_settings
from rca.prediction.inputs import ImageLike, read_image
from rca.prediction.labels import count_labels
from rca.prediction.result import Prediction
from rca.prediction.tiling import PredictionOptions, segment
from rca.segmentation.network import Segmenter, SegmenterDescription, load_segmenter

# The files of a folder in Hugging Face's layout.
WEIGHTS, CONFIG = "model.safetensors", "config.json"
Images = list[ImageLike] | tuple[ImageLike, ...]


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

    @overload
    def predict(self, image: ImageLike, **options: object) -> Prediction: ...

    @overload
    def predict(self, image: Images, **options: object) -> list[Prediction]: ...

    def predict(self, image: ImageLike | Images, **options: object) -> Prediction | list[Prediction]:
        """Segment an image, or each of several.

        Args:
            image: A path or a Pillow image, which is rotated as its EXIF orientation says, an array (H, W, 3), uint8,
                RGB, or a tensor (3, H, W), uint8 or float of 0..1, RGB; or a list or tuple of these.
            **options: Those of `rca.prediction.tiling.PredictionOptions`, e.g. `tile=512`.

        Returns:
            The segmentation of the image; a list of them for several images, in their order.

        Raises:
            UserError: the image is missing, broken or not an 8-bit image, or an option is unknown or out of range.
        """
        chosen = read_options(options)
        if isinstance(image, list | tuple):
            return [self.predict_with(read_image(each), chosen) for each in image]
        return self.predict_with(read_image(image), chosen)

    def predict_with(self, image: UInt8Array, options: PredictionOptions) -> Prediction:
        """Segment an image (H, W, 3), uint8, RGB, with typed options."""
        mask, confidence = segment(self.network, image, options)
        return Prediction(mask, confidence, count_labels(mask, confidence, self.description.classes), image)

    def __repr__(self) -> str:
        about = self.description
        return f"Model({self.path.name}: {about.backbone}, {len(about.classes)} classes: {', '.join(about.classes)})"


def load_model(path: str | Path, device: str = "auto") -> Model:
    """Load a segmentation model.

    Args:
        path: A file `segmenter.safetensors` of the stage train_seg, or a folder of `rca export hub`.
        device: "auto" for a GPU if there is one, or torch's name, e.g. "cpu" or "cuda:1".

    Raises:
        UserError: the file is missing or holds no segmentation network, the folder is not whole, or there is no such
            device.
    """
    chosen, folder = find_device(device), Path(path)
    if not folder.is_dir():
        return Model(folder, load_segmenter(folder).to(chosen))
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"The folder {path} holds no {name}: name one that `rca export hub` wrote, or a file.")
    model = Model(folder / WEIGHTS, load_segmenter(folder / WEIGHTS).to(chosen))
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("sha256") != model.sha256:
        raise UserError(f"{folder / CONFIG} is of other weights than {WEIGHTS} beside it: fetch the folder again.")
    return model


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
