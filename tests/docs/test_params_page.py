"""docs/params.md: written from the settings classes, and every key explained."""

import re
import runpy
from pathlib import Path

import pytest

from rca.classifier.registry import PACKAGE, list_declared, load_host, load_method
from rca.params.project import ProjectSettings
from rca.params.schema import load_stages

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "params.md").read_text()
ROWS = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]


def test_the_page_is_up_to_date() -> None:
    assert runpy.run_path(str(DOCS / "list_params.py"))["build_page"]() == PAGE, "run python docs/list_params.py"


def test_every_key_is_there_and_explained() -> None:
    keys = {key.strip(" `").split(".")[0] for key, *_ in ROWS}
    sections = {name for name, stage in load_stages().items() if stage.section is not None}
    assert keys >= sections | set(ProjectSettings.model_fields)
    assert all(len(row) == 3 and len(row[2].strip()) > 4 for row in ROWS), [row for row in ROWS if len(row) != 3]


@pytest.mark.parametrize(("part", "key"), [("host", "host_options"), ("method", "options")])
def test_the_options_of_each_host_and_method_are_there(part: str, key: str) -> None:
    load = load_host if part == "host" else load_method
    for name in list_declared(PACKAGE / f"{part}s", part.upper()):
        _, _, section = PAGE.partition(f"`run.<name>.{key}` of `{name}`\n")
        listed = set(re.findall(rf"^\| `{key}\.(\w+)", section.partition("\n## ")[0], re.MULTILINE))
        assert listed == set(load(name).Options.model_fields)
