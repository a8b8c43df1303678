from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import EpochSampler, TrainingImages, make_loader
from rca.data.loading.pairs import Partners
from rca.data.manifest import Manifest

# Image 4 has a class of its own beside a common one, 5 only classes of its own, 6 none.
TAGS = ((0,), (0, 1), (1, 2), (0, 2), (0, 3), (4, 5), (), (0, 1, 2), (2,))


def expect(number: int) -> dict[int, Fraction]:
    """The promised probability of each partner, by the definition."""
    others = {tag: [n for n, own in enumerate(TAGS) if tag in own and n != number] for tag in TAGS[number]}
    usable = [images for images in others.values() if images]
    if not usable:
        return {number: Fraction(1)}
    found: Counter[int] = Counter()
    for images in usable:
        for one in images:
            found[one] += Fraction(1, len(usable) * len(images))
    return dict(found)


def test_partners_are_distributed_as_promised() -> None:
    draws, partners = 6000, Partners(TAGS)
    found = np.array([partners.draw(np.random.default_rng([1, epoch])) for epoch in range(draws)])
    for number in range(len(TAGS)):
        expected = expect(number)
        counts = Counter(found[:, number].tolist())
        assert counts.keys() == expected.keys()
        assert (number in counts) == (number in (5, 6))
        if len(expected) > 1:
            wanted = [float(share) * draws for share in expected.values()]
            assert chisquare([counts[one] for one in expected], wanted).pvalue > 0.001, number


def build(epoch: int, rank: int = 0, ranks: int = 1, batch_size: int = 4) -> EpochSampler:
    sampler = EpochSampler(len(TAGS), batch_size, 3, rank, ranks, Partners(TAGS))
    sampler.epoch = epoch
    return sampler


def test_partners_follow_their_images() -> None:
    plain = EpochSampler(len(TAGS), 4, seed=3)
    for batch, alone in zip(build(0), plain, strict=True):
        images, partners = batch[: len(alone)], batch[len(alone) :]
        assert images == alone
        assert len(partners) == len(images)
        for (_, number), (epoch, partner, view) in zip(images, partners, strict=True):
            assert (epoch, view) == (0, number + 1)
            assert partner in expect(number)


def test_pairs_depend_on_seed_and_epoch_alone() -> None:
    first = list(build(5))
    assert list(build(5)) == first  # as after a resume, where no earlier epoch was drawn
    assert list(build(6)) != first

    def list_pairs(batch_size: int) -> set[tuple[int, int]]:
        found = set()
        for batch in build(5, batch_size=batch_size):
            half = len(batch) // 2
            found |= {(one[1], two[1]) for one, two in zip(batch[:half], batch[half:], strict=True)}
        return found

    assert list_pairs(4) <= list_pairs(9)
    assert len(list_pairs(9)) == len(TAGS)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_pairs_of_one_process(ranks: int) -> None:
    parts = [list(build(1, rank, ranks)) for rank in range(ranks)]
    whole = [batch for batch in build(1) if len(batch) // 2 >= ranks]
    for pieces, batch in zip(zip(*parts, strict=True), whole, strict=True):
        images = [key for piece in pieces for key in piece[: len(piece) // 2]]
        partners = [key for piece in pieces for key in piece[len(piece) // 2 :]]
        assert images + partners == batch


def test_batches_of_pairs_do_not_depend_on_the_number_of_workers(manifest: Manifest) -> None:
    settings = AugmentationSettings(scale=(0.7, 1.4), crop=37, flip=True, jitter=0.3)
    images = TrainingImages(manifest, manifest.images, settings, (0.5,) * 3, (0.25,) * 3, seed=0)
    here, there = (list(make_loader(images, 2, workers, pairs=True)[0]) for workers in (0, 1))
    for one, two in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert len(one.image) == 4
        shared = (one.tags[:2] * one.tags[2:]).any(1) | (one.position[:2] == one.position[2:])
        assert shared.all()


def test_an_image_beside_itself_gets_a_second_view(manifest: Manifest) -> None:
    settings = AugmentationSettings(scale=(0.7, 1.4), crop=37, flip=True, jitter=0.3)
    images = TrainingImages(manifest, manifest.images, settings, (0.5,) * 3, (0.25,) * 3, seed=0)
    for number in range(4):
        assert not torch.equal(images[2, number].image, images[2, number, number + 1].image)
