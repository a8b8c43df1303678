"""What runs by itself: the CI runs the project's checks, hooks run the locked tools, the site's build is strict."""

import os
import re
import shlex
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
