"""A project's results as frames of pandas."""

import json
from pathlib import Path

import pytest

import rca
from rca.core.errors import UserError


def test_results_are_the_files_of_a_project(tmp_path: Path) -> None:
    folder = tmp_path / "results/mine"
    folder.mkdir(parents=True)
    for run, seed, miou in (("cam", 0, 0.5), ("long-name", 12, 0.25)):
        metrics = {"seed": {"val": {"best": {"miou": miou, "images": 3}}}, "segmentation": {"val": {"miou": None}}}
        (folder / f"{run}-{seed}.json").write_text(json.dumps(metrics))
        header = "kind,split,threshold,tags,images,predicted_ignore,class,iou,boundary_iou,precision,recall"
        (folder / f"{run}-{seed}.csv").write_text(f"{header}\nseed,val,best,given,3,count_as_error,nan,{miou},,1,1\n")
    (folder / "table.csv").write_text("not,a,run\n")
    found = rca.results(tmp_path)
    best = found.metrics.query("figure == 'miou' and kind == 'seed'")
    assert best[["dataset", "run", "seed", "split", "threshold", "value"]].values.tolist() == [
        ["mine", "cam", 0, "val", "best", 0.5],
        ["mine", "long-name", 12, "val", "best", 0.25],
    ]
    assert found.metrics.query("kind == 'segmentation'")["value"].isna().all()
    assert found.classes[["run", "seed", "class", "iou"]].values.tolist() == [
        ["cam", 0, "nan", 0.5],  # a class may be called nan
        ["long-name", 12, "nan", 0.25],
    ]
    assert found.classes["boundary_iou"].isna().all()
    assert repr(found) == "Results(runs cam, long-name: 6 metrics, 2 lines of classes)"
    with pytest.raises(UserError, match="holds no results"):
        rca.results(folder)
