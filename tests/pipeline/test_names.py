"""Names that are commands run under neither engine: params.yaml is checked first, and dvc.yaml quotes all the same."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import ROOT, RealProject, build_once, copy_project

from rca.core.errors import UserError
from rca.pipeline.resolve import resolve_jobs

EVIL = "0; touch EVIL #"
# Each place of params.yaml whose name reaches a command or a path of dvc.yaml.
PLACES: dict[str, Callable[[dict[str, Any]], None]] = {
    "runs": lambda params: params.update(runs=[EVIL], run={EVIL: {}}),
    "seeds": lambda params: params.update(seeds=[EVIL]),
    "shards": lambda params: params.update(shards=[EVIL]),
    "dataset.name": lambda params: params["dataset"].update(name=EVIL),
    "dataset.splits": lambda params: params["dataset"].update(splits=[EVIL]),
    "links": lambda params: params.update(links={EVIL: "/"}),
}


@pytest.fixture(scope="module")
def template(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> RealProject:
    """A project with the default params, in which nothing has run."""
    folder = build_once(tmp_path_factory, "names", put_down)
    return RealProject(folder / "project", folder / "outside")


def put_down(folder: Path) -> None:
    project = RealProject(folder / "project", folder / "outside")
    project.outside.mkdir(parents=True)
    project.path.mkdir()
    for name in ("dvc.yaml", ".gitignore"):
        shutil.copy(ROOT / name, project.path)
    shutil.copy(ROOT / "workflow/presets/shapes.yaml", project.path / "params.yaml")
    for name in ("rca", "workflow"):
        shutil.copytree(ROOT / name, project.path / name, ignore=shutil.ignore_patterns("__pycache__"))
    project.initialise()


@pytest.fixture
def project(template: RealProject, tmp_path: Path) -> RealProject:
    return copy_project(template, tmp_path)


def poison(project: RealProject, place: str) -> None:
    path = project.path / "params.yaml"
    params = yaml.safe_load(path.read_text())
    PLACES[place](params)
    path.write_text(yaml.safe_dump(params))


def check_clean(project: RealProject) -> None:
    assert not [*project.path.rglob("*EVIL*")]
    assert project.list_ran() == []


@pytest.mark.parametrize(
    "place", [place if place == "seeds" else pytest.param(place, marks=pytest.mark.slow) for place in PLACES]
)
def test_dvc_runs_no_name(project: RealProject, place: str) -> None:
    poison(project, place)
    assert project.repro(code=255)
    check_clean(project)


@pytest.mark.parametrize(
    "place", [place if place == "seeds" else pytest.param(place, marks=pytest.mark.slow) for place in PLACES]
)
def test_snakemake_runs_no_name(project: RealProject, place: str) -> None:
    poison(project, place)
    assert project.snakemake(code=1)
    check_clean(project)


def test_snakemake_takes_no_settings(project: RealProject) -> None:
    text = project.snakemake("--config", "seeds=[0,1,2]", code=1)
    assert "--config seeds: settings are in params.yaml" in text
    assert project.list_ran() == []


@pytest.mark.parametrize("key", ["seeds", "shards", "runs", "items"])
def test_a_command_holds_each_name_as_one_word(project: RealProject, key: str) -> None:
    """Whoever skips the first stage (`dvc repro --single-item`) still finds every name quoted."""
    name = "0 it's; touch EVIL # $(touch EVIL) `touch EVIL`"
    path = project.path / ("params.yaml" if key in ("seeds", "shards") else "workflow/instances.yaml")
    data = yaml.safe_load(path.read_text())
    places = [data] if key in data else [stage for stage in data["stages"].values() if stage.get(key)]
    for place in places:
        place[key] = [name]
    path.write_text(yaml.safe_dump(data, width=10_000))
    commands = [job.command for job in resolve_jobs(project.path) if "touch" in job.command]
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[words.index(f"--{key.removesuffix('s')}") + 1] == name, command


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", {EVIL: 1}),
        ("seeds", [{EVIL: 1}]),
        ("seeds", [[EVIL]]),
        ("seeds", [[{EVIL: 1}]]),
        ("shards", {EVIL: 1}),
        ("shards", [{EVIL: 1}]),
    ],
)
def test_no_command_holds_a_key_as_it_is(project: RealProject, key: str, value: object) -> None:
    """DVC quotes values, but not keys: those of a mapping are its list, and any below are refused with the stage."""
    path = project.path / "params.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))
    if not isinstance(value, dict):
        with pytest.raises(UserError, match="Cannot interpolate"):
            resolve_jobs(project.path)
        return
    commands = [job.command for job in resolve_jobs(project.path) if "touch" in job.command]
    assert commands
    for command in commands:
        assert EVIL in shlex.split(command), command


@pytest.mark.parametrize("value", [{EVIL: 1}, [{EVIL: 1}]], ids=["mapping", "list of mappings"])
def test_a_single_stage_runs_no_key(project: RealProject, value: object) -> None:
    path = project.path / "params.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "seeds": value}))
    name = f"train_cam@cam-{EVIL}" if isinstance(value, dict) else "train_cam@cam-seed0"
    assert project.repro("--single-item", name, code=255)
    check_clean(project)
    assert "seed" in project.snakemake(code=1)  # DVC's own sentence, or that of the params
    check_clean(project)
