"""What runs by itself: the CI runs the project's checks, hooks run the locked tools, the site's build is strict."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_workflow_runs_the_projects_checks() -> None:
    # YAML 1.1 reads the key `on` as true.
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert set(workflow[True]) == {"push", "pull_request"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["timeout-minutes"] == 90
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_workflow_tests_the_oldest_python() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest
    assert job["strategy"]["matrix"]["python"][0] == oldest[1]


def read_hooks() -> list[dict[str, object]]:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks: list[dict[str, object]] = repository["hooks"]
    return hooks


@pytest.mark.parametrize("hook", read_hooks(), ids=lambda hook: hook["id"])
def test_hooks_download_nothing(hook: dict[str, object]) -> None:
    assert hook["language"] == "system"
    assert shlex.split(str(hook["entry"]))[0].startswith((".venv/bin/", "git"))


def test_hooks_run_what_lint_runs() -> None:
    rules = (ROOT / "Makefile").read_text()
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", rules, re.MULTILINE)
    assert lint
    tools = {" ".join(re.findall(r"ruff \w+|mypy", line)) for line in lint[1].splitlines()}
    hooked = {" ".join(re.findall(r"ruff \w+|mypy", str(hook["entry"]))) for hook in read_hooks()} - {""}
    assert tools == hooked == {"ruff check", "ruff format", "mypy"}


def test_a_warning_fails_the_build_of_the_site() -> None:
    commands = [line for line in (ROOT / "docs/Makefile").read_text().splitlines() if "sphinx-build" in line]
    assert len(commands) == 1
    assert {"--fail-on-warning", "-W"} & set(shlex.split(commands[0]))


# --- releases


def test_a_release_is_uploaded_for_a_tag_alone_after_build_and_tests() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert set(workflow[True]) == {"push", "pull_request"}  # a dry run at each push
    assert workflow["permissions"] == {"contents": "read"}
    build, test, upload = (workflow["jobs"][name] for name in ("build", "test", "upload"))
    assert "if" not in build
    assert "github.ref_type == 'tag'" in test["if"] == upload["if"]
    assert upload["needs"] == ["build", "test"]
    assert upload["permissions"] == {"contents": "write", "id-token": "write"}
    runs = [step["run"].split()[0] for job in (build, test) for step in job["steps"] if "run" in step]
    assert runs == [".ci/build", ".ci/run"]
    assert build["steps"][0]["with"]["fetch-depth"] == 0
    assert all(os.access(ROOT / name, os.X_OK) for name in (*runs, ".ci/notes"))


def test_the_notes_of_a_release_are_its_section_of_the_changelog(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/notes", tmp_path / ".ci")
    (tmp_path / "CHANGELOG.md").write_text(
        "# C\n\n## Unreleased\n\n* c\n\n## 1.10 (today)\n\n### Added\n\n* b\n\n## 1.1\n\n* a\n"
    )

    def read(version: str) -> tuple[int, str]:
        done = subprocess.run([tmp_path / ".ci/notes", version], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert read("1.10") == (0, "\n### Added\n\n* b\n\n")
    assert read("1.1") == (0, "\n* a\n")
    code, message = read("2.0")
    assert code != 0
    assert 'CHANGELOG.md has no section "## 2.0": add it.' in message


def git(folder: Path, *words: str) -> None:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "tag.gpgsign=false")
    subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True)


def find_version(folder: Path) -> str:
    """The version that a build in a folder gives."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SETUPTOOLS_SCM"))}
    command = [sys.executable, "-m", "setuptools_scm"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_version_is_that_of_the_tag(tmp_path: Path) -> None:
    for name in ("pyproject.toml", ".git_archival.txt", ".gitattributes"):
        shutil.copy(ROOT / name, tmp_path)
    assert find_version(tmp_path) == "0.1.0.dev0"  # neither git nor a release
    git(tmp_path, "init")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--message", "one")
    assert find_version(tmp_path).startswith("0.1.dev1+g")
    git(tmp_path, "tag", "v1.2.3")
    assert find_version(tmp_path) == "1.2.3"
    git(tmp_path, "commit", "--allow-empty", "--message", "two")
    assert find_version(tmp_path).startswith("1.2.4.dev1+g")

    archive = tmp_path.parent / f"{tmp_path.name}-archive"  # what GitHub offers for download
    archive.mkdir()
    git(tmp_path, "archive", "--output", str(archive / "it.tar"), "v1.2.3")
    with tarfile.open(archive / "it.tar") as file:
        file.extractall(archive, filter="data")
    assert find_version(archive) == "1.2.3"
