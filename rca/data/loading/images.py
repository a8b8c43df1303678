"""From records to batches: augmentation, padding, and an order that depends on the seed and the epoch only.

Each sample has its own generator, seeded by (seed, epoch, index). So batches do not depend on the number of workers,
and a training that was stopped continues as if it had not been.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from rca.core.arrays import UInt8Array
from rca.core.distributed import rank, world_size
from rca.core.errors import UserError
from rca.core.files import IGNORE, read_mask, read_photograph
from rca.data.loading.augmentation import AugmentationSettings, augment
from rca.data.loading.pairs import Partners
from rca.data.manifest import ImageRecord, Manifest

KEPT_BYTES = 128 << 20
"""Photographs and masks of a training that take no more memory, decoded, are decoded once and kept."""


class Sample(NamedTuple):
    """One image or its features, or a batch of them with a leading dimension.

    A training on images fills `image` and leaves `features` empty; a training on the cached features of a frozen
    backbone fills `features` and leaves `image` empty. H and W are the height and width of the one that is filled.

    Attributes:
        image: (3, H, W), float32, normalised; empty in a training on features.
        valid: (1, H, W), float32: 1 on the image, 0 on padding.
        tags: (C,), float32 of 0 and 1.
        mask: (H, W), int64, labels with 255 for ignore; all 255 if masks are not loaded.
        position: The position of the image in the manifest, int64.
        frame: (4,), float32, a, b, c, d: the point (x, y) of the image is the point (a x + b, c y + d) of the
            photograph, in pixels.
        weight: (), float32: the weight of the image in the loss on its tags.
        saliency: (1, H, W), float32, 0..1: how salient each pixel is, 0 on padding; empty if it is not loaded.
        features: (D, H, W), float32, what the backbone computes of the image; empty in a training on images.
    """

    image: Tensor
    valid: Tensor
    tags: Tensor
    mask: Tensor
    position: Tensor
    frame: Tensor
    weight: Tensor = torch.ones(())
    saliency: Tensor = torch.empty(0)
    features: Tensor = torch.empty(0)


class TrainingImages(Dataset[Sample]):
    """Augmented images, indexed by (epoch, number), or by (epoch, number, n) for a further augmentation of that image.

    Args:
        manifest: The dataset.
        records: The images to train on.
        augmentation: How they are augmented.
        mean: Mean per channel, for pixels in 0..1.
        std: Standard deviation per channel, for pixels in 0..1.
        seed: The run's seed.
        masks: The path of each image's mask by image id; None trains on tags only.
        saliency: Whether samples hold saliency maps.
    """

    def __init__(
        self,
        manifest: Manifest,
        records: tuple[ImageRecord, ...],
        augmentation: AugmentationSettings,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
        masks: Mapping[str, Path] | None = None,
        saliency: bool = False,
    ) -> None:
        self.manifest = manifest
        self.records = records
        self.augmentation = augmentation
        self.mean, self.std = mean, std
        self.seed = seed
        self.masks = masks
        self.saliency = saliency
        self._keeps = sum((3 if masks is None else 4) * one.height * one.width for one in records) <= KEPT_BYTES
        self._kept: dict[Path, UInt8Array] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        record = self.records[key[1]]
        random = np.random.default_rng([self.seed, *key])
        image = Image.fromarray(self._read(self.manifest.photograph(record), read_photograph))
        mask = Image.fromarray(self._read_mask(record))
        salient = Image.fromarray(self._read_saliency(record)) if self.saliency else None
        image, mask, frame, salient = augment(image, mask, self.augmentation, random, salient)
        normalised = normalise(np.asarray(image), self.mean, self.std)
        tags = torch.from_numpy(self.manifest.encode_tags(record))
        return Sample(
            image=normalised,
            valid=torch.ones(1, *normalised.shape[1:]),
            tags=tags,
            mask=torch.from_numpy(np.array(mask, dtype=np.int64)),
            position=torch.tensor(self.manifest.index[record.id]),
            frame=torch.tensor(frame),
            weight=torch.tensor(record.weight),
            saliency=torch.empty(0) if salient is None else torch.from_numpy(np.array(salient)[None]).float() / 255,
        )

    def _read(self, path: Path, read: Callable[[Path], UInt8Array]) -> UInt8Array:
        """Read a photograph or a mask, or take it from memory."""
        if path in self._kept:
            return self._kept[path]
        content = read(path)
        if self._keeps:
            self._kept[path] = content
        return content

    def _read_mask(self, record: ImageRecord) -> UInt8Array:
        if self.masks is None:
            return np.full((record.height, record.width), IGNORE, np.uint8)
        path = self.masks[record.id]
        mask = self._read(path, read_mask)
        if mask.shape != (record.height, record.width):
            raise UserError(f"The mask {path} is not of its photograph's size: rerun the stage that wrote it.")
        return mask

    def _read_saliency(self, record: ImageRecord) -> UInt8Array:
        path = self.manifest.saliency(record)
        saliency = read_mask(path, "saliency map")
        if saliency.shape != (record.height, record.width):
            raise UserError(f"The saliency map {path} is not of its photograph's size: make the two the same size.")
        return saliency


def normalise(image: UInt8Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalise pixels for a network.

    Args:
        image: (H, W, 3).
        mean: Mean per channel, for pixels in 0..1.
        std: Standard deviation per channel, for pixels in 0..1.

    Returns:
        (3, H, W), float32.
    """
    scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def collate(samples: list[Sample], side: int | None) -> Sample:
    """Pad samples to one size and stack them.

    Args:
        samples: Samples of any sizes.
        side: Side of the square to pad to; None pads to the largest height and width of the samples.
    """
    height = side or max(sample.valid.shape[1] for sample in samples)
    width = side or max(sample.valid.shape[2] for sample in samples)

    def pad(tensors: Sequence[Tensor], fill: float = 0.0) -> Tensor:
        if tensors[0].numel() == 0:
            return tensors[0]
        ends = [(0, width - tensor.shape[-1], 0, height - tensor.shape[-2]) for tensor in tensors]
        return torch.stack([functional.pad(tensor, end, value=fill) for tensor, end in zip(tensors, ends, strict=True)])

    images, valid, tags, masks, positions, frames, weights, saliency, features = zip(*samples, strict=True)
    return Sample(
        image=pad(images),
        valid=pad(valid),
        tags=torch.stack(tags),
        mask=pad(masks, IGNORE),
        position=torch.stack(positions),
        frame=torch.stack(frames),
        weight=torch.stack(weights),
        saliency=pad(saliency),
        features=pad(features),
    )


