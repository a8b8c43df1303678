"""The JSON schema of params.yaml: what an editor would accept and refuse, beside what the package does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from rca.cli.packaged import list_presets
from rca.cli.preset import read_preset
from rca.core.errors import UserError
from rca.core.plain_yaml import parse_yaml
from rca.core.settings import load_params
from rca.params.json_schema import describe_params
from rca.params.read import read_params

PRESETS = sorted((Path(__file__).parents[2] / "workflow/presets").glob("*.yaml"))
# Dotted keys of the preset folder and values that no project may have; None in place of a value removes the key.
BROKEN: list[tuple[str, Any]] = [
    ("sedes", [0]),
    ("train_cm", {}),
    ("seeds", 0),
    ("seeds", []),
    ("seeds", ["zero"]),
    ("runs", []),
    ("runs", "cam"),
    ("runs", ...),
    ("run", ...),
    ("dataset", ...),
    ("dataset.name", ...),
    ("dataset.format", "folders"),
    ("dataset.held_out", "a fifth"),
    ("dataset.broken", "ignore"),
    ("dataset.splits", "train"),
    ("links", ["photos"]),
    ("train_cam", [1]),
    ("train_cam.optimisaton", {"epochs": 3}),
    ("train_cam.optimisation.epochs", "many"),
    ("train_cam.optimisation.epochs", -1),
    ("train_cam.optimisation.optimiser", "adam"),
    ("train_cam.backbone.output_stride", 4),
    ("train_cam.backbone.trainable", "half"),
    ("train_cam.threads", 0),
    ("train_seg.backbone.weights", {"source": "web"}),
    ("train_seg.backbone.weights", {"source": "file", "path": "x.pth", "sha256": "short"}),
    ("make_cam.inference.flip", "no"),
    ("choose_threshold.background", {"kind": "constant", "threshold": 2}),
    ("refine_crf.crf.iterations", 1.5),
    ("evaluate.examples", -1),
    ("resources.train_cam.gpu", "one"),
    ("resources.train_cam.gpus", 1),
    ("run.cam.metod", "rca"),
    ("run.cam.method", "magic"),
    ("run.rca_extended.train", "some"),
    ("run.rca_extended.options", {"memroy": {}}),
    ("run.hsc.options.background", 2),
    ("run.hsc.train_cam.second_view", 0),
    ("run.cam.prepare_data", {"workers": 2}),
    ("run.seam.host_options.normalisation", "none at all"),
]


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    schema = describe_params()
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def list_faults(validator: Draft7Validator, data: object) -> list[str]:
    return [f"{'.'.join(map(str, fault.absolute_path))}: {fault.message}" for fault in validator.iter_errors(data)]


@pytest.mark.parametrize("preset", sorted(list_presets()))
def test_the_presets_are_valid(validator: Draft7Validator, preset: str) -> None:
    """The published ones too, which are laid over others."""
    assert list_faults(validator, parse_yaml(read_preset(preset).text)) == []


def change(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        data = data.setdefault(part, {})
    if value is ...:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(("key", "value"), BROKEN, ids=[f"{key}={value}" for key, value in BROKEN])
def test_what_the_package_refuses_the_schema_refuses(
    validator: Draft7Validator, tmp_path: Path, key: str, value: Any
) -> None:
    data = load_params(next(path for path in PRESETS if path.stem == "folder"))
    data["runs"] = list(data["run"])  # runs that are not made are not read
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(data))
    read_params(path)
    change(data, key, value)
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError):
        read_params(path)
    faults = list_faults(validator, data)
    assert faults
    place = key if value is ... else ".".join(key.split(".")[:2])
    assert any(part in fault for fault in faults for part in place.split("."))


def walk(node: Any, visit: Callable[[dict[str, Any]], None]) -> None:
    if isinstance(node, dict):
        visit(node)
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        walk(value, visit)


def test_every_key_has_a_meaning(validator: Draft7Validator) -> None:
    """An editor shows it where the pointer rests."""
    bare: list[str] = []

    def visit(node: dict[str, Any]) -> None:
        if node.get("type") == "object" and node.get("additionalProperties") is False:
            keys = {
                key for key, field in node["properties"].items() if "description" not in field and "$ref" not in field
            }
            # What tells one class from another needs no words, and a section has those of its class.
            bare.extend(
                keys - {"kind", "source", "format"} - {key for key in keys if "anyOf" in node["properties"][key]}
            )

    walk(validator.schema, visit)
    assert bare == []
