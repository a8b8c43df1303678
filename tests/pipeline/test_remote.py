"""A clone that pulls from a remote has everything: neither engine runs a stage, with a folder or over SSH."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from projects import Project
from sshd import explain_refusal, serve

pytestmark = pytest.mark.slow
REFUSAL = explain_refusal()
SSH = pytest.param("ssh", marks=pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL)))
NOTHING = {"dvc": "Data and pipelines are up to date.", "snakemake": "Nothing to be done"}


@pytest.fixture(params=["folder", SSH])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The options of an empty remote."""
    store = tmp_path / "store"
    with ExitStack() as stack:
        if request.param == "folder":
            yield {"url": str(store)}
            return
        (tmp_path / "sshd").mkdir()
        start, key = stack.enter_context(serve(tmp_path / "sshd"))
        yield {"url": f"{start}{store}", "keyfile": str(key)}


def share(project: Project, remote: dict[str, str], clone: Path) -> Project:
    """Push a project's data, and pull them into a clone of it."""
    project.run("dvc", "remote", "add", "--force", "--default", "store", remote["url"])
    project.run("git", "commit", "-qam", "remote")
    for place in (project, type(project)(clone, project.outside)):
        if place is not project:
            project.run("git", "clone", "-q", str(project.path), str(clone))
        if "keyfile" in remote:  # not for git: each machine has its own
            place.run("dvc", "remote", "modify", "--local", "store", "keyfile", remote["keyfile"])
        place.run("dvc", "push" if place is project else "pull", "-q")
    return place


def check_finished(project: Project, clone: Project) -> None:
    """Check that a clone has the outputs of a project, and that both engines find nothing to do."""
    for path in sorted((project.path / "runs").rglob("*")):
        if path.is_file() and path.name not in (".gitignore", "measurements.js", ".snakemake_timestamp"):
            assert (clone.path / path.relative_to(project.path)).read_bytes() == path.read_bytes(), path
    project.take_notes()
    assert NOTHING["snakemake"] in clone.run("snakemake", "--cores", "1")
    assert NOTHING["dvc"] in clone.run("dvc", "repro")
    assert project.take_notes() == []
    assert clone.run("git", "status", "--porcelain") == ""


def test_a_clone_of_the_toy_has_nothing_to_do(finished, remote, tmp_path):
    check_finished(finished, share(finished, remote, tmp_path / "clone"))


def test_a_clone_of_the_pipeline_has_nothing_to_do(real, remote, tmp_path):
    check_finished(real, share(real, remote, tmp_path / "clone"))
