"""`rca set` and `rca get`."""

import difflib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rca.cli.edit import Document, get_value, set_values
from rca.core.errors import UserError
from rca.core.settings import load_params

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The params of a preset with many comments, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "workflow/presets/folder.yaml").read_text())
    return path


def list_changed(before: str, after: str) -> list[str]:
    """The lines that two texts do not share, without their spaces."""
    lines = difflib.ndiff(
        [" ".join(x.split()) for x in before.splitlines()], [" ".join(x.split()) for x in after.splitlines()]
    )
    return [line for line in lines if line[0] in "+-"]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_a_change_alters_its_own_line_alone(preset: Path) -> None:
    text = preset.read_text()
    joined = text.replace(",\n    ", ", ")  # a flow mapping over two lines becomes one
    document = Document(text, preset)
    document.set("seeds=[7, 8]")
    changed = list_changed(joined, document.text)
    assert [line[0] for line in changed] == ["-", "+"]
    assert changed[1].startswith("+ seeds: [7, 8]")
    assert ("#" in changed[0]) == ("#" in changed[1])


def test_several_changes_are_made_at_once(params: Path) -> None:
    before = load_params(params)
    lines = set_values(["train_cam.optimisation.epochs=3", "seeds=[1, 2]", "make_cam.stride=8", "report.x=1"][:3])
    assert lines == [
        "train_cam.optimisation.epochs: 5 -> 3",
        "seeds: [0] -> [1, 2]",
        "make_cam.stride: (default) -> 8",
    ]
    after = load_params(params)
    assert after["train_cam"]["optimisation"].pop("epochs") == 3
    assert after.pop("seeds") == [1, 2]
    assert after["make_cam"].pop("stride") == 8
    del before["seeds"], before["train_cam"]["optimisation"]["epochs"]
    assert after == before
    instances = load_params(params.parent / "workflow/instances.yaml")
    assert instances["stages"]["train_cam"]["runs"] == ["cam"]


def test_a_change_that_is_not_valid_changes_nothing(params: Path) -> None:
    text, state = params.read_text(), params.stat()
    with pytest.raises(UserError, match=r"params.yaml: train_cam.optimisation.epochs is \"many\""):
        set_values(["seeds=[3]", "train_cam.optimisation.epochs=many"])
    assert params.read_text() == text
    assert params.stat().st_ino == state.st_ino
    assert [path.name for path in params.parent.iterdir() if path.suffix == ".yaml"] == ["params.yaml"]


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ("sedes=[0]", "seeds"),
        ("train_cm.neck=0", "train_cam"),
        ("train_cam.optimisation.epoch=3", "epochs"),
        ("train_cam.backbone.trainabel=all", "trainable"),
        ("run.rca_extended.options.memroy={}", "memory"),
        ("dataset.held_ot=0.1", "held_out"),
    ],
)
def test_the_nearest_key_is_named(params: Path, change: str, nearest: str) -> None:
    with pytest.raises(UserError, match=rf"is an unknown key: .*\({nearest}\?\)\."):
        set_values([change])


def test_what_two_commands_change_at_once_is_both_there(params: Path) -> None:
    values = {
        "train_cam.optimisation.epochs": 31,
        "train_seg.optimisation.epochs": 32,
        "render_report.picture_width": 99,
    }
    commands = [
        subprocess.Popen([sys.executable, "-m", "rca", "set", f"{key}={value}"], stdout=subprocess.DEVNULL)
        for key, value in values.items()
    ]
    assert [command.wait(timeout=300) for command in commands] == [0, 0, 0]
    assert {key: int(get_value(key)) for key in values} == values


def test_the_permissions_of_the_file_are_those_of_the_umask(params: Path) -> None:
    old = os.umask(0o027)
    try:
        set_values(["seeds=[4]"])
    finally:
        os.umask(old)
    assert stat.S_IMODE(params.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", "[0]"),
        ("train_cam.optimisation.epochs", "5"),
        ("train_cam.backbone.name", "resnet50"),  # a default
        ("train_cam.optimisation.processes", "1"),
        ("run.rca_extended.choose_threshold.background.threshold", "0.46"),
        ("run.rca_extended.train_cam.neck", "0"),  # from the section
        ("run.cam.method", "cam"),
        ("dataset.format", "folder"),
    ],
)
def test_a_value_is_that_of_the_file_or_its_default(params: Path, key: str, value: str) -> None:
    assert get_value(key) == value


def test_a_section_is_printed_with_its_defaults(params: Path) -> None:
    printed = get_value("train_cam.augmentation")
    assert "crop: 384" in printed
    assert "flip: true" in printed
