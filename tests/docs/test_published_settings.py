"""docs/published_settings.md: each value of ours is that of the presets, and no value of the presets is left out."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rca.classifier.registry import load_host, load_method, read_options
from rca.cli.preset import read_preset
from rca.core.settings import load_params
from rca.params.read import read_params
from rca.params.schema import Params

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/published_settings.md"
LAYERS = {path.stem: load_params(path) for path in (ROOT / "workflow/presets/published").glob("*.yaml")}
# What is not a value: the layer itself, and the run that each section of the page is about.
ABOUT = {"preset", "runs"}
ABSENT = object()


def read_tables(text: str) -> Iterator[tuple[str, str, str]]:
    """Preset, key and our value of each row of the page."""
    presets: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == ["key", "published"]:
            presets = [cell.strip("`") for cell in cells[2:4]]
        elif presets and re.match(r"\| `\w", line):
            yield from (
                (preset, cells[0].strip("`"), cell.strip("`")) for preset, cell in zip(presets, cells[2:4], strict=True)
            )
        elif not line.startswith("|"):
            presets = []


ROWS = list(read_tables(PAGE.read_text()))


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Params]:
    """The parsed params of each published preset."""
    found = {}
    for name in LAYERS:
        path = tmp_path_factory.mktemp(name) / "params.yaml"
        path.write_text(read_preset(name).text)
        found[name] = read_params(path)
    return found


def find(params: Params, key: str) -> Any:
    """The value of a key for the preset's run, with defaults."""
    (run,) = params.described.values()
    host, method = load_host(run.host), load_method(run.method)
    place: Any = {
        **params.project.model_dump(mode="json"),
        "host": run.host,
        "method": run.method,
        "host_options": read_options(host, run.host_options, "", ROOT).model_dump(mode="json"),
        "options": read_options(method, run.options, "", ROOT).model_dump(mode="json"),
        **{name: section.model_dump(mode="json") for name, section in run.sections.items()},
    }
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return ABSENT
        place = place[part]
    return place


def list_leaves(data: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from list_leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


@pytest.mark.parametrize("preset", sorted(LAYERS))
def test_the_page_says_what_a_preset_does(preset: str, params: dict[str, Params]) -> None:
    rows = [(key, ours) for name, key, ours in ROWS if name == preset]
    assert len(rows) >= 10
    wrong = {
        key: (ours, find(params[preset], key))
        for key, ours in rows
        if yaml.safe_load(ours) != find(params[preset], key)
    }
    assert wrong == {}


@pytest.mark.parametrize("preset", sorted(LAYERS))
def test_the_page_leaves_out_nothing_that_a_preset_sets(preset: str) -> None:
    listed = {key for name, key, _ in ROWS if name == preset}
    (run,) = LAYERS[preset]["runs"]
    for key in list_leaves(LAYERS[preset]):
        key = key.removeprefix(f"run.{run}.")
        if key not in ABOUT and not key.endswith((".kind", ".source")):
            assert key in listed, key


def test_a_value_that_differs_is_found(params: dict[str, Params]) -> None:
    assert find(params["voc_irn"], "train_cam.optimisation.epochs") == 5
    assert find(params["voc_irn"], "train_cam.optimisation.epoch") is ABSENT
    assert ("voc_irn", "train_cam.optimisation.epochs", "5") in ROWS
