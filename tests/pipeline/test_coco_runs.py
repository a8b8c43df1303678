"""The whole pipeline on real photographs in COCO's layout; skipped where they do not lie at $RCA_SHARED."""

import json
import os
from pathlib import Path

import pytest
from projects import ROOT, SMALL_NETS, build_real

COCO_TINY = (ROOT / os.environ.get("RCA_SHARED", "../shared") / "data/coco-tiny").resolve()
SMALL = {
    **SMALL_NETS,
    "runs": "[rca_released, mcis, seam_hsc]",
    "shards": "[0]",
    "dataset.annotations": "annotations/instances_{split}2017.json",
    "dataset.images": "'{split}2017'",
    "make_cam.inference": "{scales: [0.5], flip: false, batch_size: 8}",
    "make_cam.stride": "8",
    "make_cam.threads": "1",
    "choose_threshold.candidates": "3",
    "refine_crf.crf.iterations": "1",
    "predict_seg.prediction": "{scales: [0.25], flip: false}",
    "predict_seg.threads": "1",
    "evaluate.examples": "2",
}


@pytest.mark.slow
@pytest.mark.skipif(not COCO_TINY.is_dir(), reason=f"{COCO_TINY} does not exist: set RCA_SHARED")
def test_coco_runs_from_its_annotations_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCO_ROOT", str(COCO_TINY))
    project = build_real(tmp_path)
    changes = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    project.rca("preset", "coco2014", *changes, "--force")
    printed = project.rca("check")
    assert "train: 1 of 50 images have no annotation and are left out." in printed
    assert "\ntrain: 49 images, 49 with a mask" in printed
    assert "no image of the split val shows" in printed
    project.repro()
    assert len(list((project.path / "runs/coco2014/data/masks").glob("*.png"))) == 97
    for run in ("rca_released", "mcis", "seam_hsc"):
        metrics = json.loads((project.path / f"results/coco2014/{run}-0.json").read_text())
        for kind, split in (("seed", "train"), ("pseudo", "train"), ("refined", "train")):
            assert 0 < metrics[kind][split]["best"]["miou"] < 1
        assert 0 < metrics["segmentation"]["val"]["miou"] < 1
    assert (project.path / "runs/coco2014/report/index.html").is_file()
    assert "97 images, 80 classes, root data/coco2014" in project.rca("inspect", "data", "runs/coco2014/data")
    project.list_ran()
    project.repro()
    assert project.list_ran() == []
