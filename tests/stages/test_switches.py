import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from rca.models.storage import load_tensors, save_tensors
from rca.stages.context import Context
from rca.stages.run import run_stage
from rca.stages.switches import write_nothing

ROOT = Path("runs/tiny/rca/0")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place(stage: str, run: dict[str, Any] | None = None, **sections: Any) -> Context:
    """A stage of run rca in a project whose params hold `sections`, and what the run overrides."""
    params = {
        "dataset": {"name": "tiny"},
        "runs": ["rca"],
        "shards": [0, 1],
        "run": {"rca": {"supervision": "tags", **(run or {})}},
        **sections,
    }
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return Context(stage, run="rca", seed=0, shard=1 if stage in ("refine_crf", "walk_scores") else None)


def list_files() -> list[str]:
    return sorted(path.as_posix() for path in ROOT.rglob("*"))


def test_masks_that_are_not_refined_leave_an_empty_folder() -> None:
    old = ROOT / "refined/1/best/a.png"
    old.parent.mkdir(parents=True)
    old.touch()
    (ROOT / "refined/0").mkdir()
    assert write_nothing(place("refine_crf", refine_crf={"enabled": False}))
    assert list_files() == [f"{ROOT}/refined", f"{ROOT}/refined/0", f"{ROOT}/refined/1"]


@pytest.mark.parametrize("section", [{}, {"enabled": False}])
def test_score_maps_do_not_walk_unless_they_are_told_to(section: dict[str, Any]) -> None:
    assert write_nothing(place("pin_scores", walk_scores=section))
    assert (ROOT / "scores.json").read_text() == "{}\n"
    assert write_nothing(place("train_affinity", walk_scores=section))
    assert load_tensors(ROOT / "affinity.safetensors", "train_affinity") == ({}, {"enabled": False})
    assert pd.read_csv(ROOT / "train_affinity.csv").empty
    old = ROOT / "walked/1.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"the maps of an earlier setting")
    assert write_nothing(place("walk_scores", walk_scores=section))
    assert load_tensors(old, "walk_scores") == ({}, {"enabled": False})


@pytest.mark.parametrize("stage", ["pin_scores", "train_affinity", "walk_scores"])
def test_a_run_may_let_its_score_maps_walk(stage: str) -> None:
    assert not write_nothing(place(stage, {"walk_scores": {"enabled": True}}, walk_scores={"enabled": False}))
    assert write_nothing(place(stage, {"walk_scores": {"enabled": False}}, walk_scores={"enabled": True}))


def test_fewer_shards_leave_nothing_behind_even_where_the_first_reader_is_off() -> None:
    kept = [f"scores/{name}" for name in ("0.safetensors", "1.safetensors")] + ["pseudo/1/best", "refined/0/best"]
    for name in (*kept, "scores/2.safetensors", "walked/2.safetensors", "pseudo/2/best", "refined/3/best"):
        (ROOT / name).mkdir(parents=True)
    for stage in ("pin_scores", "choose_threshold", "pin_masks"):
        context = place(stage, {"supervision": "masks"}, walk_scores={}, train_seg={"enabled": False})
        assert run_stage(context) == 0
    found = {f"{path.parent.name}/{path.name}" for folder in ("scores", "walked") for path in (ROOT / folder).iterdir()}
    found |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*/*")}
    assert found == set(kept)


def test_a_segmenter_that_is_not_trained_segments_nothing() -> None:
    assert write_nothing(place("pin_masks", train_seg={"enabled": False}))
    assert (ROOT / "masks.json").read_text() == "{}\n"
    (ROOT / "masks.json").unlink()
    assert write_nothing(place("train_seg", train_seg={"enabled": False}))
    assert load_tensors(ROOT / "segmenter.safetensors", "train_seg") == ({}, {"enabled": False})
    assert pd.read_csv(ROOT / "train_seg.csv").empty
    old = ROOT / "predictions/val/a.png"
    old.parent.mkdir(parents=True)
    assert write_nothing(place("predict_seg"))
    assert list_files() == [f"{ROOT}/{name}" for name in ("predictions", "segmenter.safetensors", "train_seg.csv")]


def test_a_run_on_true_masks_needs_no_stage_before_its_segmentation() -> None:
    on_masks = {"supervision": "masks"}
    sections = {"refine_crf": {}, "walk_scores": {"enabled": True}}
    labelling = ("pin_scores", "train_affinity", "walk_scores", "choose_threshold", "make_pseudo", "refine_crf")
    for stage in ("train_cam", "make_cam", *labelling):
        assert write_nothing(replace(place(stage, on_masks, **sections), shard=1))
        assert not write_nothing(replace(place(stage, **sections), shard=1))
    for stage in ("pin_masks", "train_seg", "predict_seg"):
        assert not write_nothing(place(stage, on_masks, train_seg={}))


@pytest.mark.parametrize("stage", ["refine_crf", "train_seg"])
@pytest.mark.parametrize("section", [{}, {"enabled": True}, {"enabled": "false"}, {"enabled": None}, "off", None])
def test_a_stage_that_is_not_told_to_be_off_runs(stage: str, section: Any) -> None:
    assert not write_nothing(place(stage, **{stage: section}))
    assert list_files() == []


def test_a_run_may_say_otherwise_than_its_section() -> None:
    for own in (True, False):
        context = place("train_seg", {"train_seg": {"enabled": own}}, train_seg={"enabled": not own})
        assert write_nothing(context) == (not own)


@pytest.mark.parametrize("content", [None, b"junk"])
def test_a_segmenter_that_cannot_be_read_is_left_to_the_stage(content: bytes | None) -> None:
    if content:
        ROOT.mkdir(parents=True)
        (ROOT / "segmenter.safetensors").write_bytes(content)
    assert not write_nothing(place("predict_seg"))


def test_a_trained_segmenter_segments() -> None:
    save_tensors(ROOT / "segmenter.safetensors", {}, {"backbone": "small"})
    assert not write_nothing(place("predict_seg"))


def test_a_switch_is_on_or_off(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_stage(place("refine_crf", refine_crf={"enabled": 0})) == 2
    assert "refine_crf.enabled is 0: input should be a valid boolean" in capfd.readouterr().err


def test_a_stage_that_is_off_starts_without_torch() -> None:
    place("train_seg", train_seg={"enabled": False})
    script = """
import sys
from rca.stages.run import main
for stage in ("train_seg", "predict_seg"):
    assert main([stage, "--run", "rca", "--seed", "0"]) == 0
assert not {"torch", "torchvision", "pandas", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert Path("logs/predict_seg.rca-0.log").read_text() == "switched off\n"
