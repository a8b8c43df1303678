"""A run that is trained on true masks: the upper bound of the segmentation, without any stage before it."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from sklearn.metrics import jaccard_score

from rca.classifier.network import load_network
from rca.core.errors import UserError
from rca.core.files import IGNORE, hash_file, read_json, read_mask
from rca.core.settings import load_params
from rca.data.manifest import read_manifest
from rca.segmentation.network import load_segmenter
from rca.stages.context import Context
from rca.stages.run import run_stage
from rca.stages.tabulate import find_upper_bounds

ROOT = Path(__file__).parents[2]
PLACE: dict[str, Any] = {"run": "full", "seed": 1}


def write_params(**changes: Any) -> dict[str, Any]:
    """The embedded preset cut down, with the run `full` beside the others."""
    params = yaml.safe_load(yaml.safe_dump(load_params(ROOT / "workflow/presets/shapes.yaml")))
    params["generate"] = {"shapes": {"train": 5, "val": 3, "size": 48, "seed": 0, "objects": [1, 2]}}
    params.update(runs=["cam", "full", "rca"], seeds=[1], **changes)
    params["run"]["full"] = {**params["run"]["cam"], "supervision": "masks"}
    params["walk_scores"]["enabled"] = True
    params["train_seg"]["optimisation"].update(epochs=1, batch_size=3)
    params["train_seg"]["augmentation"]["crop"] = 48
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return params


def run_all(*stages: str) -> None:
    for stage in stages:
        shards = (0, 1) if stage in ("make_cam", "walk_scores", "make_pseudo", "refine_crf") else (None,)
        for shard in shards:
            assert run_stage(Context(stage, **PLACE, shard=shard)) == 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.chdir(tmp_path)
    write_params()
    for context in (
        Context("generate_data", item="shapes"),
        Context("prepare_data"),
        Context("fetch_weights", item="train_seg"),
    ):
        assert run_stage(context) == 0
    return Context("evaluate", **PLACE)


def test_the_upper_bound_sees_true_masks_and_makes_none(project: Context) -> None:
    paths = project.paths
    paths.model.mkdir(parents=True)
    paths.memory.touch()  # of a run that had this name before
    # Neither the weights of the classifier nor the features of the images are there: nothing asks for them.
    run_all("train_cam", "make_cam", "train_affinity", "walk_scores", "choose_threshold", "make_pseudo", "refine_crf")
    assert {path.name for path in paths.root.rglob("*") if path.is_file()} == {
        *("network.safetensors", "train_cam.csv", "affinity.safetensors", "train_affinity.csv"),
        *("0.safetensors", "1.safetensors", "threshold.json", "threshold.csv"),
    }
    assert paths.memory_history.is_dir()
    run_all("pin_masks", "train_seg", "predict_seg", "evaluate")

    manifest = read_manifest(project.layout.manifest)
    records = manifest.select("train")
    assert read_json(paths.pinned_masks)["sha256"] == {
        record.id: hash_file(manifest.root / "SegmentationClass" / f"{record.id}.png") for record in records
    }
    provenance = load_segmenter(paths.segmenter).description.provenance
    assert provenance is not None
    assert (provenance.masks, provenance.images, provenance.run) == ("true", 5, "full")

    written = read_json(paths.evaluation / "evaluation.json")
    assert set(written["metrics"]) == {"segmentation"}
    pairs = [
        (read_mask(manifest.truth(record)), read_mask(paths.predictions / f"val/{record.id}.png"))
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
    assert set(pd.read_csv(paths.per_class)["kind"]) == {"segmentation"}
    assert {path.stem for path in paths.evaluation.glob("examples/*/*.png")} == {"truth", "segmentation"}


def test_a_mask_that_was_edited_after_it_was_pinned_is_refused(
    project: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    run_all("pin_masks")
    masks = sorted(Path("data/shapes/SegmentationClass").glob("train_*.png"))
    shutil.copyfile(masks[0], masks[1])
    assert run_stage(Context("train_seg", **PLACE)) == 2
    assert f"The mask {masks[1]} is not the one that was pinned: run pin_masks again." in capsys.readouterr().err


def test_its_classification_network_is_told_to_be_none(project: Context) -> None:
    run_all("train_cam")
    with pytest.raises(UserError, match="holds no network, since its run was trained on true masks"):
        load_network(project.paths.network, {})


def test_an_unknown_supervision_is_told(project: Context, capsys: pytest.CaptureFixture[str]) -> None:
    params = load_params(Path("params.yaml"))
    params["run"]["full"]["supervision"] = "boxes"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert run_stage(Context("train_cam", **PLACE)) == 2
    assert "run.full.supervision is 'boxes': set it to tags or masks." in capsys.readouterr().err


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
    project: Context, overrides: dict, expected: dict
) -> None:
    params = write_params()
    for run, changes in overrides.items():
        params["run"][run].update(changes)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert find_upper_bounds(Context("tabulate")) == expected
