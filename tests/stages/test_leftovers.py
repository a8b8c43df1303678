"""What stages wrote under earlier settings is removed before the first stage that depends on the folder around it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from scored import PATHS, PLACE, SHARDS, build_project, make_masks
from stages import run_stage, run_stages, write_params

from rca.core.settings import load_params
from rca.stages.base.pins import Instance

AFFINITY = ("affinity_inputs", "affinity.safetensors", "train_affinity.csv")
SEGMENTATION = ("masks.json", "segmenter.safetensors", "train_seg.csv", "predictions")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def change(**sections: dict[str, Any]) -> None:
    params = load_params(Path("params.yaml"))
    for section, values in sections.items():
        params[section].update(values)
    write_params(params)


def plant(*names: str) -> None:
    for name in names:
        (PATHS.root / name).mkdir(parents=True)


def list_below(folder: Path) -> set[str]:
    """The names of what lies in a folder and in the folders therein."""
    return {path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("*/*"))}


def test_maps_that_walked_go_with_the_walk() -> None:
    build_project(walk_scores={"enabled": True})
    run_stages(*(Instance("make_cam", **PLACE, shard=shard) for shard in SHARDS))
    for shard in SHARDS:
        shutil.copy(PATHS.maps_of(shard, "scores"), PATHS.maps_of(shard, "walked"))
    plant(*AFFINITY)
    assert run_stage("choose_threshold", **PLACE) == 0
    assert list_below(PATHS.maps) == {
        *("0", "0/scores.safetensors", "0/walked.safetensors"),
        *("1", "1/scores.safetensors", "1/walked.safetensors"),
    }
    change(walk_scores={"enabled": False})
    assert run_stage("choose_threshold", **PLACE) == 0
    alone = {"0", "0/scores.safetensors", "1", "1/scores.safetensors"}
    assert list_below(PATHS.maps) == alone
    run_stages(*(Instance("make_pseudo", **PLACE, shard=shard) for shard in SHARDS), Instance("evaluate", **PLACE))
    assert list_below(PATHS.maps) == alone
    assert not set(AFFINITY) & list_below(PATHS.root)


@pytest.mark.parametrize("segmented", [True, False])
def test_refined_masks_go_with_the_refinement(segmented: bool) -> None:
    build_project(train_seg={"enabled": segmented, "masks": "pseudo"}, refine_crf={"enabled": True})
    make_masks(refine=True)
    first = "pin_masks" if segmented else "evaluate"  # the first stage that depends on the folder
    assert run_stage(first, **PLACE) == 0
    assert list_below(PATHS.masks) == {"pseudo", "pseudo/0", "pseudo/1", "refined", "refined/0", "refined/1"}
    change(refine_crf={"enabled": False})
    assert run_stage(first, **PLACE) == 0
    assert list_below(PATHS.masks) == {"pseudo", "pseudo/0", "pseudo/1"}


def test_a_segmentation_that_is_off_leaves_nothing() -> None:
    build_project()
    make_masks()
    plant(*SEGMENTATION)
    assert run_stage("evaluate", **PLACE) == 0
    assert list_below(PATHS.root) & set(SEGMENTATION) == set()


@pytest.mark.parametrize("segmented", [True, False])
def test_fewer_shards_leave_nothing(segmented: bool) -> None:
    build_project(train_seg={"enabled": segmented}, refine_crf={"enabled": True, "crf": {"iterations": 1}})
    make_masks(refine=True)
    plant("maps/2", "masks/pseudo/2", "masks/refined/2")
    assert run_stage("choose_threshold", **PLACE) == 0
    assert {path.name for path in PATHS.maps.iterdir()} == {"0", "1"}
    assert run_stage("pin_masks" if segmented else "evaluate", **PLACE) == 0
    assert list_below(PATHS.masks) == {"pseudo", "pseudo/0", "pseudo/1", "refined", "refined/0", "refined/1"}


def test_a_memory_goes_with_its_method() -> None:
    build_project()
    plant("model/memory.safetensors")
    assert run_stage("make_cam", **PLACE, shard=0) == 0
    assert [path.name for path in PATHS.model.iterdir()] == ["network.safetensors"]
