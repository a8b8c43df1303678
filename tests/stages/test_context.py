"""What an instance of a stage gets: its place, its task, and the name of its checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stages import prepare, read_preset, write_params

import rca.core.imports
import rca.params.pin
from rca.core.errors import UserError
from rca.core.files import read_json
from rca.core.imports import PACKAGE
from rca.params.pin import pin
from rca.stages.base.context import TRACKERS, Context
from rca.stages.base.pins import PINS, Instance, read_pins
from rca.stages.base.stage import load_stage
from rca.training import curves

RCA: dict[str, Any] = {"run": "rca", "seed": 0}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    params = read_preset()
    params["run"]["rca"]["make_cam"] = {"inference": {"batch_size": 2}}
    write_params(params)
    return params


# --- the place


def test_an_instance_is_named_as_dvc_names_it() -> None:
    assert Context("make_cam", "tiny", run="rca", seed=0, shard=3).name == "make_cam.rca-0-3"
    assert Context("train_cam", "tiny", run="cam", seed=1).name == "train_cam.cam-1"
    assert Context("fetch_weights", "tiny", item="segmenter").name == "fetch_weights.segmenter"
    assert Context("cache_features", "tiny", shard=0).name == "cache_features.0"
    assert Context("tabulate", "tiny").name == "tabulate"


def test_outputs_lie_under_dataset_run_and_seed() -> None:
    paths = Context("make_cam", "tiny", run="rca", seed=7).paths
    assert paths.network.as_posix() == "runs/tiny/rca/7/model/network.safetensors"
    assert paths.metrics.as_posix() == "results/tiny/rca-7.json"
    assert paths.maps_of(3, "walked").as_posix() == "runs/tiny/rca/7/maps/3/walked.safetensors"


def test_a_stage_cannot_use_a_place_that_it_does_not_declare() -> None:
    with pytest.raises(ValueError, match="tabulate has no run and seed: declare both as axes"):
        _ = Context("tabulate", "tiny").paths
    with pytest.raises(ValueError, match="train_cam has no shard: declare it as an axis"):
        _ = Context("train_cam", "tiny", run="rca", seed=0).chosen_shard


@pytest.mark.parametrize(
    ("instance", "sentence"),
    [
        (Instance("make_tea"), "There is no stage make_tea: choose one of "),
        (Instance("make_cam", run="hsc", seed=0, shard=0), "make_cam has no run hsc: name one of cam, rca."),
        (Instance("make_cam", run="rca", shard=0), "make_cam works on one seed: name one of 0, 1."),
        (Instance("make_cam", seed=0, shard=0), "make_cam works on one run: name one of cam, rca."),
        (Instance("make_cam", **RCA), "make_cam works on one shard: name one of 0, 1."),
        (Instance("make_cam", **RCA, shard=2), "make_cam has no shard 2: name one of 0, 1."),
        (Instance("make_cam", **RCA, shard=-1), "make_cam has no shard -1: name one of 0, 1."),
        (Instance("train_cam", **RCA, shard=0), "train_cam has no shard: leave it out."),
        (Instance("tabulate", run="rca"), "tabulate has no run: leave it out."),
        (Instance("fetch_weights"), "fetch_weights works on one item: name one of classifier, segmenter."),
        (Instance("snapshot_memory", run="cam", seed=0), "snapshot_memory has no run cam: name one of rca."),
        (
            Instance("walk_scores", **RCA, shard=0),
            "walk_scores has nothing to do with these params: change them, or run another stage.",
        ),
    ],
)
def test_a_place_that_does_not_exist_is_refused(params: dict[str, Any], instance: Instance, sentence: str) -> None:
    pin()
    with pytest.raises(UserError) as caught:
        read_pins().prepare(instance)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "runs/pins.json does not exist: run the first stage, `dvc repro pin_stages`."),
        ("{", "runs/pins.json is not valid JSON"),
        ("[]", "runs/pins.json is not what pin_stages writes"),
        ('{"project": {}}', "runs/pins.json is not what pin_stages writes"),
    ],
)
def test_pins_that_cannot_be_read_are_named(params: dict[str, Any], content: str | None, sentence: str) -> None:
    if content is not None:
        PINS.parent.mkdir()
        PINS.write_text(content)
    with pytest.raises(UserError) as caught:
        read_pins()
    assert str(caught.value).startswith(sentence)


def test_pins_of_other_code_are_named(params: dict[str, Any]) -> None:
    pin()
    pins = read_pins()
    pins.data["tasks"]["make_cam"]["rca"]["strode"] = 4
    with pytest.raises(UserError, match=r"runs/pins\.json: make_cam\.strode is an unknown key"):
        pins.prepare(Instance("make_cam", **RCA, shard=0))


# --- the task


@pytest.mark.parametrize(("run", "batch_size"), [("cam", 16), ("rca", 2)])
def test_a_run_overrides_what_it_names_and_nothing_else(params: dict[str, Any], run: str, batch_size: int) -> None:
    _, task = prepare("make_cam", run=run, seed=1, shard=0)
    assert isinstance(task, load_stage("make_cam").task)
    assert (task.stride, task.inference.scales, task.inference.batch_size) == (2, (1.0, 1.5), batch_size)
    assert task.inference.flip  # a default
    assert task.keeps_memory == (run == "rca")


def test_a_task_brings_what_a_stage_shares_with_others(params: dict[str, Any]) -> None:
    params["walk_scores"]["enabled"] = True
    params["run"]["cam"]["walk_scores"] = {"enabled": False}
    write_params(params)
    found = {run: prepare("choose_threshold", run=run, seed=0)[1] for run in ("cam", "rca")}
    assert (found["cam"].maps, found["rca"].maps) == ("scores", "walked")
    assert found["rca"].shards == (0, 1)
    for item, section in (("classifier", "train_cam"), ("segmenter", "train_seg")):
        _, task = prepare("fetch_weights", item=item)
        assert task.backbone.model_dump(mode="json").items() >= params[section]["backbone"].items()


# --- pins and checkpoints


def name_checkpoint(stage: str = "train_cam", **place: Any) -> str:
    context, _ = prepare(stage, **{**RCA, **place})
    return context.checkpoint([]).name


def test_a_checkpoint_is_of_its_settings_images_inputs_and_place_alone(params: dict[str, Any]) -> None:
    data = Path("data.csv")
    data.write_text("one")
    context, _ = prepare("train_cam", **RCA)
    first = context.checkpoint([data])
    assert context.checkpoint([data]) == first
    assert (
        len({first, context.checkpoint([]), context.checkpoint([data], "images"), context.checkpoint([data], "x")}) == 4
    )
    assert replace(context, seed=1).checkpoint([data]) != first
    data.write_text("two")
    assert context.checkpoint([data]) != first
    data.write_text("one")
    params["train_cam"]["second_view"] = 0.9
    write_params(params)
    assert prepare("train_cam", **RCA)[0].checkpoint([data]) != first
    params["run"]["rca"]["train_cam"] = {"second_view": 0.3}  # as before
    write_params(params)
    assert prepare("train_cam", **RCA)[0].checkpoint([data]) == first


def test_checkpoints_of_another_fingerprint_go_and_those_of_others_stay(params: dict[str, Any]) -> None:
    context, _ = prepare("train_cam", **RCA)
    old, new = context.checkpoint([]), context.checkpoint([], "images")
    others = [
        replace(context, **place).checkpoint([]) for place in ({"seed": 1}, {"run": "cam"}, {"stage": "train_seg"})
    ]
    old.parent.mkdir(parents=True)
    for path in (old, new, *others):
        path.touch()
        path.with_suffix(".memory").mkdir()
    context.checkpoint([], "images")
    left = {path.name for path in old.parent.iterdir()}
    assert left == {path.with_suffix(suffix).name for path in (new, *others) for suffix in (".pt", ".memory")}


def test_a_setting_that_changes_no_result_changes_neither_pins_nor_checkpoints(params: dict[str, Any]) -> None:
    def read() -> tuple[dict[str, Any], list[str], dict[str, Any]]:
        names = [name_checkpoint(), name_checkpoint("refine_crf", shard=0)]
        pins = read_json(PINS)
        return {name: pins[name] for name in pins if name not in ("tasks", "render_report")}, names, pins["tasks"]

    before = read()
    params["prepare_data"]["workers"] = 7
    params["refine_crf"]["workers"] = 5
    params["train_cam"]["optimisation"]["workers"] = 3
    params["resources"]["other"]["mem_mb"] = 77
    write_params(params)
    after = read()
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    assert prepare("prepare_data")[1].workers == 7
    assert prepare("refine_crf", **RCA, shard=0)[1].workers == 5
    assert prepare("train_cam", **RCA)[1].optimisation.workers == 3


def test_a_setting_concerns_the_stages_and_runs_that_use_it(params: dict[str, Any]) -> None:
    def list_changed() -> set[str]:
        nonlocal before
        pin()
        after = read_json(PINS)
        flat = [
            {
                (stage, key): one
                for stage, of_stage in pins.items()
                if stage not in ("tasks", "render_report")
                for key, one in of_stage.items()
            }
            for pins in (before, after)
        ]
        before = after
        assert flat[0].keys() == flat[1].keys()
        return {f"{stage} {key}" for stage, key in flat[0] if flat[0][stage, key] != flat[1][stage, key]}

    pin()
    before = read_json(PINS)
    params["run"]["rca"]["options"]["contrast"]["weight"] = 0.02
    write_params(params)
    assert list_changed() == {"train_cam rca"}
    params["make_cam"]["stride"] = 8
    write_params(params)
    assert list_changed() == {"make_cam cam", "make_cam rca"}
    params["run"]["cam"]["train_seg"] = {"head": "linear"}
    write_params(params)
    assert list_changed() == {"train_seg cam"}
    params["render_report"]["title"] = "Shapes"
    write_params(params)
    assert list_changed() == set()  # but for the report, which shows the whole of params.yaml


@pytest.fixture
def package(params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, whose files are pinned in place of the ones that run."""
    copy = Path("copy/rca").absolute()
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(rca.core.imports, "PACKAGE", copy)
    monkeypatch.setattr(rca.params.pin, "PACKAGE", copy)
    monkeypatch.setattr(rca.params.pin, "REGISTRY", copy / "classifier/registry.py")
    return copy


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("stages/render_report.py", set()),
        ("methods/hsc.py", set()),
        ("cli/check.py", set()),
        ("params/schema.py", set()),
        ("methods/rca.py", {"train_cam rca", "make_cam rca"}),
        ("hosts/cam.py", {"train_cam cam", "train_cam rca", "make_cam cam", "make_cam rca"}),
        ("stages/train_cam.py", {"train_cam cam", "train_cam rca"}),
        ("stages/make_cam.py", {"make_cam cam", "make_cam rca"}),
        ("training/trainer.py", {"train_cam cam", "train_cam rca"}),
        ("classifier/inference.py", {"make_cam cam", "make_cam rca"}),
    ],
)
def test_an_edit_renames_the_checkpoints_of_the_code_that_runs_it(
    package: Path, edited: str, changed: set[str]
) -> None:
    def name_all() -> dict[str, str]:
        pin()
        pins, found = read_pins(), {}
        for stage, place in (("train_cam", {}), ("make_cam", {"shard": 0})):
            for run in ("cam", "rca"):
                _, context, _ = pins.prepare(Instance(stage, run=run, seed=0, **place))
                found[f"{stage} {run}"] = context.checkpoint([]).name
        return found

    before = name_all()
    with open(package / edited, "a") as file:
        file.write("# an edit\n")
    after = name_all()
    assert {name for name in before if after[name] != before[name]} == changed


@pytest.mark.parametrize("stage", ["train_cam", "train_seg"])
def test_curves_go_where_a_variable_says(params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    before = name_checkpoint(stage)
    context, _ = prepare(stage, **RCA)
    assert set(TRACKERS) == set(curves.TRACKERS)
    for name in TRACKERS:
        monkeypatch.delenv(name, raising=False)
    assert context.curves == {}
    monkeypatch.setenv("RCA_TENSORBOARD", "folder")
    monkeypatch.setenv("RCA_MLFLOW", "http://server:5000")
    monkeypatch.setenv("RCA_DVCLIVE", "")
    place = f"shapes/rca/0/{stage}"
    assert context.curves == {"RCA_TENSORBOARD": ("folder", place), "RCA_MLFLOW": ("http://server:5000", place)}
    assert name_checkpoint(stage) == before
