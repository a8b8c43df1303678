"""Features of each view of an image, computed once by a frozen backbone: a training then runs on the features.

They are stored in float16 in a directory of safetensors files, each with the features of many images.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.data.loading.augmentation import AugmentationSettings, draw_augmentation
from rca.data.loading.images import Sample, TrainingImages
from rca.data.manifest import ImageRecord, Manifest

FILE_SIZE = 2.0**28
"""Bytes per file, approximately."""


class View(NamedTuple):
    """A view of an image: its scale, and whether it is mirrored.

    Attributes:
        scale: Factor by which both sides are resized.
        mirrored: Whether left and right are exchanged.
    """

    scale: float
    mirrored: bool


def list_training_views(augmentation: AugmentationSettings) -> tuple[View, ...]:
    """The views that a training on whole images uses."""
    return (View(1.0, False), View(1.0, True)) if augmentation.flip else (View(1.0, False),)


def name_features(image_id: str, view: View) -> str:
    """The name of an image's features in their file, e.g. `cow_3/1.5/mirrored`."""
    return f"{image_id}/{float(view.scale)}{'/mirrored' if view.mirrored else ''}"


class FeatureWriter:
    """Writes features into the files of a directory.

    Args:
        directory: An empty directory.
        file_size: Bytes per file, approximately, which are also held in memory.
    """

    def __init__(self, directory: Path, file_size: float = FILE_SIZE) -> None:
        self.directory, self.file_size = directory, file_size
        self._waiting: dict[str, Tensor] = {}
        self._files = 0

    def add(self, image_id: str, view: View, features: Tensor) -> None:
        """Add the features of a view (D, h, w).

        Raises:
            UserError: they exceed the range of float16.
        """
        half = features.half().cpu().contiguous()
        if not torch.isfinite(half).all():
            raise UserError(f"The backbone's features of {image_id} exceed float16: set backbone.trainable to all.")
        self._waiting[name_features(image_id, view)] = half
        if sum(tensor.nbytes for tensor in self._waiting.values()) >= self.file_size:
            self.flush()

    def flush(self) -> None:
        """Write the features that are not written yet."""
        if self._waiting:
            save_file(self._waiting, self.directory / f"{self._files}.safetensors")
            self._waiting = {}
            self._files += 1


class TensorReader(Protocol):
    """An open safetensors file."""

    def keys(self) -> list[str]:
        """The names of its tensors."""

    def get_tensor(self, name: str) -> Tensor:
        """One tensor."""


class FeatureCache:
    """Features of images, in memory-mapped files.

    Args:
        directories: Directories that `FeatureWriter`s filled, or parents of such directories. They are empty if the
            backbone is trained.

    Raises:
        UserError: a directory does not exist, or a file in it is broken.
    """

    def __init__(self, *directories: Path) -> None:
        for directory in directories:
            if not directory.is_dir():
                raise UserError(f"{directory} does not exist: run cache_features first.")
        self.directories = directories
        self._files: dict[str, TensorReader] = {}
        for path in sorted(path for directory in directories for path in directory.rglob("*.safetensors")):
            try:
                file: TensorReader = safe_open(path, "pt")
            except SafetensorError as error:
                raise UserError(f"{path} is broken ({error}): run cache_features again.") from None
            self._files.update(dict.fromkeys(file.keys(), file))

    def __reduce__(self) -> tuple[type, tuple[Path, ...]]:
        return type(self), self.directories  # each loading process opens the files itself

    def __len__(self) -> int:
        return len(self._files)

    def read(self, image_id: str, view: View) -> Tensor:
        """The features of a view (D, h, w), float32.

        Raises:
            UserError: there are no such features.
        """
        name = name_features(image_id, view)
        if name not in self._files:
            places = " and ".join(map(str, self.directories))
            raise UserError(f"{places} holds no features {name}: run cache_features again.")
        return self._files[name].get_tensor(name).float()


class TrainingFeatures(TrainingImages):
    """The features of whole images, mirrored or not, instead of the images.

    Args:
        manifest: The dataset.
        records: The images to train on.
        augmentation: Only `flip` is used.
        seed: The run's seed; the same images are mirrored as by `TrainingImages`.
        cache: The features.
    """

    def __init__(
        self,
        manifest: Manifest,
        records: tuple[ImageRecord, ...],
        augmentation: AugmentationSettings,
        seed: int,
        cache: FeatureCache,
    ) -> None:
        super().__init__(manifest, records, AugmentationSettings(flip=augmentation.flip), (), (), seed)
        self.cache = cache

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        record = self.records[key[1]]
        random = np.random.default_rng([self.seed, *key])
        mirrored = draw_augmentation(self.augmentation, (record.width, record.height), random).mirrored
        features = self.cache.read(record.id, View(1.0, mirrored))
        size = features.shape[1:]
        across, down = record.width / size[1], record.height / size[0]
        return Sample(
            image=torch.empty(0),
            valid=torch.ones(1, *size),
            tags=torch.from_numpy(self.manifest.encode_tags(record)),
            mask=torch.full(size, IGNORE),
            position=torch.tensor(self.manifest.index[record.id]),
            frame=torch.tensor((-across, float(record.width), down, 0.0) if mirrored else (across, 0.0, down, 0.0)),
            weight=torch.tensor(record.weight),
            features=features,
        )
