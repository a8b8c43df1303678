"""The page's charts: what they show equals what other libraries compute, and Vega-Lite takes them."""

from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert
from reports import EVIL, IDS, RUNS, SEEDS, build_project, draw_mask, render
from scipy import stats
from sklearn.metrics import jaccard_score

from rca.core.files import IGNORE
from rca.evaluation.comparison import find_interval, resample_ious
from rca.report.charts import measure_reliability
from rca.report.differences import MEAN, collect_images, compare_classes

CLASSES = ("background", "cat", "mean")  # a class may be called so


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    build_project(tmp_path)
    return tmp_path


def test_vega_lite_takes_each_chart(project: Path) -> None:
    charts = render(project).charts
    assert list(charts) == [
        *("class", "curve-threshold", "curve-reliability", "curve-train_cam-1", "curve-train_seg-1", "scatter"),
        "memory-0",
    ]
    for spec in charts.values():
        alt.LayerChart.from_dict(spec, validate=True)
        vl_convert.vegalite_to_vega(spec)
        assert spec["usermeta"]["table"] in spec["datasets"]
        for layer in spec["layer"]:
            data = layer.get("data") or spec["data"]
            assert "values" in data or data["name"] in spec["datasets"]


def test_curves_have_the_mean_the_range_and_what_was_chosen(project: Path) -> None:
    data = render(project).charts["curve-threshold"]["datasets"]
    for run in RUNS:
        tables = [pd.read_csv(f"runs/toy/evaluation/{run}-{seed}/threshold.csv") for seed in SEEDS]
        found = pd.DataFrame([line for line in data["curves"] if line["run"] == run])
        assert found["threshold"].tolist() == [0.25, 0.5, 0.75]
        mious = 100 * np.array([table["miou"] for table in tables])
        for name, values in (("mean", mious.mean(0)), ("low", mious.min(0)), ("high", mious.max(0))):
            np.testing.assert_allclose(found[name], values, atol=1e-4)
        chosen = [line for line in data["chosen"] if line["run"] == run]
        assert [(line["choice"], line["seed"], line["threshold"]) for line in chosen] == [
            ("best", 0, 0.5), ("best", 1, 0.5), ("fixed", None, 0.375), ("fixed", None, 0.5)
        ]  # fmt: skip
        assert [line["miou"] for line in chosen[:2]] == pytest.approx(list(mious[:, 1]), abs=1e-4)


def test_losses_are_means_over_seeds(project: Path) -> None:
    charts = render(project).charts
    for name, file, term in (
        ("curve-train_cam-1", "train_cam.csv", "loss_classification"),
        ("curve-train_seg-1", "train_seg.csv", "loss_cross_entropy"),
    ):
        for run in RUNS:
            losses = np.array([pd.read_csv(f"runs/toy/evaluation/{run}-{seed}/{file}")[term] for seed in SEEDS])
            found = pd.DataFrame([line for line in charts[name]["datasets"]["curves"] if line["run"] == run])
            assert found["epoch"].tolist() == [1, 2]
            wanted = np.stack([losses.mean(0), losses.min(0), losses.max(0)], 1)
            np.testing.assert_allclose(found[["mean", "low", "high"]], wanted, atol=1e-4)


def test_reliability_adds_the_pixels_of_all_seeds(project: Path) -> None:
    tables = [
        pd.DataFrame({"threshold": [0.25, 0.5, 0.75], "pixels": pixels, "right": right})
        for pixels, right in (([40, 0, 20], [10, 0, 20]), ([60, 0, 5], [20, 0, 1]))
    ]
    table = measure_reliability(tables)
    assert table[["low", "high", "pixels"]].to_numpy().tolist() == [[0.25, 0.5, 100], [0.75, 1.0, 25]]
    assert table["right"].tolist() == [30 / 100, 21 / 25]
    lines = render(project).charts["curve-reliability"]["datasets"]["reliability"]
    assert [line["share"] for line in lines if line["run"] == RUNS[0]] == pytest.approx(
        [100 * 80 / 120, 100 * 40 / 120]
    )
    assert [line["right"] for line in lines if line["run"] == RUNS[0]] == pytest.approx([25, 100 * 39 / 40])


def test_the_iou_of_each_image_is_sklearns(project: Path) -> None:
    page = render(project)
    assert page.read_script("images")["images"] == {split: sorted(IDS) for split in ("val", "train")}
    series = page.read_script("images")["series"]
    assert [(one["run"], one["masks"]) for one in series] == [
        (run, masks) for run in RUNS for masks in ("segmentation, val", "seed, train")
    ]
    truth = draw_mask(0)
    known = truth != IGNORE
    for one in series:
        for image, iou in zip(sorted(IDS), one["ious"], strict=True):
            mask = draw_mask(IDS.index(image))
            wanted = jaccard_score(truth[known], mask[known], labels=[0, 1, 2], average="macro")
            assert iou == pytest.approx(1000 * wanted, abs=0.51)


# --- differences to the first run


