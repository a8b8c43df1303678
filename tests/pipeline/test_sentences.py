"""Errors of the operating system at each entry point: one sentence with the path, and no traceback."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import ROOT, Toy

from rca.core.errors import UserError
from rca.params.pin import main as pin
from rca.pipeline.plan import open_outputs
from rca.pipeline.resolve import Job
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


def honour_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let root be told what it may write as everybody else is."""
    monkeypatch.setattr(os, "access", lambda path, mode: bool(os.stat(path).st_mode & 0o200))


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honour_modes(monkeypatch)
    (tmp_path / "runs").mkdir(mode=0o555)
    job = Job("a", "", (), ("runs/new/a.txt",), (), 0, 1, 1, 1, "", (), {}, {})
    with pytest.raises(UserError, match=r"runs/new/a\.txt cannot be written, since .*runs is read-only"):
        open_outputs(tmp_path, [job])


def test_a_link_into_the_cache_becomes_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honour_modes(monkeypatch)
    (tmp_path / "cached").write_text("kept")
    (tmp_path / "cached").chmod(0o444)
    (tmp_path / "linked").symlink_to("cached")
    (tmp_path / "hard").hardlink_to(tmp_path / "cached")
    open_outputs(tmp_path, [Job("a", "", (), ("linked", "hard", "new"), (), 0, 1, 1, 1, "", (), {}, {})])
    for name in ("linked", "hard"):
        assert not (tmp_path / name).is_symlink()
        assert not (tmp_path / name).samefile(tmp_path / "cached")
        assert (tmp_path / name).read_text() == "kept"
        (tmp_path / name).write_text("changed")
    assert (tmp_path / "cached").read_text() == "kept"
    assert not (tmp_path / "new").exists()


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
