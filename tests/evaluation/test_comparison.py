"""Differences of two runs against scipy's paired t interval."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rca.evaluation.comparison import (
    compare_figures,
    find_interval,
    format_comparison,
    resample_images,
    resample_ious,
    score_images,
)


def make(values: dict[tuple[str, int], float]) -> pd.DataFrame:
    return pd.DataFrame([{"figure": name, "seed": seed, "value": value} for (name, seed), value in values.items()])


def test_intervals_are_those_of_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    before, after = random.random(5), random.random(5)
    first, second = (make({("miou", seed): value for seed, value in enumerate(run)}) for run in (before, after))
    (found,) = compare_figures(first, second, ["figure"], "value")
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert found.name == ("miou",)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.difference == pytest.approx((after - before).mean())
    assert (found.first, found.second, found.seeds) == (pytest.approx(before.mean()), pytest.approx(after.mean()), 5)


def test_only_what_both_have_is_compared() -> None:
    first = make({("a", 0): 0.5, ("a", 1): 0.7, ("b", 0): 0.1, ("c", 0): 0.2})
    second = make({("a", 1): 0.8, ("c", 0): float("nan"), ("d", 0): 0.1})
    (found,) = compare_figures(first, second, ["figure"], "value")
    assert (found.name, found.first, found.second, found.seeds) == (("a",), 0.7, 0.8, 1)
    assert np.isnan(found.low)


def test_what_may_be_chance_stands_in_brackets() -> None:
    first = make({("sure", 0): 0.5, ("sure", 1): 0.5, ("unsure", 0): 0.5, ("unsure", 1): 0.5, ("same", 0): 0.5})
    second = make({("sure", 0): 0.6, ("sure", 1): 0.602, ("unsure", 0): 0.4, ("unsure", 1): 0.7, ("same", 0): 0.5})
    text = format_comparison(compare_figures(first, second, ["figure"], "value"), ("figure", "one", "two"))
    lines = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()}
    assert lines["sure"][:3] == ["50.0", "60.1", "+10.1"]
    assert lines["unsure"][2] == "(+5.0)"
    assert lines["same"][2:] == ["+0.0", ""]


# --- over images


def draw_pixels(seed: int, images: int = 30) -> pd.DataFrame:
    """Pixels of each image and label, as of a mask that is right in some of them."""
    random = np.random.default_rng(seed)
    lines = []
    for image in range(images):
        for label in random.choice(4, random.integers(1, 4), replace=False):
            truth, predicted = random.integers(1, 200, 2)
            lines.append(
                (f"i{image:02}", 0, int(label), random.integers(0, min(truth, predicted) + 1), truth, predicted)
            )
    return pd.DataFrame(lines, columns=["image", "seed", "label", "hit", "truth", "predicted"])


def find_miou(lines: pd.DataFrame, images: list[str]) -> float:
    """The mIoU of images, each as often as it is listed."""
    by_image = dict(list(lines.groupby("image")))
    drawn = pd.concat([by_image[image] for image in images]).groupby("label")[["hit", "truth", "predicted"]].sum()
    return float((drawn["hit"] / (drawn["truth"] + drawn["predicted"] - drawn["hit"])).mean())


def test_the_interval_over_images_is_scipys_bootstrap() -> None:
    first, second = draw_pixels(1), draw_pixels(2)
    names = sorted(set(first["image"]))
    difference, low, high = resample_images(first, second, draws=3000)
    assert difference == pytest.approx(find_miou(second, names) - find_miou(first, names))

    def subtract(places: np.ndarray) -> float:
        drawn = [names[place] for place in places]
        return find_miou(second, drawn) - find_miou(first, drawn)

    places = (np.arange(len(names)),)
    found = stats.bootstrap(
        places, subtract, n_resamples=200, method="percentile", vectorized=False, rng=np.random.default_rng(3)
    ).confidence_interval
    width = found.high - found.low
    assert low == pytest.approx(found.low, abs=0.2 * width)
    assert high == pytest.approx(found.high, abs=0.2 * width)
    assert resample_images(first, first)[:3] == (0, 0, 0)
    assert np.isnan(resample_images(first, second.assign(image="other"))[0])


def test_the_interval_of_each_class_over_images_and_seeds_is_scipys_bootstrap() -> None:
    runs = [pd.concat([draw_pixels(2 * run + seed).assign(seed=seed) for seed in (0, 1)]) for run in (0, 1)]
    names = sorted(set.intersection(*(set(run["image"]) for run in runs)))
    # (run, seed, image, label, hit/truth/predicted), each entry set by its own line
    pixels = np.zeros((2, 2, len(names), 4, 3))
    for run, lines in enumerate(runs):
        for line in lines.to_dict("records"):
            if line["image"] in names:
                place = run, line["seed"], names.index(line["image"]), line["label"]
                pixels[place] = line["hit"], line["truth"], line["predicted"]

    def find_ious(run: int, places: np.ndarray) -> np.ndarray:
        """The IoU of each label over images, each as often as it is drawn: the mean over seeds."""
        hit, truth, predicted = np.moveaxis(pixels[run][:, places].sum(1), -1, 0)
        return (hit / (truth + predicted - hit)).mean(0)

    whole, drawn = resample_ious(runs, draws=2000)
    assert drawn.shape == (2000, 2, 4)
    for run in (0, 1):
        np.testing.assert_allclose(whole[run], find_ious(run, np.arange(len(names))))
    low, high = find_interval(drawn[:, 1] - drawn[:, 0])
    expected = stats.bootstrap(
        (np.arange(len(names)),), lambda places: find_ious(1, places) - find_ious(0, places), n_resamples=300,
        method="percentile", vectorized=False, rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    np.testing.assert_allclose(low, expected.low, atol=0.2 * width.max())
    np.testing.assert_allclose(high, expected.high, atol=0.2 * width.max())


def test_runs_without_a_common_image_or_seed_have_no_interval() -> None:
    first = draw_pixels(1)
    for other in (first.assign(image="other"), first.assign(seed=7)):
        whole, drawn = resample_ious([first, other], draws=10)
        assert np.isnan(whole).all()
        assert np.isnan(find_interval(drawn)).all()


def test_the_iou_of_an_image_is_the_mean_over_its_labels() -> None:
    lines = pd.DataFrame(
        [("a", 0, 0, 8, 10, 9), ("a", 0, 2, 1, 3, 2), ("b", 0, 0, 5, 5, 5), ("a", 1, 0, 0, 4, 4)],
        columns=["image", "seed", "label", "hit", "truth", "predicted"],
    )
    found = score_images(lines).set_index(["image", "seed"])["iou"]
    assert found.to_dict() == pytest.approx({("a", 0): (8 / 11 + 1 / 4) / 2, ("b", 0): 1, ("a", 1): 0})