class EpochSampler(Sampler[list[tuple[int, ...]]]):
    """Batches of (epoch, number) in an order drawn from the seed and the epoch.

    An incomplete last batch is kept, unless it has fewer images than ranks, or a single image although other batches
    have more. Each rank gets its own contiguous part of every batch; together the parts are the batch of one process.

    Args:
        count: Number of images, at least one per rank.
        batch_size: Images per batch, at least one per rank.
        seed: The run's seed.
        rank: The rank of this process.
        ranks: Number of processes that share each batch.
        partners: Draws a partner for each image. A batch then holds its images and after them, in the same order, their
            partners, augmented independently for each pair; None draws no partners.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        partners: Partners | None = None,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.ranks = rank, ranks
        self.partners = partners
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.batch_size)
        return full + (rest >= max(2 if full else 1, self.ranks))

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.count)
        # Drawn for all images on every rank, so that pairs depend on neither batches nor ranks.
        partners = self.partners.draw(random) if self.partners else []
        for batch in range(len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            part = [int(number) for number in np.array_split(chosen, self.ranks)[self.rank]]
            keys: list[tuple[int, ...]] = [(self.epoch, number) for number in part]
            if self.partners:
                # Counted from 1, since a seed sequence that ends with 0 draws the same numbers as the one without it.
                keys += [(self.epoch, partners[number], 1 + number) for number in part]
            yield keys


def make_loader(
    images: TrainingImages, batch_size: int, workers: int, pairs: bool = False
) -> tuple[DataLoader[Sample], EpochSampler]:
    """A loader of training batches, and its sampler, whose `epoch` must be set before each pass.

    Args:
        images: The images to load.
        batch_size: Images per batch, over all ranks.
        workers: Loading processes per rank; 0 loads in the training process.
        pairs: Whether each image comes with a partner that shares a class, see `EpochSampler`.

    Raises:
        UserError: there are fewer images than ranks.
    """
    if len(images) < world_size():
        raise UserError(f"{len(images)} images are too few for {world_size()} processes: lower optimisation.processes.")
    partners = Partners([record.tags for record in images.records]) if pairs else None
    sampler = EpochSampler(len(images), batch_size, images.seed, rank(), world_size(), partners)
    loader = DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate, side=images.augmentation.crop),
        pin_memory=torch.cuda.is_available(),
    )
    return loader, sampler
