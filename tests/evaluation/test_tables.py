import io
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rca.evaluation.latex import format_latex
from rca.evaluation.tables import (
    COLUMNS,
    Metric,
    add_weak_over_full,
    build_table,
    flatten,
    format_differences,
    format_markdown,
    format_protocols,
    take_apart,
)

VALUES = {"cam": [0.501, 0.523, 0.498], "rca_mix": [0.5551]}


def make_metrics(miou: float) -> dict:
    """A run's metrics as `evaluate` nests them."""
    masks = {"best": {"miou": miou, "recall": 0.9, "threshold": 0.3}, "fixed": {"miou": miou - 0.1}}
    return {
        "segmentation": {"val": {"miou": miou + 0.1, "coverage": 1.0}},
        "seed": {"train": masks},
        "classification": {"train": {"map": miou + 0.3}, "val": {"map": None}},
    }


@pytest.fixture
def table() -> pd.DataFrame:
    return build_table({run: [make_metrics(value) for value in values] for run, values in VALUES.items()})


def test_a_metric_is_named_by_its_path() -> None:
    assert list(flatten({"a": {"b": 1, "c": {"d": None}}, "e": 2.5})) == [("a.b", 1), ("a.c.d", None), ("e", 2.5)]


def test_mean_and_deviation_agree_with_pandas(table: pd.DataFrame) -> None:
    for run, values in VALUES.items():
        series = pd.Series(values)
        rows = table[table["run"] == run].set_index("metric")
        for metric, offset in (
            ("seed.train.best.miou", 0),
            ("seed.train.fixed.miou", -0.1),
            ("segmentation.val.miou", 0.1),
            ("classification.train.map", 0.3),
        ):
            assert rows.loc[metric, "mean"] == pytest.approx(series.mean() + offset)
            assert rows.loc[metric, "seeds"] == len(values)
            np.testing.assert_allclose(rows.loc[metric, "std"], series.std())


def test_only_miou_and_map_are_shown_and_a_metric_without_a_value_is_left_out(table: pd.DataFrame) -> None:
    assert set(table["metric"].str.rpartition(".")[2]) == {"miou", "map"}
    assert "classification.val.map" not in set(table["metric"])


def test_a_metric_that_some_seeds_lack_is_averaged_over_the_others() -> None:
    table = build_table({"cam": [{"seed": {"t": {"miou": 0.5}}}, {"seed": {"t": {"miou": None}}}]})
    assert table[["mean", "seeds"]].to_numpy().tolist() == [[0.5, 1]]


def test_the_markdown_table_is_in_percent_with_a_line_for_each_run_and_threshold(table: pd.DataFrame) -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in format_markdown(table).splitlines()]
    assert lines == [
        ["run", "threshold", "seed train", "segmentation val", "mAP train"],
        ["---", "---", "---:", "---:", "---:"],
        ["cam", "best", "50.7 ± 1.4", "60.7 ± 1.4", "80.7 ± 1.4"],
        ["cam", "fixed", "40.7 ± 1.4", "", ""],
        ["rca_mix", "best", "55.5", "65.5", "85.5"],
        ["rca_mix", "fixed", "45.5", "", ""],
    ]


