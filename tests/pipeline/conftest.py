"""Two projects under the root's Snakefile and profiles: a toy whose stages take milliseconds, and the real pipeline."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import RealProject, Toy, build_once, build_real, build_toy, copy_project


@pytest.fixture(scope="session", autouse=True)
def dvc_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what DVC remembers of toy projects out of the machine's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        yield


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A fresh toy project."""
    return build_toy(tmp_path)


@pytest.fixture(scope="session")
def finished_template(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = build_toy(tmp_path_factory.mktemp("finished"))
    toy.run("dvc", "repro", "-q")
    toy.commit("finished")
    toy.list_ran()
    return toy


@pytest.fixture
def finished(finished_template: Toy, tmp_path: Path) -> Toy:
    """A toy project that `dvc repro` finished and git committed."""
    shutil.copytree(finished_template.path, tmp_path / "project", symlinks=True)
    (tmp_path / "outside").mkdir()
    return Toy(tmp_path / "project", tmp_path / "outside")


@pytest.fixture(scope="session")
def real_template(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> RealProject:
    """The real pipeline, run once for all tests."""

    def build(folder: Path) -> None:
        project = build_real(folder)
        project.repro()  # takes longer than snakemake, but leaves a core to the other tests
        project.commit("finished")
        project.list_ran()

    folder = build_once(tmp_path_factory, "real", build)
    return RealProject(folder / "project", folder / "outside")


@pytest.fixture
def real(real_template: RealProject, tmp_path: Path) -> RealProject:
    """A copy of the real pipeline, finished and committed."""
    return copy_project(real_template, tmp_path)
