"""The mean of score maps against sums one by one in double precision."""

import numpy as np
import pytest

from rca.core.errors import UserError
from rca.labels.averaging import average_maps
from rca.labels.score_maps import ScoreMaps


def draw(seed: int, labels: tuple[int, ...] = (2, 5), size: tuple[int, int] = (3, 4)) -> ScoreMaps:
    random = np.random.default_rng(seed)
    scores = random.random((len(labels), *size)).astype(np.float16)
    return ScoreMaps(np.array(labels, np.uint8), scores, random.normal(size=6).astype(np.float32))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_it_is_the_mean_of_each_cell_and_logit(number: int) -> None:
    maps = [draw(seed) for seed in range(number)]
    found = average_maps(maps)
    assert found.labels.tolist() == [2, 5]
    assert (found.scores.dtype, found.logits.dtype) == (np.float16, np.float32)
    for place in np.ndindex(2, 3, 4):
        expected = sum(float(one.scores[place]) for one in maps) / number
        assert float(found.scores[place]) == pytest.approx(expected, abs=2**-11)
    for number_of_class in range(6):
        expected = sum(float(one.logits[number_of_class]) for one in maps) / number
        assert float(found.logits[number_of_class]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("other", [draw(1, labels=(2, 4)), draw(1, labels=(2,)), draw(1, size=(4, 3))])
def test_maps_of_other_labels_or_sizes_are_refused(other: ScoreMaps) -> None:
    with pytest.raises(UserError, match=r"cannot be averaged with those of .*: run make_cam again for all members"):
        average_maps([draw(0), other])
