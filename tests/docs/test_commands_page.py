"""docs/commands.md: written from the parser, and each command and argument is there and explained."""

import runpy
import subprocess
import sys
from pathlib import Path

from rca.stages.base.stage import list_stages

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "commands.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "list_commands.py"))["build_page"]()
    assert page == PAGE, "run python docs/list_commands.py"


def test_every_command_that_the_help_lists_is_there() -> None:
    text = subprocess.run([sys.executable, "-m", "rca", "--help"], capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4] != " "}
    assert len(listed) > 40
    for name in listed:
        assert f"`{name}`" in PAGE if name in list_stages() else f"## `rca {name}" in PAGE, name


def test_every_argument_is_explained() -> None:
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    assert all(len(row) == 2 and len(row[1].strip()) > 4 for row in rows)
    assert "%(" not in PAGE
    assert "==SUPPRESS==" not in PAGE
