"""`dvc exp run -S` reaches each key of a params file, and no other: DVC's own code changes what `rca preset` wrote."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from rca.cli.main import main
from rca.cli.preset import apply_preset
from rca.core.errors import UserError
from rca.core.settings import load_params
from rca.params.read import read_params

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the presets, and folders to which their links lead."""
    shutil.copytree(ROOT / "workflow/presets", tmp_path / "workflow/presets")
    for name in ("PHOTOS", "VOC_ROOT", "COCO_ROOT", "RCA_SHARED"):
        monkeypatch.setenv(name, str(tmp_path / "shared"))
    for path in PRESETS:
        for target in (load_params(path).get("links") or {}).values():
            (tmp_path / "shared" / target.partition("/")[2]).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def list_leaves(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from list_leaves(value, (*path, key))
    else:
        yield path


def find_anchors(text: str) -> list[str]:
    return [event.anchor for event in yaml.parse(text) if getattr(event, "anchor", None)]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_no_preset_writes_an_anchor(preset: Path) -> None:
    """DVC writes a value through an alias into each section that shares it."""
    apply_preset(preset.stem, [], force=True)
    assert find_anchors(Path("params.yaml").read_text()) == []
    apply_preset(preset.stem, ["seeds=[3, 4]", "run.cam.train_cam.optimisation.epochs=3"], force=True)
    assert find_anchors(Path("params.yaml").read_text()) == []


def test_a_change_with_an_anchor_is_refused() -> None:
    with pytest.raises(UserError, match=r"--set run\.cam=&a \{\}: write values out: `dvc exp run -S` changes"):
        apply_preset("shapes", ["run.cam=&a {}"], force=True)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_each_key_takes_a_value_of_its_own(preset: Path) -> None:
    apply_preset(preset.stem, [], force=True)
    leaves = list(list_leaves(load_params(Path("params.yaml"))))
    assert len(leaves) > 30
    apply_overrides("params.yaml", [f"{'.'.join(path)}={1000 + number}" for number, path in enumerate(leaves)])
    found = load_params(Path("params.yaml"))
    assert list(list_leaves(found)) == leaves
    for number, path in enumerate(leaves):
        value: Any = found
        for key in path:
            value = value[key]
        assert value == 1000 + number, path


def test_one_setting_of_one_run_arrives_there_alone() -> None:
    changes = [f"run.{run}.train_cam.optimisation.epochs=5" for run in ("cam", "rca")]
    apply_preset("shapes", changes, force=True)
    before = read_params(Path("params.yaml"))
    apply_overrides("params.yaml", ["run.rca.train_cam.optimisation.epochs=1"])
    after = read_params(Path("params.yaml"))
    epochs = {name: run.sections["train_cam"].optimisation.epochs for name, run in after.described.items()}
    assert epochs == {"cam": 5, "rca": 1}
    assert after.described["cam"] == before.described["cam"]
    rest = {key: value for key, value in before.described["rca"].sections.items() if key != "train_cam"}
    assert {key: after.described["rca"].sections[key] for key in rest} == rest
    assert after.sections == before.sections


def test_a_run_without_the_section_takes_it_with_a_plus() -> None:
    apply_preset("shapes", [], force=True)
    apply_overrides("params.yaml", ["+run.rca.train_cam.optimisation.epochs=1"])
    epochs = {
        name: run.sections["train_cam"].optimisation.epochs
        for name, run in read_params(Path("params.yaml")).described.items()
    }
    assert epochs == {"cam": 32, "rca": 1}


def test_the_check_warns_of_an_anchor(capsys: pytest.CaptureFixture[str]) -> None:
    apply_preset("shapes", [], force=True)
    assert main(["check"]) == 0
    assert "warning" not in capsys.readouterr().out
    text = Path("params.yaml").read_text()
    assert "  cam: {}\n" in text
    shared = "  cam: {train_cam: &short {optimisation: {epochs: 3}}}\n  cam_2: {train_cam: *short}\n"
    Path("params.yaml").write_text(text.replace("  cam: {}\n", shared))
    assert main(["check"]) == 0
    assert "`dvc exp run -S` changes all that share &short" in capsys.readouterr().out