def test_the_latex_table_holds_the_same_cells(table: pd.DataFrame) -> None:
    text = format_latex(table)
    rows = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    markdown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in format_markdown(table).splitlines()]
    plain = [[re.sub(r"\\textbf\{(.*?)\}", r"\1", cell).replace("$^{*}$", "") for cell in row] for row in rows]
    unescaped = [[cell.replace(r"\_", "_").replace(r"$\pm$", "±") for cell in row] for row in plain]
    assert unescaped == [markdown[0], *markdown[2:]]
    assert text.startswith("\\begin{tabular}{llrrr}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert r"rca\_mix" in text


def test_a_table_without_thresholds_has_one_line_for_each_run() -> None:
    table = build_table({run: [{"segmentation": {"val": {"miou": 0.25}}}] for run in "ab"})
    text = format_markdown(table)
    found = pd.read_csv(io.StringIO(text.replace(" ", "")), sep="|").iloc[1:, 1:-1]
    assert found["run"].tolist() == ["a", "b"]
    assert found["segmentationval"].astype(float).tolist() == [25.0, 25.0]


# --- differences to the first run

PAIRED = {"cam": [0.501, 0.523, 0.498, 0.510], "rca": [0.524, 0.541, 0.515, 0.541], "worse": [0.5, 0.51, 0.49, 0.5]}


def compare(runs: dict[str, list[float | None]]) -> pd.DataFrame:
    """The table of runs whose seeds have one metric each."""
    return build_table({run: [{"seed": {"val": {"miou": one}}} for one in values] for run, values in runs.items()})


def test_differences_agree_with_a_paired_t_test() -> None:
    table = compare(PAIRED).set_index("run")
    for run in ("rca", "worse"):
        result = stats.ttest_rel(PAIRED[run], PAIRED["cam"])
        interval = result.confidence_interval(0.95)
        expected = [np.mean(PAIRED[run]) - np.mean(PAIRED["cam"]), interval.low, interval.high]
        np.testing.assert_allclose(table.loc[run, ["difference", "low", "high"]].to_list(), expected)
    assert table.loc["cam", ["difference", "low", "high"]].isna().all()


def test_only_seeds_that_both_runs_have_are_compared() -> None:
    row = compare({"cam": [0.5, None, 0.7, 0.2], "rca": [0.6, 0.9, 0.9, 0.2]}).set_index("run").loc["rca"]
    interval = stats.ttest_rel([0.6, 0.9, 0.2], [0.5, 0.7, 0.2]).confidence_interval(0.95)
    np.testing.assert_allclose([row["difference"], row["low"], row["high"]], [0.1, interval.low, interval.high])
    assert row["mean"] == pytest.approx(0.65)  # of all its own seeds


@pytest.mark.parametrize("values", [{"cam": [0.5], "rca": [0.6]}, {"cam": [0.5, None], "rca": [None, 0.6]}])
def test_one_pair_gives_no_difference(values: dict[str, list[float | None]]) -> None:
    table = compare(values)
    assert table[["difference", "low", "high"]].isna().all(axis=None)
    assert format_differences(table) == ""


def test_a_kind_that_only_one_of_two_runs_has_is_not_compared() -> None:
    both = {"seed": {"val": {"best": {"miou": 0.5}}}}
    with_masks = {**both, "segmentation": {"val": {"miou": 0.7}}}
    for metrics in ({"cam": [both] * 2, "rca": [with_masks] * 2}, {"cam": [with_masks] * 2, "rca": [both] * 2}):
        table = build_table(metrics)
        assert table.loc[table["difference"].notna(), ["run", "metric"]].to_numpy().tolist() == [
            ["rca", "seed.val.best.miou"]
        ]
        assert "segmentation" in format_markdown(table)
        assert "segmentation" not in format_differences(table)


def test_differences_are_printed_in_points() -> None:
    rows = [
        ("cam", "seed.val.best.miou", "given", 9, 0.5, 0.01, 2, math.nan, math.nan, math.nan),
        ("rca", "seed.val.best.miou", "given", 9, 0.52, 0.01, 2, 0.02, 0.009, 0.031),
        ("rca", "seed.val.fixed.miou", "given", 9, 0.4, 0.01, 2, -0.1, -0.25, 0.05),
    ]
    sentence, _, *lines = format_differences(pd.DataFrame(rows, columns=COLUMNS)).splitlines()
    assert sentence == "Difference to cam, paired over seeds, with its 95% interval, in points:"
    assert lines == [
        "| run | threshold | seed val |",
        "| --- | --- | ---: |",
        "| rca | best | +2.0 [+0.9, +3.1] |",
        "| rca | fixed | -10.0 [-25.0, +5.0] |",
    ]


# --- weak over full supervision


def segment(*values: float | None) -> list[dict]:
    """The metrics of a run's seeds that segment one split."""
    return [{"segmentation": {"my.val": {"miou": value, "images": 4}}} for value in values]


def test_weak_over_full_is_a_mean_of_shares_seed_by_seed() -> None:
    weak, whole = [0.4, 0.6, 0.5, None, 0.3], [0.8, 0.75, 0.0, 0.5, None]
    metrics = {"cam": segment(*weak), "full": segment(*whole), "other": segment(*weak)}
    before = repr(metrics)
    table = build_table(add_weak_over_full(metrics, {"cam": "full"})).set_index(["run", "metric"])
    assert repr(metrics) == before
    row = table.loc["cam", "segmentation.my.val.weak_over_full"]
    assert row["mean"] == pytest.approx((0.4 / 0.8 + 0.6 / 0.75) / 2)
    assert row["std"] == pytest.approx(np.std([0.5, 0.8], ddof=1))
    assert (row["seeds"], row["tags"], row["images"]) == (2, "none", 4)
    assert len(table) == 4  # the others have no share


def test_weak_over_full_is_a_column_beside_the_miou() -> None:
    metrics = {"cam": segment(0.4, 0.6), "rca": segment(0.6, 0.6), "full": segment(0.8, 0.75)}
    table = build_table(add_weak_over_full(metrics, {"cam": "full", "rca": "full"}))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in format_markdown(table).splitlines()]
    assert lines[0] == ["run", "threshold", "segmentation my.val", "segmentation my.val, weak over full"]
    assert lines[2:] == [
        ["cam", "", "50.0 ± 14.1", "65.0 ± 21.2"],
        ["rca", "", "60.0 ± 0.0", "77.5 ± 3.5"],
        ["full", "", "77.5 ± 3.5", ""],
    ]


