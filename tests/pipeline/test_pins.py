"""What an edit reruns, for every stage under both engines, and a stage that is declared in one place."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from projects import ROOT, RealProject, build_once, build_real, copy_project
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

from rca.core.files import hash_file
from rca.stages.base.stage import list_stages

PLAN = """
import json
from pathlib import Path
from rca.pipeline.plan import make_plan
print(json.dumps(sorted(make_plan(Path()).changed)))
"""
IMPORTED = """
import importlib, json, sys
for name in ("rca.stages.__main__", *sys.argv[1:]):
    importlib.import_module(name)
print(json.dumps([module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "rca"]))
"""
# The stage that only a frozen backbone needs.
OF_FROZEN = "cache_features"


@pytest.fixture(scope="module")
def frozen(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> RealProject:
    """A project whose backbone is frozen, finished up to its features."""

    def build(folder: Path) -> None:
        project = build_real(folder)
        weights = project.path / "weights.safetensors"
        save_file(mobilenet_v2().state_dict(), weights)
        source = {"source": "file", "path": weights.name, "sha256": hash_file(weights)}
        backbone = {"name": "mobilenet_v2", "output_stride": 16, "trainable": "none", "weights": source}
        whole = {"scale": [1.0, 1.0], "crop": None, "jitter": 0.0}
        project.set_params({"runs": ["cam"], "train_cam.backbone": backbone, "train_cam.augmentation": whole})
        project.refresh()
        project.repro(f"{OF_FROZEN}@0")
        project.list_ran()

    folder = build_once(tmp_path_factory, "frozen", build)
    return RealProject(folder / "project", folder / "outside")


@pytest.fixture(scope="module")
def every_stage(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> RealProject:
    """A finished project with instances of all other stages: runs that walk, average, relabel, see masks, take."""

    def build(folder: Path) -> None:
        project = build_real(folder)
        changes = {"runs": ["cam", "rca", "full", "both", "second", "taken"], "run.full": {"supervision": "masks"}}
        changes["run.both"] = {"averages": {"runs": ["cam", "rca"]}}
        changes["run.second"] = {"masks_from": "cam", "train_seg": {"masks": "relabelled"}}
        changes["run.taken"] = {"base": "cam", "train": "none"}
        walk = {"train_affinity.optimisation": {"epochs": 1, "batch_size": 8}, "train_affinity.augmentation.crop": 48}
        project.set_params({**changes, **walk, "run.rca.walk_scores": {"enabled": True, "walk": {"steps": 16}}})
        project.refresh()
        project.repro()
        project.commit("finished")
        project.list_ran()

    folder = build_once(tmp_path_factory, "every stage", build)
    return RealProject(folder / "project", folder / "outside")


@contextmanager
def edit(file: Path) -> Iterator[None]:
    """A comment at the end of a file, which goes again."""
    text = file.read_text()
    file.write_text(f"{text}\n# edited\n")
    try:
        yield
    finally:
        file.write_text(text)


def ask_snakemake(project: RealProject) -> set[str]:
    """The stages that the Snakefile would start first: what its plan calls changed."""
    return {name.partition("@")[0] for name in json.loads(project.run(sys.executable, "-c", PLAN).splitlines()[-1])}


def ask_dvc(project: RealProject) -> set[str]:
    """The stages that `dvc repro` would start first."""
    project.run("dvc", "repro", "-q", "pin_stages")
    return {name.partition("@")[0] for name in json.loads(project.run("dvc", "status", "--json"))}


ENGINES = {"dvc": ask_dvc, "snakemake": ask_snakemake}


def list_importers(project: RealProject, file: Path) -> set[str]:
    """The stages that load a file, by Python's own account: with the hosts and methods of the project's runs."""
    importers = set()
    for stage in list_stages():
        printed = project.run(sys.executable, "-c", IMPORTED, f"rca.stages.{stage}")
        if str(file) in json.loads(printed.splitlines()[-1]):
            importers.add(stage)
    return importers


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_edit_of_a_stage_reruns_that_stage_alone(every_stage: RealProject, tmp_path: Path, engine: str) -> None:
    project = copy_project(every_stage, tmp_path)
    for stage in sorted(set(list_stages()) - {OF_FROZEN}):
        with edit(project.path / f"rca/stages/{stage}.py"):
            assert ENGINES[engine](project) == {stage}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_edit_of_the_features_reruns_them_alone(frozen: RealProject, tmp_path: Path, engine: str) -> None:
    project = copy_project(frozen, tmp_path)
    before = ENGINES[engine](project)
    assert OF_FROZEN not in before
    with edit(project.path / f"rca/stages/{OF_FROZEN}.py"):
        assert ENGINES[engine](project) == {*before, OF_FROZEN}
    with edit(project.path / "rca/labels/crf.py"):
        assert OF_FROZEN not in ENGINES[engine](project)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("module", ["data/manifest", "labels/score_maps", "evaluation/metrics", "training/trainer"])
def test_an_edit_of_a_module_reruns_the_stages_that_load_it(
    every_stage: RealProject, tmp_path: Path, engine: str, module: str
) -> None:
    project = copy_project(every_stage, tmp_path)
    file = project.path / f"rca/{module}.py"
    expected = list_importers(project, file)
    assert expected
    with edit(file):
        changed = ENGINES[engine](project)
    # A module that a function loads later counts as well, and Python does not tell of it here.
    assert expected - {OF_FROZEN} <= changed
    assert "tabulate" not in changed or module.startswith("evaluation")
    assert "prepare_data" not in changed or module.startswith("data")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_page_reruns_the_report_and_a_loss_the_trainings_of_its_runs(real: RealProject, engine: str) -> None:
    with edit(real.path / "rca/report/build.py"):
        assert ENGINES[engine](real) == {"render_report"}
    with edit(real.path / "rca/methods/rca.py"):
        changed = ENGINES[engine](real)
    assert changed == {"train_cam", "snapshot_memory", "make_cam"}
    pins = json.loads((real.path / "runs/pins.json").read_text())["train_cam"]
    assert pins["cam"]["code"] != pins["rca"]["code"]  # the run cam does not load the method
    assert ENGINES[engine](real) == set()


def test_a_setting_that_changes_no_result_reruns_nothing(real: RealProject) -> None:
    real.set_params({"refine_crf.workers": 2, "train_cam.optimisation.workers": 1})
    assert ask_snakemake(real) == {"render_report"}  # it shows params.yaml
    assert ask_dvc(real) == {"render_report"}


@pytest.mark.slow
def test_dvc_repro_stops_once_where_params_ask_for_other_stages(real: RealProject) -> None:
    real.set_params({"runs": ["cam"]})
    text = real.repro(code=255)
    assert "changes the instances of stages: workflow/instances.yaml is updated, run this again." in text
    assert "Traceback" not in text
    assert real.list_ran() == []
    real.repro()
    assert "tabulate" in real.list_ran()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["repro", "snakemake"])
def test_a_new_stage(real: RealProject, engine: str) -> None:
    page = (ROOT / "docs/extending.md").read_text().split("## A stage of your own")[1]
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL))
    (real.path / "rca/stages/measure_area.py").write_text(blocks["python"])
    real.edit("dvc.yaml", "  # Mean and standard deviation over seeds.\n", f"{blocks['yaml']}\n  # Mean.\n")
    real.set_params({"measure_area": {"threshold": "fixed"}})
    real.refresh()
    getattr(real, engine)()
    assert real.list_ran() == ["measure_area@cam-0", "measure_area@rca-0", "render_report"]
    shares = json.loads((real.path / "runs/shapes/areas/rca-0.json").read_text())
    assert sum(shares.values()) == pytest.approx(1)
    assert real.run("git", "status", "--short").split("\n")[:-1] == [
        *(" M dvc.lock", " M dvc.yaml", " M params.yaml", " M workflow/instances.yaml"),
        "?? rca/stages/measure_area.py",
    ]
    assert "has no run hsc: name one of cam, rca" in real.rca("measure_area", "--run", "hsc", "--seed", "0", code=2)
    real.set_params({"measure_area": {"threshold": "middle"}})
    assert 'measure_area.threshold is "middle"' in real.rca("check", code=2)
