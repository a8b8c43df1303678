"""DVC's experiments on linked data, in a folder of their own: git fills it, and what git ignores is missing there."""

import re
from pathlib import Path

import pytest
from projects import SMALL_NETS, RealProject, build_once, build_real, copy_project, make_folder

from rca.params.experiment import find_home, link_data
from rca.params.pin import main
from rca.params.read import read_params

ROOT = Path(__file__).parents[2]
LATE = {"train_seg.enabled": "false", "refine_crf.enabled": "false", "runs": "[cam]"}


@pytest.fixture(scope="module")
def template(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> RealProject:
    """The preset for photographs of one's own, with small networks and without its late stages."""

    def build(folder: Path) -> None:
        project = build_real(folder)
        make_folder(folder / "photographs", range(12))
        changes = {**SMALL_NETS, **LATE, "shards": "[0]", "links.mine": str(folder / "photographs")}
        project.rca("preset", "folder", *(part for item in changes.items() for part in ("--set", "=".join(item))))
        project.commit("folder")

    folder = build_once(tmp_path_factory, "linked", build)
    return RealProject(folder / "project", folder / "outside")


@pytest.fixture
def project(template: RealProject, tmp_path: Path) -> RealProject:
    return copy_project(template, tmp_path)


def experiment(project: RealProject, *arguments: str, code: int = 0) -> str:
    return project.run("dvc", "exp", "run", *arguments, code=code)


def read_epochs(project: RealProject, name: str) -> str:
    """The epochs in the params file of an experiment."""
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    (ref,) = (ref for ref in refs if ref.endswith(f"/{name}"))
    return re.findall(r"epochs: (\d+)", project.run("git", "show", f"{ref}:params.yaml"))[0]


@pytest.mark.slow
def test_an_experiment_in_a_folder_of_its_own_finds_the_data(project: RealProject) -> None:
    assert "Ran experiment" in experiment(project, "--temp", "-n", "short", "-S", "train_cam.optimisation.epochs=1")
    ran = project.list_ran()
    assert {"prepare_data", "train_cam@cam-0", "render_report"} <= set(ran)
    assert read_epochs(project, "short") == "1"
    assert not (project.path / "runs/mine/report").exists()  # it stayed in that folder
    # Once more, where DVC's run cache knows each stage but the one that links the data.
    experiment(project, "--temp", "-n", "again", "-S", "train_cam.optimisation.epochs=1")
    assert "train_cam@cam-0" not in project.list_ran()


@pytest.mark.slow
def test_an_experiment_from_the_queue_finds_the_data(project: RealProject) -> None:
    experiment(project, "--queue", "-n", "first", "-S", "train_cam.optimisation.epochs=1")
    experiment(project, "--queue", "-n", "second", "-S", "train_cam.optimisation.epochs=3")
    experiment(project, "--run-all")
    assert [read_epochs(project, name) for name in ("first", "second")] == ["1", "3"]


@pytest.mark.slow
def test_an_experiment_with_other_stages_takes_the_list_of_instances_along(project: RealProject) -> None:
    text = experiment(project, "--temp", "-S", "runs=[cam,rca_extended]", code=255)
    assert "edit it in the project itself, run `rca check`, then this without -S" in text
    project.set_params({"runs": ["cam", "rca_extended"]})
    project.rca("check")
    experiment(project, "--temp", "-n", "two")
    assert "snapshot_memory@rca_extended-0" in project.list_ran()


def test_links_and_folders_of_the_project_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, away = tmp_path / "home", tmp_path / "home/.dvc/tmp/exps/x"
    for folder in (home / "data/own", away, tmp_path / "far"):
        folder.mkdir(parents=True)
    (home / "data/linked").symlink_to(tmp_path / "far")
    text = (ROOT / "workflow/presets/folder.yaml").read_text()
    (away / "params.yaml").write_text(text.replace("name: mine", "name: own").replace("mine: $", "linked: $"))
    monkeypatch.chdir(away)
    assert find_home() is None
    monkeypatch.setenv("DVC_ROOT", str(home))
    assert find_home() == home
    for _ in range(2):
        link_data(read_params(), home)
    assert (away / "data/own").readlink() == home / "data/own"
    assert (away / "data/linked").readlink() == tmp_path / "far"
    assert sorted(path.name for path in (away / "data").iterdir()) == ["linked", "own"]


def test_data_that_the_pipeline_makes_is_not_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/data/shapes").mkdir(parents=True)
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    Path("params.yaml").write_text((ROOT / "workflow/presets/shapes.yaml").read_text())
    link_data(read_params(), tmp_path / "home")
    assert not Path("data").exists()


def test_the_first_stage_says_what_to_do_in_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "workflow/presets/shapes.yaml").read_text())
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "home"))
    assert main([]) == 2
    assert "run `rca check`, then this without -S" in capsys.readouterr().err
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    Path("workflow/instances.yaml").unlink()
    assert main([]) == 2
    assert "workflow/instances.yaml is updated, run this again" in capsys.readouterr().err
