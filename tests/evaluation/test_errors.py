"""Kinds of errors, pixel by pixel, against a slow reading of their definitions, and against sklearn's figures."""

from collections import Counter

import numpy as np
from sklearn.metrics import jaccard_score

from rca.core.files import IGNORE
from rca.evaluation.errors import FOUND, KINDS, NUMBERS, SHARES, SIZES, ErrorCounts, list_errors
from rca.evaluation.masks import Key
from rca.evaluation.metrics import Confusion

CLASSES = 5
NAMES = ("ant", "bee", "cat", "dog", "elk")


def draw(random: np.random.Generator, boxes: int) -> np.ndarray:
    mask = np.zeros((19, 23), np.uint8)
    for _ in range(boxes):
        top, left = random.integers(0, 19), random.integers(0, 23)
        label = random.choice([1, 2, 3, 4, 5, IGNORE])
        mask[top : top + random.integers(1, 12), left : left + random.integers(1, 12)] = label
    return mask


def count(truth: np.ndarray, prediction: np.ndarray, classes: int = CLASSES) -> ErrorCounts:
    confusion = Confusion(classes)
    confusion.add(truth, prediction)
    errors = ErrorCounts(classes)
    errors.add(truth, prediction, confusion)
    return errors


def flood(region: np.ndarray, start: tuple[int, int]) -> set[tuple[int, int]]:
    """The pixels that a king of chess reaches within a region."""
    reached, waiting = {start}, [start]
    while waiting:
        row, column = waiting.pop()
        for other in np.ndindex(3, 3):
            place = (row + other[0] - 1, column + other[1] - 1)
            if (
                place not in reached
                and all(0 <= p < s for p, s in zip(place, region.shape, strict=True))
                and region[place]
            ):
                reached.add(place)
                waiting.append(place)
    return reached


def count_slowly(truth: np.ndarray, prediction: np.ndarray) -> Counter:
    """The pixels by class, size, number and kind, one pixel after another."""
    found: Counter = Counter()
    known = truth != IGNORE
    shown = [label for label in range(1, CLASSES + 1) if (truth == label).any()]
    number = NUMBERS[min(len(shown), 4)]
    for label in range(1, CLASSES + 1):
        share = (truth == label).sum() / known.sum()
        size = "absent" if not share else "small" if share < 0.05 else "medium" if share < 0.2 else "large"
        hits = (prediction[truth == label] == label).sum()
        for place in np.argwhere(known):
            row, column = map(int, place)
            is_, says = int(truth[row, column]), int(prediction[row, column])
            if label not in (is_, says):
                continue
            if is_ == says:
                kind = "hit"
            elif is_ == label and says == 0:
                kind = "missed" if hits < FOUND * (truth == label).sum() else "too_small"
            elif is_ == label:
                kind = "undecided" if says == IGNORE else "confused"
            elif is_ != 0:
                kind = "taken"
            else:
                region = flood(prediction == label, (row, column))
                kind = "too_large" if any(truth[place] == label for place in region) else "leaked"
            found[label, size, number, kind] += 1
    return found


def test_each_wrong_pixel_has_its_kind() -> None:
    random, occurred = np.random.default_rng(0), set()
    for _ in range(8):
        truth, prediction = draw(random, 4), draw(random, 3)
        moved = np.roll(truth, random.integers(1, 6), axis=1)
        prediction = np.where(prediction, prediction, moved)
        counts = count(truth, prediction).counts
        found = {
            (label + 1, list(SIZES)[size], NUMBERS[number], KINDS[kind]): int(counts[label, size, number, kind])
            for label, size, number, kind in np.argwhere(counts)
        }
        assert found == dict(count_slowly(truth, prediction))
        occurred |= {name for place in found for name in place}
    assert {*KINDS, *SIZES} <= occurred


def test_the_shares_of_errors_are_what_the_iou_lacks() -> None:
    random = np.random.default_rng(3)
    pairs = [(draw(random, 6), draw(random, 9)) for _ in range(5)]
    total = ErrorCounts(CLASSES)
    for pair in pairs:
        total += count(*pair)
    truth, mask = (np.concatenate([pair[side][pair[0] != IGNORE] for pair in pairs]) for side in (0, 1))
    labels = list(range(1, CLASSES + 1))
    shares = total.share("count_as_error")
    assert tuple(shares) == SHARES
    np.testing.assert_allclose(1 - sum(shares.values()), jaccard_score(truth, mask, labels=labels, average=None))
    shares, kept = total.share("exclude"), mask != IGNORE
    assert not shares["undecided"].any()
    ious = jaccard_score(truth[kept], mask[kept], labels=labels, average=None)
    np.testing.assert_allclose(1 - sum(shares.values()), ious)


def test_an_object_of_which_hardly_anything_is_found_is_missed() -> None:
    truth, mask = np.zeros((10, 30), np.uint8), np.zeros((10, 30), np.uint8)
    truth[:, :20] = 1
    for hits, kind in ((19, "missed"), (20, "too_small")):
        mask[:] = 0
        mask[:, :20].flat[:hits] = 1
        counts = dict(zip(KINDS, count(truth, mask, 1).counts.sum((0, 1, 2)), strict=True))
        assert counts["hit"] == hits
        assert counts[kind] == 200 - hits


def test_the_table_holds_all_pixels() -> None:
    random = np.random.default_rng(5)
    key, other = Key("seed", "val", "best"), Key("segmentation", "val", "")
    counts = {each: count(draw(random, 6), draw(random, 9)) for each in (key, other)}
    table = list_errors(counts, NAMES)
    for (kind, split, choice), each in counts.items():
        lines = table[(table["kind"] == kind) & (table["split"] == split) & (table["threshold"] == choice)]
        assert lines[list(KINDS)].to_numpy().sum(0).tolist() == each.counts.sum((0, 1, 2)).tolist()
        for number, name in enumerate(NAMES):
            pixels = lines.loc[lines["class"] == name, list(KINDS)].to_numpy().sum(0)
            assert pixels.tolist() == each.counts[number].sum((0, 1)).tolist()
        for number, size in enumerate(SIZES):
            pixels = lines.loc[lines["size"] == size, list(KINDS)].to_numpy().sum(0)
            assert pixels.tolist() == each.counts[:, number].sum((0, 1)).tolist()


def test_masks_without_an_object_have_no_shares() -> None:
    blank = np.zeros((5, 6), np.uint8)
    shares = count(blank, blank).share("count_as_error")
    assert all(np.isnan(values).all() for values in shares.values())
