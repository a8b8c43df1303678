import tracemalloc

import numpy as np
import pytest

from rca.core.errors import UserError
from rca.labels.affinity import list_offsets, trace_line
from rca.labels.random_walk import MEGABYTE, WalkSettings, build_affinity, list_chances, spread_scores, walk_maps
from rca.labels.score_maps import ScoreMaps


def build_densely(openness: np.ndarray, radius: int) -> np.ndarray:
    """The matrix of all pairs, cell by cell."""
    height, width = openness.shape
    matrix = np.eye(height * width)
    for y, x in np.ndindex(height, width):
        for down, across in list_offsets(radius):
            if y + down < height and 0 <= x + across < width:
                least = min(openness[y + one, x + two] for one, two in trace_line(down, across))
                one, two = y * width + x, (y + down) * width + x + across
                matrix[one, two] = matrix[two, one] = least
    return matrix


def spread_densely(scores: np.ndarray, boundary: np.ndarray, settings: WalkSettings) -> np.ndarray:
    matrix = build_densely((1 - boundary) ** settings.sharpness, settings.radius)
    step = matrix / matrix.sum(1, keepdims=True)
    started = (scores * (1 - boundary)).reshape(len(scores), -1)
    return (np.linalg.matrix_power(step, settings.steps) @ started.T).T.reshape(scores.shape)


def draw(size: tuple[int, int], labels: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.random((labels, *size)), random.random(size) ** 3


@pytest.mark.parametrize("radius", [2, 3, 5])
@pytest.mark.parametrize("size", [(7, 11), (5, 3), (1, 9), (9, 2), (1, 1)])
def test_the_sparse_matrix_holds_what_the_dense_one_does(size: tuple[int, int], radius: int) -> None:
    openness = draw(size)[1]
    sparse = build_affinity(openness, radius)
    np.testing.assert_array_equal(sparse.toarray(), build_densely(openness, radius))
    assert sparse.data.shape[0] <= 2 * len(list_offsets(radius)) + 1


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 63, 256])
@pytest.mark.parametrize("size", [(7, 11), (13, 2)])
def test_a_walk_is_a_power_of_the_dense_matrix(size: tuple[int, int], steps: int) -> None:
    scores, boundary = draw(size)
    settings = WalkSettings(radius=4, sharpness=1.7, steps=steps)
    found = spread_scores(scores, boundary, settings)
    assert found.dtype == np.float64
    # What was left out is a millionth at most.
    np.testing.assert_allclose(found, spread_densely(scores, boundary, settings), atol=2e-6)
    assert found.min() >= 0


def test_single_precision_is_close_to_double() -> None:
    scores, boundary = draw((19, 23))
    settings = WalkSettings()
    single = spread_scores(scores.astype(np.float16), boundary.astype(np.float32), settings)
    assert single.dtype == np.float32
    expected = spread_densely(scores.astype(np.float16).astype(np.float64), boundary, settings)
    np.testing.assert_allclose(single, expected, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 30])
def test_chances_are_those_of_a_walk(steps: int) -> None:
    places = np.zeros(2 * steps + 1)
    places[steps] = 1
    for _ in range(steps):
        places = (np.pad(places, (0, 2))[1:-1] + np.pad(places, (1, 0))[:-1]) / 2
    expected = [places[steps], *(2 * places[steps + 1 :])]
    found = list_chances(steps)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-12)
    assert sum(expected[len(found) :]) <= 1e-6


def test_few_of_many_steps_are_taken() -> None:
    assert len(list_chances(256)) < 85
    assert len(list_chances(4096)) < 340


@pytest.mark.parametrize("memory", [1, 2])
def test_bands_give_the_same_and_keep_to_the_memory(memory: int) -> None:
    scores, boundary = draw((131, 87), labels=1)
    scores, boundary = scores.astype(np.float32), boundary.astype(np.float32)
    whole = spread_scores(scores, boundary, WalkSettings(steps=6))
    tracemalloc.start()
    try:
        found = spread_scores(scores, boundary, WalkSettings(steps=6, memory_mb=memory))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, whole)
    assert 0.5 * memory * MEGABYTE < peak <= memory * MEGABYTE


def test_the_whole_matrix_keeps_to_the_memory_as_well() -> None:
    scores, boundary = draw((131, 87), labels=3)
    settings = WalkSettings(steps=3, memory_mb=5)
    tracemalloc.start()
    try:
        spread_scores(scores.astype(np.float32), boundary.astype(np.float32), settings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 3 * MEGABYTE < peak <= 5 * MEGABYTE


def test_too_little_memory_raises_an_error_with_the_memory_needed() -> None:
    scores, boundary = np.zeros((9, 300, 200), np.float32), np.zeros((300, 200), np.float32)
    with pytest.raises(UserError, match=r"9 maps of 200x300 cells needs 14 MB: raise walk\.memory_mb"):
        spread_scores(scores, boundary, WalkSettings(memory_mb=13))
    spread_scores(scores, boundary, WalkSettings(memory_mb=14, steps=1))


def test_an_even_score_stays_even_without_boundaries() -> None:
    found = spread_scores(np.full((1, 17, 21), 0.25), np.zeros((17, 21)), WalkSettings())
    np.testing.assert_allclose(found, 0.25, atol=1e-6)


def test_scores_fill_the_object_that_they_are_in_and_no_other() -> None:
    boundary = np.zeros((20, 31))
    boundary[:, 15] = 1
    scores = np.zeros((2, 20, 31))
    scores[0, 9:12, 4:7] = 1
    scores[1, 3:6, 20:22] = 1
    maps = ScoreMaps(np.array([2, 7], np.uint8), scores.astype(np.float16), np.zeros(9, np.float32))
    walked = walk_maps(maps, boundary, WalkSettings(steps=1024))
    assert walked.scores.dtype == np.float16
    assert walked.scores.max() == pytest.approx(1, abs=2e-3)
    left, right = walked.scores[:, :, :15], walked.scores[:, :, 16:]
    assert left[0].min() > 0.2
    assert right[1].min() > 0.2
    assert not left[1].any()
    assert not right[0].any()
    np.testing.assert_array_equal(walked.labels, maps.labels)
    np.testing.assert_array_equal(walked.logits, maps.logits)


def test_an_image_without_a_label_has_nothing_to_walk() -> None:
    maps = ScoreMaps(np.zeros(0, np.uint8), np.zeros((0, 5, 7), np.float16), np.zeros(3, np.float32))
    assert walk_maps(maps, np.zeros((5, 7)), WalkSettings()) is maps
