"""docs/params.md: written from the settings classes, and every key explained."""

import runpy
from pathlib import Path

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
