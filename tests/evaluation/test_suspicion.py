"""The suspicion of masks: what guesses agree, what is doubtful, and how the ranking is validated."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import jaccard_score

from rca.core.files import IGNORE
from rca.evaluation.suspicion import Opinions, agree, agree_with_scores, examine, judge, rank, validate

CLASSES = ("cat", "cow", "dog")


def draw(seed: int) -> np.ndarray:
    mask = np.random.default_rng(seed).integers(0, 4, (12, 15)).astype(np.uint8)
    mask[0, :3] = IGNORE
    return mask


def box(top: int, bottom: int, label: int = 1, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top:bottom, 5:25] = label
    return mask


def hold(name: str, mask: np.ndarray, tags: tuple[int, ...], others: tuple[np.ndarray, ...] = ()) -> Opinions:
    maps = np.stack([(mask == tag).astype(np.float32) for tag in tags])
    return Opinions(name, tags, mask, others, (), maps, np.array(tags, np.uint8))


def test_agreement_is_the_mean_iou_of_sklearn() -> None:
    first, second = draw(1), draw(2)
    known = (first != IGNORE) & (second != IGNORE)
    wanted = jaccard_score(first[known], second[known], labels=[1, 3], average="macro")
    assert agree(first, second, [1, 3]) == pytest.approx(wanted)
    assert agree(np.zeros_like(first), np.zeros_like(first), [1]) == 0  # a tag promises an object
    assert np.isnan(agree(first, second, []))


def test_agreement_with_score_maps_is_a_soft_iou() -> None:
    mask = draw(3)
    scores = np.random.default_rng(4).random((2, *mask.shape)).astype(np.float32)
    known, expected = mask != IGNORE, []
    for label, of_label in ((1, scores[0]), (3, scores[1])):
        pairs = [
            (float(mask[place] == label), float(of_label[place])) for place in np.ndindex(mask.shape) if known[place]
        ]
        expected.append(sum(map(min, pairs)) / sum(map(max, pairs)))
    labels = np.array([1, 3], np.uint8)
    assert agree_with_scores(mask, scores, labels, [1, 3]) == pytest.approx(np.mean(expected), rel=1e-5)
    assert agree_with_scores(mask, scores, labels, [1, 2, 3]) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_guesses_that_are_one_are_beyond_doubt_and_missing_ones_are_left_out() -> None:
    same = hold("a", box(5, 20), (1,), (box(5, 20),))
    assert judge(same) == {"steps": 1, "seeds": pytest.approx(np.nan, nan_ok=True), "scores": 1}
    half = hold("b", box(5, 20), (1,), (box(5, 12),))  # 7 of 15 rows
    table = rank([examine(each, CLASSES) for each in (same, half)], CLASSES)
    assert table["image"].tolist() == ["b", "a"]
    assert table["suspicion"].tolist() == pytest.approx([1 - (7 / 15 + 1) / 2, 0])


def test_doubts_are_named() -> None:
    mask = box(5, 20)
    mask[30, 30] = 2
    found = examine(hold("a", mask, (1, 3)), CLASSES).reasons
    assert found == ("no region of dog", "cow is no tag", "cat fills a box", "1 speck")
    assert examine(hold("a", mask * 0, (1,)), CLASSES).reasons == ("no region of cat",)


def test_an_area_is_held_against_the_median_of_its_class() -> None:
    sizes = {"a": 10, "b": 11, "c": 12, "d": 2}
    held = [examine(hold(name, box(5, 5 + rows), (1,)), CLASSES) for name, rows in sizes.items()]
    table = rank(held, CLASSES).set_index("image")
    assert table.loc["d", "area"] == pytest.approx(10.5 / 2)
    assert "cat is 5 times smaller than usual" in table.loc["d", "reasons"]
    assert "usual" not in table.loc["a", "reasons"]


def test_validation_agrees_with_its_definition() -> None:
    random = np.random.default_rng(6)
    ious = {f"i{number:02}": float(random.random()) for number in range(40)}
    suspicion = {name: 1 - iou + 0.4 * random.random() for name, iou in ious.items()}
    table = pd.DataFrame({"image": list(suspicion), "suspicion": list(suspicion.values())})
    table = table.sort_values("suspicion", ascending=False, ignore_index=True)
    found = validate(table, {**ious, "stranger": 0.0})
    assert found.images == 40
    assert found.rho == pytest.approx(spearmanr(list(suspicion.values()), [-iou for iou in ious.values()]).statistic)
    worst = sorted(ious, key=ious.__getitem__)[:4]
    suspected = sorted(suspicion, key=suspicion.__getitem__)[-8:]
    assert found.found == len({*worst} & {*suspected}) / 4
    assert np.isnan(validate(table, {}).rho)
