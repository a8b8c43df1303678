import io

import numpy as np
import pandas as pd
import pytest

from rca.tables import build_table, flatten, format_latex, format_markdown

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
    unescaped = [[cell.replace(r"\_", "_").replace(r"$\pm$", "±") for cell in row] for row in rows]
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