def draw_run(number: int, images: int = 25) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """A run's figures of each class and pixels of each image for three seeds, the first from the second."""
    random = np.random.default_rng(number)
    of_seeds = []
    for _ in range(3):
        truth = random.integers(20, 200, (images, len(CLASSES)))
        predicted = random.integers(20, 200, truth.shape)
        hit = (np.minimum(truth, predicted) * random.random(truth.shape)).astype(int)
        undecided = ((truth - hit) * random.random(truth.shape)).astype(int)
        pixels = pd.DataFrame(
            {"hit": hit.ravel(), "truth": truth.ravel(), "predicted": predicted.ravel(), "undecided": undecided.ravel()}
        )
        names = np.repeat([f"i{image}" for image in range(images)], len(CLASSES))
        of_seeds.append(pixels.assign(image=names, label=[*range(len(CLASSES))] * images, **KEY))
    return [sum_classes(pixels) for pixels in of_seeds], of_seeds


KEY = {"kind": "refined", "split": "val", "threshold": "best"}


def sum_classes(pixels: pd.DataFrame) -> pd.DataFrame:
    """The figures of each class and their mean, undecided pixels left out; and others of the fixed threshold."""
    sums = pixels.groupby("label")[["hit", "truth", "predicted", "undecided"]].sum()
    ious = (sums["hit"] / (sums["truth"] - sums["undecided"] + sums["predicted"] - sums["hit"])).tolist()
    lines = pd.DataFrame({"class": [*CLASSES, "mean"], "iou": [*ious, np.mean(ious)], **KEY})
    return pd.concat([lines, lines.assign(threshold="fixed", iou=0.5)])


def test_differences_of_classes_and_their_intervals() -> None:
    runs = {name: draw_run(number) for number, name in enumerate(("first", "second"))}
    per_class, images = ({run: tables[which] for run, tables in runs.items()} for which in (0, 1))
    table = compare_classes(per_class, images, ignored=True)
    assert table["class"].tolist() == [*CLASSES, MEAN]
    assert set(table["masks"]) == {"refined, val"}
    known = [
        [lines.assign(truth=lines["truth"] - lines["undecided"], seed=seed) for seed, lines in enumerate(images[run])]
        for run in runs
    ]
    _, drawn = resample_ious([pd.concat(lines) for lines in known])
    low, high = (100 * end for end in find_interval(drawn[:, 1] - drawn[:, 0]))
    for place, line in enumerate(table.to_dict("records")):
        first, second = (100 * np.array([seed["iou"].iloc[place] for seed in per_class[run]]) for run in runs)
        assert (line["first"], line["second"]) == pytest.approx((first.mean(), second.mean()))
        over_seeds = stats.ttest_rel(second, first).confidence_interval(0.95)
        assert (line["low_seeds"], line["high_seeds"]) == pytest.approx((over_seeds.low, over_seeds.high))
        assert line["low_images"] < line["difference"] < line["high_images"]  # of the same figure
        if place < len(CLASSES):
            assert (line["low_images"], line["high_images"]) == pytest.approx((low[place], high[place]))
    over_images = 100 * (drawn[:, 1].mean(1) - drawn[:, 0].mean(1))
    mean = table.iloc[-1]
    assert [mean["low_images"], mean["high_images"]] == pytest.approx(list(np.quantile(over_images, [0.025, 0.975])))
    assert mean["interval_seeds"] == f"{mean['low_seeds']:+.1f} to {mean['high_seeds']:+.1f}"
    alone = compare_classes({run: seeds[:1] for run, seeds in per_class.items()}, images, ignored=True)
    assert set(alone["interval_seeds"]) == {"unknown"}


def test_one_run_has_no_differences(project: Path) -> None:
    page = render(project, runs=RUNS[:1], memory_runs=())
    assert "class" not in page.charts
    assert [one["run"] for one in page.read_script("images")["series"]] == [RUNS[0]] * 2


def test_undecided_pixels_of_images_count_as_the_protocol_says() -> None:
    line = {"image": "one", "label": 1, "hit": 6, "truth": 10, "predicted": 6, "undecided": 4, **KEY}
    for ignored, iou in ((False, 600), (True, 1000)):
        (series,) = collect_images({"cam": [pd.DataFrame([line])]}, ignored)["series"]
        assert series["ious"] == [iou]


def test_names_stay_data(project: Path) -> None:
    charts = render(project).charts
    assert {line["class"] for line in charts["class"]["datasets"]["differences"]} == {"background", EVIL, MEAN}


def test_a_project_without_scored_masks_has_no_chart_of_them(project: Path) -> None:
    for folder in project.glob("runs/toy/evaluation/*"):
        for name in ("per_class", "images", "errors", "confusion", "threshold", "examples"):
            table = pd.read_csv(folder / f"{name}.csv")
            table[:0].to_csv(folder / f"{name}.csv", index=False)
    page = render(project)
    assert not {"class", "curve-threshold", "curve-reliability"} & page.charts.keys()
    assert page.read_script("images") == {"images": {}, "series": []}
    assert 'id="scatter-chart"' not in page.text
