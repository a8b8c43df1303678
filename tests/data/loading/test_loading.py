from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.data.loading import images as loading
from rca.data.loading.augmentation import AugmentationSettings, augment
from rca.data.loading.images import EpochSampler, Sample, TrainingImages, collate, make_loader
from rca.data.manifest import Manifest

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FULL = AugmentationSettings(scale=(0.7, 1.4), crop=37, flip=True, jitter=0.3)
NONE = AugmentationSettings(flip=False)


def build(manifest: Manifest, augmentation: AugmentationSettings = FULL, seed: int = 0) -> TrainingImages:
    masks = {record.id: manifest.truth(record) for record in manifest.images}
    return TrainingImages(manifest, manifest.images, augmentation, MEAN, STD, seed, masks)


def same(one: Sample, two: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_sample_is_the_image_its_tags_and_its_mask(manifest: Manifest) -> None:
    images = build(manifest, NONE)
    for number, record in enumerate(manifest.images):
        sample = images[0, number]
        photograph = np.asarray(Image.open(manifest.photograph(record))) / 255
        np.testing.assert_allclose(sample.image, ((photograph - MEAN) / STD).transpose(2, 0, 1), atol=1e-5)
        np.testing.assert_array_equal(sample.mask, np.asarray(Image.open(manifest.truth(record))))
        assert sample.valid.shape == (1, record.height, record.width)
        assert sample.valid.all()
        assert sample.tags.tolist() == [float(index in record.tags) for index in range(3)]
        assert sample.position == number


def test_a_sample_depends_on_seed_epoch_and_number_alone(manifest: Manifest) -> None:
    images = build(manifest)
    first = images[3, 1]
    for key in [(0, 0), (3, 2)]:
        images[key]
    torch.manual_seed(99)
    assert same(images[3, 1], first)
    assert same(build(manifest)[3, 1], first)
    assert not same(images[4, 1], first)
    assert not same(build(manifest, seed=1)[3, 1], first)


@pytest.mark.parametrize("start", ["fork", "forkserver"])  # Python chooses by its version and the system
def test_batches_do_not_depend_on_the_number_of_workers(manifest: Manifest, start: str) -> None:
    batches = []
    for workers in (0, 1):
        loader, sampler = make_loader(build(manifest), 2, workers)
        if workers:
            loader.multiprocessing_context = start
        for epoch in range(2):
            sampler.epoch = epoch
            batches.append(list(loader))
    assert all(same(one, two) for one, two in zip(batches[0], batches[2], strict=True))
    assert all(same(one, two) for one, two in zip(batches[1], batches[3], strict=True))
    assert not same(batches[0][0], batches[1][0])


def test_a_small_dataset_is_decoded_once(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = build(manifest)
    monkeypatch.setattr(loading, "KEPT_BYTES", 0)
    read_again = build(manifest)
    keys = [(epoch, number) for epoch in range(2) for number in range(4)]
    samples = [read_again[key] for key in keys]
    assert all(same(kept[key], sample) for key, sample in zip(keys, samples, strict=True))
    for record in manifest.images:
        manifest.photograph(record).unlink()
    assert all(same(kept[key], sample) for key, sample in zip(keys, samples, strict=True))
    with pytest.raises(UserError, match="does not exist"):
        read_again[keys[0]]


def test_position_is_that_in_the_whole_manifest(manifest: Manifest) -> None:
    images = TrainingImages(manifest, manifest.select("val"), NONE, MEAN, STD, 0)
    assert [int(images[0, number].position) for number in range(2)] == [2, 3]
    assert (images[0, 0].mask == IGNORE).all()  # no mask was asked for


def test_a_batch_knows_what_its_images_count(manifest: Manifest) -> None:
    records = [replace(record, weight=weight) for record, weight in zip(manifest.images, (1, 0.5, 0.25), strict=False)]
    images = TrainingImages(manifest, tuple(records), NONE, MEAN, STD, 0)
    assert collate([images[0, number] for number in (2, 0, 1)], None).weight.tolist() == [0.25, 1, 0.5]


def test_a_mask_of_another_size_is_named(manifest: Manifest) -> None:
    record = replace(manifest.images[0], width=51)
    with pytest.raises(UserError, match=r"a1\.png is not of its photograph's size"):
        TrainingImages(manifest, (record,), NONE, MEAN, STD, 0, {record.id: manifest.truth(record)})[0, 0]


def draw_coded(height: int, width: int) -> tuple[Image.Image, Image.Image]:
    """A picture whose every pixel tells the label that its mask must have: smooth, so that resizing keeps the code."""
    code = np.add.outer(np.arange(height), 2 * np.arange(width)).astype(np.uint8)
    return Image.fromarray(np.stack([code] * 3, 2)), Image.fromarray(code)


@pytest.mark.parametrize("setting", [{}, {"crop": 32}, {"scale": (0.8, 1.3)}, {"crop": 40, "scale": (0.6, 1.5)}])
def test_image_and_mask_stay_aligned(setting: dict) -> None:
    image, mask = draw_coded(45, 61)
    mirrored = 0
    for seed in range(20):
        one, label, *_ = augment(image, mask, AugmentationSettings(flip=True, **setting), np.random.default_rng(seed))
        pixels, labels = np.asarray(one).astype(int)[..., 0], np.asarray(label).astype(int)
        assert pixels.shape == labels.shape
        assert np.abs(pixels - labels).max() <= (3 if "scale" in setting else 0)
        mirrored += labels[0, 0] > labels[0, -1]
        if "crop" in setting:
            assert max(labels.shape) <= setting["crop"]
    assert 3 <= mirrored <= 17


@pytest.mark.parametrize("setting", [{}, {"crop": 32}, {"scale": (0.8, 1.3)}, {"crop": 40, "scale": (0.6, 1.5)}])
def test_the_frame_leads_from_the_image_back_to_the_photograph(setting: dict) -> None:
    height, width = 45, 61
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = Image.fromarray(np.stack([columns, rows, rows], 2).astype(np.uint8))
    for seed in range(20):
        settings = AugmentationSettings(flip=True, **setting)
        one, _, (a, b, c, d), _ = augment(image, image.getchannel(0), settings, np.random.default_rng(seed))
        found = np.asarray(one).astype(float)
        y, x = (place + 0.5 for place in np.indices(found.shape[:2]))
        inside = (slice(2, -2), slice(2, -2))  # at the border, resizing sees fewer pixels
        assert np.abs(a * x + b - 0.5 - found[..., 0])[inside].max() <= 0.75
        assert np.abs(c * y + d - 0.5 - found[..., 1])[inside].max() <= 0.75


def test_images_are_never_mirrored_where_flip_is_off() -> None:
    image, mask = draw_coded(45, 61)
    for seed in range(20):
        one, label, *_ = augment(image, mask, NONE, np.random.default_rng(seed))
        np.testing.assert_array_equal(one, image)
        np.testing.assert_array_equal(label, mask)


def test_crops_reach_every_corner_and_never_pad_a_larger_image() -> None:
    image, mask = draw_coded(34, 35)
    corners = set()
    for seed in range(200):
        _, label, *_ = augment(image, mask, AugmentationSettings(crop=32, flip=False), np.random.default_rng(seed))
        assert label.size == (32, 32)
        corners.add(label.getpixel((0, 0)))
    assert corners == {y + 2 * x for y in range(3) for x in range(4)}


def test_scale_stays_in_its_range() -> None:
    image, mask = draw_coded(100, 60)
    sizes = [
        augment(image, mask, AugmentationSettings(scale=(0.5, 1.5)), np.random.default_rng(seed))[0].size
        for seed in range(60)
    ]
    assert all(30 <= width <= 90 and abs(height - width / 0.6) <= 1.5 for width, height in sizes)
    assert min(sizes)[0] < 40 < 80 < max(sizes)[0]


def test_jitter_changes_colours_and_leaves_the_mask_alone() -> None:
    image, mask = draw_coded(45, 61)
    one, label, *_ = augment(image, mask, AugmentationSettings(flip=False, jitter=0.4), np.random.default_rng(0))
    assert np.abs(np.asarray(one).astype(int) - np.asarray(image)).max() > 5
    np.testing.assert_array_equal(label, mask)


@pytest.mark.parametrize("side", [None, 64])
def test_padding_is_marked_as_such(manifest: Manifest, side: int | None) -> None:
    images = build(manifest, NONE)
    samples = [images[0, number] for number in range(4)]
    batch = collate(samples, side)
    height, width = (side, side) if side else (51, 52)
    assert batch.image.shape == (4, 3, height, width)
    for index, sample in enumerate(samples):
        rows, columns = sample.mask.shape
        assert torch.equal(batch.image[index, :, :rows, :columns], sample.image)
        assert torch.equal(batch.mask[index, :rows, :columns], sample.mask)
        assert batch.valid[index].sum() == batch.valid[index, :, :rows, :columns].sum() == rows * columns
        outside = batch.valid[index, 0] == 0
        assert (batch.mask[index][outside] == IGNORE).all()
        assert (batch.image[index][:, outside] == 0).all()
    assert torch.equal(batch.tags, torch.stack([sample.tags for sample in samples]))
    assert batch.position.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(11, 4, [4, 4, 3]), (9, 4, [4, 4]), (1, 4, [1]), (8, 4, [4, 4]), (3, 1, [1, 1, 1])]
)
def test_an_epoch_covers_each_image_once(count: int, size: int, expected: list[int]) -> None:
    sampler = EpochSampler(count, size, seed=3)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        batches = list(sampler)
        assert [len(batch) for batch in batches] == expected
        assert len(sampler) == len(batches)
        keys = [key for batch in batches for key in batch]
        assert {one for one, _ in keys} == {epoch}
        numbers = [number for _, number in keys]
        assert len(set(numbers)) == sum(expected)
        assert set(numbers) <= set(range(count))
        orders.append(numbers)
        assert [number for batch in sampler for _, number in batch] == numbers
    assert count == 1 or len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.5, 1.0)])
def test_a_scale_that_is_no_range_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="smaller one first"):
        AugmentationSettings(scale=scale)
