"""Differences of two runs against scipy's paired t interval."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rca.evaluation.comparison import compare_figures, format_comparison


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
