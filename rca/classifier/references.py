"""Inference beside references: other training images that show the same class (MCIS).

Source: Sun, Wang, Dai and Van Gool, Mining Cross-Image Semantics for Weakly Supervised Semantic Segmentation, ECCV
2020: the map of a class is the mean over several references that show it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rca.classifier.network import CamNetwork
from rca.core.files import read_photograph
from rca.core.precision import Precision, choose_precision
from rca.core.settings import Settings, Unpinned
from rca.data.loading.features import FeatureCache, View
from rca.data.loading.images import normalise
from rca.data.manifest import ImageRecord, Manifest
from rca.methods.base import Method
from rca.models.output import Output

ORIGINAL = View(1.0, False)


class ReferenceSettings(Settings):
    """The references of an image, for a method that pairs images; other methods score each image alone.

    Attributes:
        number: Maximum number of references per class of an image; 0 uses the maps of the image alone.
        share: Weight of the maps beside references in the result, 0..1, against the maps of the image alone. Both are
            normalised first.
        memory_mb: Maximum size of the cached features of references, in MB; the least recently used are dropped first.
    """

    number: int = Field(default=3, ge=0)
    share: float = Field(default=0.5, ge=0, le=1)
    memory_mb: Annotated[float, Unpinned()] = Field(default=1024, gt=0)


@dataclass(frozen=True)
class Beside:
    """The M references of a batch of images.

    Attributes:
        image: (M,), int64: the image of the batch that the reference belongs to.
        label: (M,), int64: the class of the image that the reference is for.
        features: For each reference (D, h', w'); None if the image is its own reference.
        share: Weight of the maps beside references in the result, 0..1.
        at_once: Number of references that are scored at once.
    """

    image: Tensor
    label: Tensor
    features: Sequence[Tensor | None]
    share: float
    at_once: int

    def score(self, method: Method, output: Output) -> Tensor:
        """The maps of the batch beside its references: for each class the mean over the references of that class.

        Args:
            method: A method that pairs images.
            output: Its output for a view of the batch.

        Returns:
            (B, C, h, w); for classes without a reference, the maps of the image alone.
        """
        total = torch.zeros_like(output.maps)
        count = total.new_zeros(total.shape[:2])
        for start in range(0, len(self.features), self.at_once):
            chosen = slice(start, start + self.at_once)
            image, label = self.image[chosen], self.label[chosen]
            features = output.features[image]
            others = [
                of_image if reference is None else reference
                for reference, of_image in zip(self.features[chosen], features, strict=True)
            ]
            maps = method.score_beside(features, *pad_features(others))
            row = torch.arange(len(image), device=image.device)
            total.index_put_((image, label), maps[row, label], accumulate=True)
            count.index_put_((image, label), torch.ones_like(label, dtype=count.dtype), accumulate=True)
        count = count[..., None, None]
        return torch.where(count > 0, total / count.clamp(min=1), output.maps)


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad and stack features (D, h, w) of any sizes: (M, D, h, w), and the valid region, 0 on padding (M, 1, h, w)."""
    height, width = (max(tensor.shape[axis] for tensor in features) for axis in (1, 2))

    def pad(tensor: Tensor) -> Tensor:
        return functional.pad(tensor, (0, width - tensor.shape[2], 0, height - tensor.shape[1]))

    padded = torch.stack([pad(tensor) for tensor in features])
    return padded, torch.stack([pad(torch.ones_like(tensor[:1])) for tensor in features])


class References:
    """Chooses references and caches their features, at their own size and not mirrored.

    Args:
        network: In evaluation mode; its method pairs images.
        manifest: The images to choose from, except those with unsure tags (a weight below 1).
        settings: Number of references, their weight and the size of the cache.
        precision: As in `InferenceSettings`.
        cache: The features of all these images, if the backbone is frozen; None computes them.
    """

    def __init__(
        self,
        network: CamNetwork,
        manifest: Manifest,
        settings: ReferenceSettings,
        precision: Precision,
        cache: FeatureCache | None = None,
    ) -> None:
        self.network, self.manifest, self.cache = network, manifest, cache
        self.settings, self.precision = settings, precision
        self._kept: dict[str, Tensor] = {}  # the least recently used first
        self._showing: dict[int, list[ImageRecord]] = {}
        for record in sorted(manifest.images, key=lambda record: record.id):
            for tag in record.tags if record.weight >= 1 else ():
                self._showing.setdefault(tag, []).append(record)

    def choose(self, record: ImageRecord, tag: int) -> list[ImageRecord]:
        """The references of an image for one of its classes, drawn by a hash of both; fewer if there are no more.

        A larger `number` adds references to those of a smaller one.
        """
        others = [other for other in self._showing.get(tag, []) if other.id != record.id]
        digest = hashlib.sha256(f"{record.id}/{self.manifest.classes[tag]}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(others))
        return [others[index] for index in order[: self.settings.number]]

    def gather(self, batch: Sequence[ImageRecord]) -> Beside:
        """The references of a batch of images; an image that alone shows a class is its own reference."""
        images, labels, chosen = [], [], []
        for image, record in enumerate(batch):
            for tag in record.tags:
                references: list[ImageRecord | None] = [*self.choose(record, tag)] or [None]
                images += [image] * len(references)
                labels += [tag] * len(references)
                chosen += references
        encoded = self._encode(record for record in chosen if record is not None)
        features = [None if record is None else encoded[record.id] for record in chosen]
        device = next(self.network.parameters()).device
        image_of, label_of = (torch.tensor(part, dtype=torch.int64, device=device) for part in (images, labels))
        return Beside(image_of, label_of, features, self.settings.share, len(batch))

    def _encode(self, records: Iterable[ImageRecord]) -> dict[str, Tensor]:
        """The features (D, h, w) of some images by id, from the cache if they are in it."""
        encoded: dict[str, Tensor] = {}
        for record in records:
            if record.id not in encoded:
                encoded[record.id] = self._kept.pop(record.id) if record.id in self._kept else self._compute(record)
        self._kept.update(encoded)  # as the most recently used
        while sum(features.nbytes for features in self._kept.values()) > self.settings.memory_mb * 2**20:
            self._kept.pop(next(iter(self._kept)))
        return encoded

    @torch.no_grad()
    def _compute(self, record: ImageRecord) -> Tensor:
        """The features of an image (D, h, w), encoded alone so that they do not depend on other images."""
        network = self.network
        device = next(network.parameters()).device
        if self.cache is not None:
            features = self.cache.read(record.id, ORIGINAL)[None].to(device)
        else:
            photograph = read_photograph(self.manifest.photograph(record))
            image = normalise(photograph, network.description.mean, network.description.std)
            with choose_precision(device, self.precision):
                features, _ = network.encode(image[None].to(device))
        neck_features: Tensor = network.neck(features)
        return neck_features[0]
