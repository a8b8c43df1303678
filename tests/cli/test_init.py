"""`rca init`: a project of one's own, and its upgrade."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from jsonschema import Draft7Validator
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

from rca.cli import upgrade as upgrading
from rca.cli.init import compose_params, leave_out_runs, make_project
from rca.cli.main import main
from rca.cli.packaged import GENERATED, read_generated
from rca.cli.preset import make_links
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.imports import PACKAGE
from rca.core.settings import load_params
from rca.params.read import read_params

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_git_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A dataset as a user has it, of which nothing is opened."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "photographs").mkdir()
    lines = make_project(folder / "mine", "folder", folder / "photographs")
    assert lines[-1] == f"Next: cd {folder / 'mine'} && rca run"
    return folder / "mine"


@pytest.fixture
def mine(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a copy of the new project."""
    shutil.copytree(template, tmp_path / "mine", symlinks=True)
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def ask(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def make_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the presets' links lead."""
    for place in ("shared/data/msrc", "shared/data/voc6", "shared/weights", "shared/VOC2012"):
        (tmp_path / place).mkdir(parents=True)
    for variable in ("RCA_SHARED", "PHOTOS", "VOC_ROOT", "COCO_ROOT"):
        monkeypatch.setenv(variable, str(tmp_path / "shared"))


def test_a_project_holds_all_that_it_needs_and_no_code(mine: Path) -> None:
    tracked = set(ask(mine, "git", "ls-files").split())
    assert {*GENERATED, "params.yaml", "params.schema.json", ".dvc/config", "workflow/instances.yaml"} <= tracked
    assert not [name for name in tracked if name.endswith(".py")]
    assert (mine / "params.yaml").read_text().startswith("# yaml-language-server: $schema=params.schema.json\n")
    validator = Draft7Validator(json.loads((mine / "params.schema.json").read_text()))
    assert list(validator.iter_errors(load_params(mine / "params.yaml"))) == []
    assert ask(mine, "git", "status", "--porcelain") == ""
    assert len(ask(mine, "git", "log", "--oneline").splitlines()) == 1
    assert (mine / "data/mine").resolve().name == "photographs"
    assert (mine / "workflow/code").resolve() == PACKAGE  # which git ignores
    for name, source in GENERATED.items():
        assert (mine / name).read_bytes() == (ROOT / source).read_bytes()


@pytest.mark.parametrize("preset", ["folder", "shapes", "voc2012", "coco2014"])
def test_params_are_short_commented_and_checked_by_an_editor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    make_places(monkeypatch, tmp_path)
    text, _ = compose_params(preset)
    Path("params.yaml").write_text(text)
    assert 20 <= len(text.splitlines()) < 60  # a line for the editor comes above it
    assert text.count("#") >= 6
    ours, presets = (read_params(path) for path in (Path("params.yaml"), ROOT / f"workflow/presets/{preset}.yaml"))
    assert ours.described == presets.described  # what is left out, no run needs
    assert ours.sections == presets.sections


def test_only_runs_that_are_made_are_described_and_the_others_named(photographs: Path) -> None:
    text, _ = compose_params("folder", photographs, changes=["runs=[cam, seam_hsc]"])
    assert list(yaml.safe_load(text)["run"]) == ["cam", "seam", "seam_hsc"]  # seam is its base
    assert "# The preset describes more runs: rca_extended, hsc, mcis, oaa, eps" in text


def test_weights_tell_their_backbone(tmp_path: Path, photographs: Path) -> None:
    torch.manual_seed(0)
    save_file(mobilenet_v2().state_dict(), tmp_path / "mine.safetensors")
    text, links = compose_params("folder", photographs, Path("mine.safetensors"), ["train_cam.neck=16"])
    Path("params.yaml").write_text(text)
    make_links(links)
    params = read_params()
    for network in (params.classifier, params.segmenter):
        assert network.backbone.name == "mobilenet_v2"
        weights = network.backbone.weights
        assert weights.source == "file"
        assert weights.path == Path("data/weights/mine.safetensors")  # the same on each machine
        assert weights.sha256 == hash_file(tmp_path / "mine.safetensors") == hash_file(weights.path)
    assert params.classifier.neck == 16


def test_weights_that_fit_nothing_are_refused(tmp_path: Path, photographs: Path) -> None:
    save_file({"layer": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"odd.safetensors fits none of the backbones resnet50, vgg16"):
        make_project(Path("mine"), "folder", photographs, Path("odd.safetensors"))
    assert not Path("mine").exists()


def test_a_bad_change_makes_nothing(photographs: Path) -> None:
    for change in ("sedes=[1]", "train_cam.neck=-1"):
        with pytest.raises(UserError, match="preset folder: "):
            make_project(Path("mine"), "folder", photographs, changes=[change])
    assert not Path("mine").exists()


def test_no_file_is_overwritten(tmp_path: Path, photographs: Path) -> None:
    Path("mine").mkdir()
    Path("mine/Snakefile").write_text("mine\n")
    with pytest.raises(UserError, match="mine/Snakefile exists already"):
        make_project(Path("mine"), "folder", photographs)
    assert [path.name for path in Path("mine").iterdir()] == ["Snakefile"]


def test_a_project_may_lie_in_a_repository_of_ones_own(tmp_path: Path, photographs: Path) -> None:
    ask(tmp_path, "git", "init", "--quiet")
    make_project(Path("papers/mine"), "folder", photographs)
    assert not (tmp_path / "papers/mine/.git").exists()
    assert (tmp_path / "papers/mine/.dvc").is_dir()
    assert ask(tmp_path, "git", "rev-list", "--all") == ""  # what to commit there is not ours to say


def test_comments_stay_with_the_runs_that_they_describe() -> None:
    class Content:
        content = {"runs": ["b"], "run": {"a": {}, "b": {"base": "c"}, "c": {}, "d": {}}}

    text = "run:  # all\n  # of a\n  a: {}\n  # of b\n  b:\n    base: c\n  c: {}\n\n  # of d\n  d: {}\n\n# next\n"
    expected = "run:  # all\n  # of b\n  b:\n    base: c\n  c: {}\n"
    expected += "  # The preset describes more runs: a, d (`rca preset` writes all of it).\n\n# next\n"
    assert leave_out_runs(text, Content) == expected  # type: ignore[arg-type]


# --- upgrade


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A later version, which writes two files differently."""
    texts = read_generated()
    texts["dvc.yaml"] += "# new in dvc.yaml\n"
    texts["profiles/slurm/config.yaml"] = "# new in slurm\n" + texts["profiles/slurm/config.yaml"]
    monkeypatch.setattr(upgrading, "read_generated", lambda: texts)
    return texts


def test_nothing_is_new_in_the_same_version(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--upgrade"]) == 0
    assert "All generated files are up to date." in capsys.readouterr().out
    assert ask(mine, "git", "status", "--porcelain") == ""


def test_files_that_nobody_edited_are_replaced(
    mine: Path, newer: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    params = (mine / "params.yaml").read_text()
    assert main(["init", "--upgrade"]) == 0
    printed = capsys.readouterr().out
    assert "dvc.yaml: replaced, you had not edited it" in printed
    assert "    +# new in dvc.yaml" in printed
    assert {name: (mine / name).read_text() for name in newer} == newer
    assert (mine / "params.yaml").read_text() == params
    assert set(ask(mine, "git", "status", "--porcelain").split()) == {
        *("M", "dvc.yaml", "profiles/slurm/config.yaml", "workflow/generated.json")
    }


def test_edits_are_kept_and_what_is_new_lies_beside_them(
    mine: Path, newer: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    edited = (mine / "dvc.yaml").read_text().replace("mem_mb: 1000", "mem_mb: 1234")
    (mine / "dvc.yaml").write_text(edited)
    (mine / "Snakefile").write_text("# a rule of my own\n")  # edited, but nothing is new in it
    (mine / "profiles/default/config.yaml").unlink()
    assert main(["init", "--upgrade"]) == 1
    printed = capsys.readouterr().out
    assert (mine / "dvc.yaml").read_text() == edited
    assert (mine / "dvc.yaml.new").read_text() == newer["dvc.yaml"]
    assert (mine / "Snakefile").read_text() == "# a rule of my own\n"
    assert not (mine / "Snakefile.new").exists()
    assert (mine / "profiles/slurm/config.yaml").read_text() == newer["profiles/slurm/config.yaml"]
    assert (mine / "profiles/default/config.yaml").is_file()
    assert "dvc.yaml: edited by you and kept; its new version is dvc.yaml.new" in printed
    assert "    -    meta: {resources: {mem_mb: 1234, runtime: 10}}" in printed
    assert "    +    meta: {resources: {mem_mb: 1000, runtime: 10}}" in printed
    assert "Snakefile: edited by you and kept; nothing is new in it" in printed
    assert "profiles/default/config.yaml: was missing, written" in printed
    assert "Take over what you want of dvc.yaml.new, then delete it." in printed


def test_a_new_version_is_offered_once(mine: Path, newer: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "dvc.yaml").write_text("stages: {}\n")
    assert main(["init", "--upgrade"]) == 1
    (mine / "dvc.yaml.new").unlink()
    assert main(["init", "--upgrade"]) == 0
    assert "dvc.yaml: edited by you and kept; nothing is new in it" in capsys.readouterr().out
    assert not (mine / "dvc.yaml.new").exists()


def test_another_folders_project_can_be_upgraded(mine: Path, newer: dict[str, str], tmp_path: Path) -> None:
    os.chdir(tmp_path)
    assert main(["init", "mine", "--upgrade"]) == 0
    assert (mine / "dvc.yaml").read_text() == newer["dvc.yaml"]
