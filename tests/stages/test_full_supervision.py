"""A run that is trained on true masks: the upper bound of the segmentation, without any stage before it."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import jaccard_score
from stages import locate, run_stage, run_stages, shrink_preset, write_params

from rca.cli.export import find_evaluation
from rca.core.files import IGNORE, hash_file, read_json, read_mask
from rca.data.manifest import read_manifest
from rca.params.instances import list_instances
from rca.params.read import read_params
from rca.prediction.model import load_model
from rca.segmentation.network import load_segmenter
from rca.stages.base.pins import Instance

PLACE: dict[str, Any] = {"run": "full", "seed": 1}
PATHS = locate(**PLACE)
LEFTOVERS = (
    *("model", "memory_history", "train_cam.csv", "maps/0", "affinity_inputs", "affinity.safetensors"),
    *("train_affinity.csv", "threshold.json", "threshold.csv", "masks/pseudo/0", "masks/refined/0"),
)


def describe(**changes: Any) -> dict[str, Any]:
    """The embedded preset cut down, with the run `full` beside the others."""
    params = shrink_preset(train=5, val=3, epochs=1, batch_size=3)
    params.update(runs=["cam", "full", "rca"], seeds=[1], **changes)
    params["run"]["full"] = {"supervision": "masks"}
    params["walk_scores"]["enabled"] = True
    return params


def run_all(*stages: str) -> None:
    run_stages(*(Instance(stage, **PLACE) for stage in stages))


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(describe())
    before = (Instance("generate_data", item="shapes"), Instance("prepare_data"), Instance("pin_images"))
    run_stages(*before, Instance("fetch_weights", item="segmenter"))


@pytest.mark.usefixtures("_project")
def test_the_upper_bound_sees_true_masks_and_makes_none() -> None:
    stages = list_instances(read_params())
    with_full = [name for name, stage in stages.items() if "full" in stage.get("runs", ())]
    assert with_full == ["evaluate", "pin_truth", "predict_seg", "train_seg"]
    for name in LEFTOVERS:  # of a run of tags that had this name before
        (PATHS.root / name).mkdir(parents=True)
    # Neither the weights of the classifier nor the features of the images are there: nothing asks for them.
    run_all("pin_truth", "train_seg", "predict_seg", "evaluate")

    made = {"masks.json", "segmenter.safetensors", "train_seg.csv", "predictions"}
    assert {path.name for path in PATHS.root.iterdir()} == made

    manifest = read_manifest(PATHS.dataset.manifest)
    records = manifest.select("train")
    assert read_json(PATHS.pinned_masks)["sha256"] == {
        record.id: hash_file(manifest.root / "SegmentationClass" / f"{record.id}.png") for record in records
    }
    provenance = load_segmenter(PATHS.segmenter).description.provenance
    assert provenance is not None
    assert (provenance.masks, provenance.images, provenance.run) == ("true", 5, "full")

    written = read_json(PATHS.evaluation / "evaluation.json")
    assert set(written["metrics"]) == {"segmentation"}
    pairs = [
        (read_mask(manifest.truth(record)), read_mask(PATHS.predictions / f"val/{record.id}.png"))
        for record in manifest.select("val")
    ]
    known = [(truth[truth != IGNORE], mask[truth != IGNORE]) for truth, mask in pairs]
    truth, mask = ([label for pair in known for label in pair[side]] for side in (0, 1))
    expected = jaccard_score(truth, mask, labels=sorted({*truth, *mask}), average="macro")
    assert written["metrics"]["segmentation"]["val"]["miou"] == pytest.approx(expected, abs=1e-6)
    protocol = written["protocol"]
    assert protocol["supervision"] == "masks"
    assert protocol["initialisation"] == {"segmentation": "small (from scratch)"}
    assert protocol["tags"] == {"segmentation": "none"}
    assert set(pd.read_csv(PATHS.per_class)["kind"]) == {"segmentation"}
    assert {path.stem for path in PATHS.evaluation.glob("examples/*/*.png")} == {"truth", "segmentation"}

    evaluation = find_evaluation(load_model(PATHS.segmenter))  # what the model's card says
    assert evaluation is not None
    assert evaluation.splits == written["metrics"]["segmentation"]
    assert {*evaluation.classes["val"]} == {"background", *manifest.classes}
    assert find_evaluation(load_model(PATHS.segmenter.rename("moved.safetensors"))) is None


@pytest.mark.usefixtures("_project")
def test_a_mask_that_was_edited_after_it_was_pinned_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run_all("pin_truth")
    masks = sorted(Path("data/shapes/SegmentationClass").glob("train_*.png"))
    shutil.copyfile(masks[0], masks[1])
    assert run_stage("train_seg", **PLACE) == 2
    message = f"The mask {masks[1]} is not the one that was pinned: run the stage that pins it again."
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, {"cam": "full", "rca": "full"}),
        ({"rca": {"train_seg": {"masks": "pseudo", "threshold": "fixed"}}}, {"cam": "full", "rca": "full"}),
        ({"rca": {"train_seg": {"loss": {"noise": {}}}}}, {"cam": "full", "rca": "full"}),
        ({"rca": {"train_seg": {"head": "linear"}}}, {"cam": "full"}),
        ({"rca": {"predict_seg": {"prediction": {"flip": False}}}}, {"cam": "full"}),
        ({"full": {"train_seg": {"head": "linear"}}}, {}),
        ({"full": {"supervision": "tags"}}, {}),
    ],
)
def test_a_run_is_compared_with_the_same_net_under_full_supervision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict, expected: dict
) -> None:
    monkeypatch.chdir(tmp_path)
    params = describe()
    for run, changes in overrides.items():
        params["run"][run].update(changes)
    write_params(params)
    assert read_params().upper_bounds == expected
