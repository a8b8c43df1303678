"""Errors of the operating system at each entry point: one sentence with the path, and no traceback."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import ROOT, Toy

from rca.params.pin import main as pin
from rca.stages.__main__ import main as run_stage


def block(path: Path, kind: str = "file") -> None:
    """Put a file where a folder belongs, or a folder where a file belongs."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("") if kind == "file" else path.mkdir()


def check(text: str, *parts: str) -> None:
    assert "Traceback" not in text
    assert any(line.endswith(".") and all(part in line for part in parts) for line in text.splitlines()), text


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda root: block(root / ".rca"), (".rca/tasks", "does not exist")),
        (lambda root: block(root / ".rca/tasks/train@rca-0.json", "folder"), ("train@rca-0.json", "Is a directory")),
        (lambda root: block(root / "logs"), ("logs", "File exists|Not a directory")),
    ],
    ids=["plan", "task", "logs"],
)
def test_a_job_ends_with_a_sentence(toy: Toy, spoil: Callable[[Path], None], parts: tuple[str, ...]) -> None:
    make = "from pathlib import Path; from rca.pipeline.plan import *; make_plan(Path())"
    toy.run(sys.executable, "-c", make)
    spoil(toy.path)
    text = toy.run(sys.executable, "-m", "rca.pipeline.run_job", "train@rca-0", code=1)
    check(text, parts[0])
    assert any(cause in text for cause in parts[1].split("|"))


def test_snakemake_ends_with_a_sentence(toy: Toy) -> None:
    block(toy.path / ".rca")
    check(toy.snakemake(code=1), ".rca", "cannot be used (")


def test_the_first_stage_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "workflow/presets/shapes.yaml", tmp_path / "params.yaml")
    block(tmp_path / "runs")
    assert pin([]) == 2
    check(capsys.readouterr().err, "runs", "cannot be used (")


@pytest.mark.parametrize("kind", ["folder", "loop"])
def test_a_stage_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs/pins.json"
    path.mkdir() if kind == "folder" else path.symlink_to("pins.json")
    assert run_stage(["tabulate"]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "runs/pins.json" in text
