"""Superpixels, and how segments vote."""

import sys

import numpy as np
import pytest

from rca.core.errors import UserError
from rca.labels.segments import (
    FelzenszwalbSettings,
    SlicSettings,
    Superpixels,
    find_superpixels,
    vote,
    weigh_labels,
    weigh_scores,
)

LABELS = np.array([0, 3, 7], np.uint8)
KINDS: tuple[Superpixels, ...] = (
    SlicSettings(kind="slic", number=30),
    FelzenszwalbSettings(kind="felzenszwalb", scale=20, smallest=10),
)


@pytest.mark.parametrize("majority", [0.0, 0.4, 0.7, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_a_segment_takes_the_label_of_most_of_its_weight(seed: int, majority: float) -> None:
    random = np.random.default_rng(seed)
    segments = random.integers(0, 6, (9, 11))
    mask = random.choice(np.array([0, 3, 7, 255], np.uint8), (9, 11))
    weights = random.random((3, 9, 11))
    found = vote(segments, mask, weights, LABELS, majority)
    for row in range(9):
        for column in range(11):
            number = segments[row, column]
            support = [0.0, 0.0, 0.0]
            for place in np.argwhere(segments == number):
                for label in range(3):
                    support[label] += weights[label, place[0], place[1]]
            share = max(support) / sum(support)
            expected = LABELS[support.index(max(support))] if share > majority else 255
            assert found[row, column] == (mask[row, column] if number == 0 else expected)


def test_undecided_pixels_of_a_mask_do_not_vote() -> None:
    mask = np.array([[255, 255, 255, 3], [255, 0, 3, 3], [255, 255, 255, 255]], np.uint8)
    segments = np.repeat([[1], [2], [3]], 4, 1)
    found = vote(segments, mask, weigh_labels(mask, LABELS), LABELS, 0.5)
    assert (found == [[3] * 4, [3] * 4, [255] * 4]).all()  # the last one has no vote at all


def test_scores_vote_by_their_shares() -> None:
    """A pixel of large scores counts as much as any other."""
    scores = np.array([[[9.0, 0.1, 0.1]], [[1.0, 0.9, 0.9]]])
    weights = weigh_scores(scores)
    np.testing.assert_allclose(weights.sum(0), 1)
    assert (vote(np.ones((1, 3), np.int64), np.zeros((1, 3), np.uint8), weights, LABELS[:2], 0.5) == 3).all()


def test_a_pixel_of_no_score_does_not_vote() -> None:
    assert (weigh_scores(np.zeros((2, 3, 4))) == 0).all()


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind)
def test_superpixels_keep_to_the_outlines_of_even_shapes(settings: Superpixels) -> None:
    photograph = np.full((40, 60, 3), (200, 30, 30), np.uint8)
    photograph[10:30, 20:50] = (20, 60, 220)
    segments = find_superpixels(photograph, settings)
    assert segments.shape == (40, 60)
    assert segments.min() >= 1
    inside = photograph[..., 2] == 220
    shared = set(segments[inside]) & set(segments[~inside])
    assert np.isin(segments, sorted(shared)).mean() < 0.02
    np.testing.assert_array_equal(segments, find_superpixels(photograph, settings))


def test_more_superpixels_are_smaller() -> None:
    rows, columns = np.indices((48, 64))
    photograph = np.stack([4 * rows, 3 * columns, 90 + rows + columns], -1).astype(np.uint8)
    few, many = (find_superpixels(photograph, SlicSettings(kind="slic", number=number)) for number in (10, 100))
    assert few.max() < many.max()
    small, large = (
        find_superpixels(photograph, FelzenszwalbSettings(kind="felzenszwalb", scale=scale)) for scale in (1, 1000)
    )
    assert large.max() < small.max()


def test_without_scikit_image_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match=r"Superpixels need scikit-image, .* `pip install 'rca\[segments\]'`, or set"):
        find_superpixels(np.zeros((8, 8, 3), np.uint8), KINDS[0])