# --- the protocol


def make_masks(as_error: float, left_out: float, coverage: float) -> dict:
    figures = {"miou_count_as_error": as_error, "miou_exclude": left_out, "coverage": coverage, "images": 7}
    return {"refined": {"my.val": {"best": {"miou": as_error, **figures}}}}


def test_masks_that_leave_pixels_undecided_are_reported_both_ways() -> None:
    table = build_table({"cam": [make_masks(0.5, 0.5, 1.0)], "rca": [make_masks(0.4, 0.6, 0.9)]})
    figures = table.set_index(["run", "metric"])["mean"]
    assert (
        figures["rca", "refined.my.val.best.miou"] == figures["rca", "refined.my.val.best.miou_count_as_error"] == 0.4
    )
    assert figures["rca", "refined.my.val.best.miou_exclude"] == 0.6
    # Both runs have all columns, so that they can be compared in each; none shows the same figure twice.
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in format_markdown(table).splitlines()]
    column = "refined my.val"
    assert lines[0][2:] == [f"{column}, undecided as errors", f"{column}, undecided left out", f"{column}, coverage"]
    assert lines[2:] == [["cam", "best", "50.0", "50.0", "100.0"], ["rca", "best", "40.0", "60.0", "90.0"]]


def test_masks_that_cover_everything_have_one_miou() -> None:
    table = build_table({"cam": [make_masks(0.5, 0.5, 1.0)]})
    assert table["metric"].tolist() == ["refined.my.val.best.miou"]
    assert table[["tags", "images"]].to_numpy().tolist() == [["given", 7]]


def test_seeds_of_predicted_tags_have_a_column_of_their_own() -> None:
    seeds = {"val": {"best": {"miou": 0.5, "images": 3}}}
    table = build_table(
        {"cam": [{"seed": seeds, "seed_predicted_tags": seeds, "segmentation": {"val": {"miou": 0.2}}}]}
    )
    assert table["tags"].tolist() == ["given", "predicted", "none"]
    assert format_markdown(table).splitlines()[0] == (
        "| run | threshold | seed val | seed val, tags predicted | segmentation val |"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seed.val.best.miou", ("seed", "val", "best", "miou")),
        ("seed.my.val.fixed.miou", ("seed", "my.val", "fixed", "miou")),
        ("segmentation.my.val.miou", ("segmentation", "my.val", "", "miou")),
    ],
)
def test_names_of_metrics_are_taken_apart(name: str, expected: tuple) -> None:
    assert take_apart(name) == Metric(*expected)


def test_the_protocol_of_each_group_of_runs_is_stated_once() -> None:
    common = {
        "lists": {"val": {"images": 1449, "sha256": "0123456789"}},
        "tags": {"seed": "given", "segmentation": "none"},
        "tag_threshold": None,
        "predicted_ignore": "exclude",
        "best_on": "train",
        "boundary_distance": 0.02,
        "supervision": "tags",
        "initialisation": {"segmentation": "resnet50 (torchvision IMAGENET1K_V2)"},
    }
    text = format_protocols({"cam": [common, common], "rca": [common]})
    assert text.count("val (1449 images, list 01234567)") == 1
    assert "Tags given: seed. No tags: segmentation." in text
    assert "left out" in text
    assert "highest seed mIoU on train" in text
    assert "Trained on tags alone." in text
    assert "Initial weights (segmentation: resnet50 (torchvision IMAGENET1K_V2))." in text
    other = {**common, "tags": {"seed_predicted_tags": "predicted"}, "tag_threshold": 0.3}
    first, second = format_protocols({"cam": [common], "rca": [other]}).split("\n\n")
    assert first.startswith("cam: ")
    assert second.startswith("rca: ")
    assert "a probability of at least 0.3" in second
