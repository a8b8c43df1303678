"""Where dvc.yaml finds the package's code: in the repository itself, and through a link in any other project."""

from pathlib import Path

import pytest

from rca.core.errors import UserError
from rca.core.files import write_json
from rca.core.imports import PACKAGE
from rca.params.instances import link_code
from rca.stages.base.pins import PINS, read_pins

ROOT = Path(__file__).parents[2]


def test_the_repository_holds_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert link_code() == "rca"
    assert not (ROOT / "workflow/code").exists()


def test_a_project_links_to_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert link_code() == "workflow/code"
        assert Path("workflow/code").readlink() == PACKAGE.resolve()
    state = Path("workflow/code").lstat()
    link_code()
    assert Path("workflow/code").lstat().st_ino == state.st_ino


@pytest.mark.parametrize("other", ["gone", "other"])
def test_a_link_to_another_installation_is_refused_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    Path("workflow").mkdir()
    Path("workflow/code").symlink_to(tmp_path / other)
    write_json(PINS, {"project": {}, "tasks": {}})
    with pytest.raises(UserError, match=r"workflow/code leads to another rca than this one, .*: run `rca check`"):
        read_pins()
    link_code()
    assert read_pins().data == {"project": {}, "tasks": {}}
    assert [path.name for path in Path("workflow").iterdir()] == ["code"]


def test_a_folder_of_the_same_name_is_not_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rca").mkdir()
    assert link_code() == "workflow/code"
