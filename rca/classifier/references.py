"""Inference beside reference images: other images of the training set that show the same class (MCIS).

Source: Sun, Wang, Dai and Van Gool, Mining Cross-Image Semantics for Weakly Supervised Semantic Segmentation, ECCV
2020: the map of a class is the mean over several references that contain it.
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

AS_IT_IS = View(1.0, False)


class ReferenceSettings(Settings):
    """What a method that pairs images sees an image beside; other methods see it alone.

    Attributes:
        number: References for each class of an image, or all there are; 0 takes the maps of the image alone.
        share: Of the maps beside references in those that are kept, 0..1; the rest is that of the image alone. Both are
            normalised before.
        memory_mb: How many MB of features of references are kept for other images; those used longest ago go first.
    """

    number: int = Field(default=3, ge=0)
    share: float = Field(default=0.5, ge=0, le=1)
    memory_mb: Annotated[float, Unpinned()] = Field(default=1024, gt=0)


@dataclass(frozen=True)
class Beside:
    """The references of a batch of images, M of them.

    Attributes:
        image: (M,), int64: which image of the batch each stands beside.
        label: (M,), int64: for which of its classes.
        features: Of each, (D, h', w'); None where the image stands beside itself.
        share: Of the maps beside references in those that are kept, 0..1.
        at_once: How many are looked at together.
    """

    image: Tensor
    label: Tensor
    features: Sequence[Tensor | None]
    share: float
    at_once: int

    def score(self, method: Method, output: Output) -> Tensor:
        """The maps of the batch beside its references: for each class the mean over those that were chosen for it.

        Args:
            method: It pairs images.
            output: What it gave for a view of the batch.

        Returns:
            (B, C, h, w); the maps of the image alone for classes without a reference.
        """
        total = torch.zeros_like(output.maps)
        count = total.new_zeros(total.shape[:2])
        for start in range(0, len(self.features), self.at_once):
            chosen = slice(start, start + self.at_once)
            image, label = self.image[chosen], self.label[chosen]
            own = output.features[image]
            others = [mine if one is None else one for one, mine in zip(self.features[chosen], own, strict=True)]
            maps = method.score_beside(own, *pad_features(others))
            row = torch.arange(len(image), device=image.device)
            total.index_put_((image, label), maps[row, label], accumulate=True)
            count.index_put_((image, label), torch.ones_like(label, dtype=count.dtype), accumulate=True)
        count = count[..., None, None]
        return torch.where(count > 0, total / count.clamp(min=1), output.maps)


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack features (D, h, w) of any sizes: (M, D, h, w), and where they are no padding, (M, 1, h, w)."""
    height, width = (max(one.shape[axis] for one in features) for axis in (1, 2))
    ends = [(0, width - one.shape[2], 0, height - one.shape[1]) for one in features]
    padded = torch.stack([functional.pad(one, end) for one, end in zip(features, ends, strict=True)])
    valid = [functional.pad(torch.ones_like(one[:1]), end) for one, end in zip(features, ends, strict=True)]
    return padded, torch.stack(valid)


class References:
    """Chooses references and keeps what the network makes of them, at their own size and not mirrored.

    Args:
        network: In evaluation mode; its method pairs images.
        manifest: The images that references are chosen from; those whose tags may be wrong (a weight below 1) are not.
        settings: How many, and what is made of them.
        precision: As in `InferenceSettings`.
        cache: The features of all these images, where the backbone is frozen; None computes them.
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
        self._kept: dict[str, Tensor] = {}  # the one used longest ago comes first
        self._showing: dict[int, list[ImageRecord]] = {}
        for record in sorted(manifest.images, key=lambda record: record.id):
            for tag in record.tags if record.weight >= 1 else ():
                self._showing.setdefault(tag, []).append(record)

    def choose(self, record: ImageRecord, tag: int) -> list[ImageRecord]:
        """The references of an image for one of its classes, drawn by a hash of both; fewer where there are no more.

        More references of the same images begin with the fewer ones.
        """
        others = [one for one in self._showing.get(tag, []) if one.id != record.id]
        digest = hashlib.sha256(f"{record.id}/{self.manifest.classes[tag]}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(others))
        return [others[number] for number in order[: self.settings.number]]

    def gather(self, batch: Sequence[ImageRecord]) -> Beside:
        """The references of a batch of images; an image that is alone with a class stands beside itself."""
        images, labels, chosen = [], [], []
        for image, record in enumerate(batch):
            for tag in record.tags:
                references: list[ImageRecord | None] = [*self.choose(record, tag)] or [None]
                images += [image] * len(references)
                labels += [tag] * len(references)
                chosen += references
        found = self._encode(one for one in chosen if one is not None)
        features = [None if one is None else found[one.id] for one in chosen]
        device = next(self.network.parameters()).device
        image_of, label_of = (torch.tensor(part, dtype=torch.int64, device=device) for part in (images, labels))
        return Beside(image_of, label_of, features, self.settings.share, len(batch))

    def _encode(self, records: Iterable[ImageRecord]) -> dict[str, Tensor]:
        """The features (D, h, w) of some images by id, computed where they are not kept."""
        found: dict[str, Tensor] = {}
        for record in records:
            if record.id not in found:
                found[record.id] = self._kept.pop(record.id) if record.id in self._kept else self._compute(record)
        self._kept.update(found)  # as the last ones
        while sum(one.nbytes for one in self._kept.values()) > self.settings.memory_mb * 2**20:
            self._kept.pop(next(iter(self._kept)))
        return found

    @torch.no_grad()
    def _compute(self, record: ImageRecord) -> Tensor:
        """The features of an image (D, h, w); it is looked at alone, so that they do not depend on what came before."""
        network = self.network
        device = next(network.parameters()).device
        if self.cache is not None:
            features = self.cache.read(record.id, AS_IT_IS)[None].to(device)
        else:
            photograph = read_photograph(self.manifest.photograph(record))
            image = normalise(photograph, network.description.mean, network.description.std)
            with choose_precision(device, self.precision):
                features, _ = network.encode(image[None].to(device))
        return network.neck(features)[0]
