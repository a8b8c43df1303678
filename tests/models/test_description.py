"""Model files that lie are refused on loading, before memory is taken or a mask is written."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from segmenters import build, write_model

import rca
from rca.core.errors import UserError
from rca.models.storage import load_tensors, save_tensors
from rca.segmentation.network import load_segmenter


def refuse(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        rca.load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    assert str(path) in text
    return text


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


FIELDS: tuple[tuple[str, Any], ...] = (
    ("backbone", None),
    ("backbone", 3),
    ("backbone", "resnet9000"),
    ("backbone", "timm/../../etc"),
    ("backbone", "resnet50"),
    ("output_stride", 7),
    ("output_stride", 32),
    ("output_stride", "8"),
    ("output_stride", None),
    ("head", "nothing"),
    ("head", None),
    ("classes", None),
    ("classes", []),
    ("classes", ["a"]),
    ("classes", ["a", "a", "b"]),
    ("classes", [1, 2, 3]),
    ("classes", "abc"),
    ("classes", [str(number) for number in range(100_000)]),
    ("mean", [0.5]),
    ("mean", [1e30] * 3),
    ("mean", ["x"] * 3),
    ("mean", None),
    ("std", [0, 0.5, 0.5]),
    ("std", [-1, 0.5, 0.5]),
    ("std", [1e-30] * 3),
    ("std", [True] * 3),
    ("std", {"r": 1}),
    ("initialisation", 5),
    ("provenance", "mine"),
    ("provenance", {}),
    ("provenance", []),
    ("unknown", 1),
)


@pytest.mark.parametrize(("key", "value"), FIELDS)
def test_a_field_that_lies_is_refused(model: Path, key: str, value: Any) -> None:
    tensors, about = load_tensors(model, "train_seg")
    save_tensors(model, tensors, {**about, key: value})
    refuse(model)


@pytest.mark.parametrize("key", ["backbone", "output_stride", "head", "classes", "mean", "std", "initialisation"])
def test_a_missing_field_is_named(model: Path, key: str) -> None:
    tensors, about = load_tensors(model, "train_seg")
    save_tensors(model, tensors, {name: value for name, value in about.items() if name != key})
    assert key in refuse(model)


ABOUTS = {
    "deep": "[" * 200_000,
    "deep objects": '{"a":' * 100_000,
    "digits": '{"backbone": ' + "9" * 5000 + "}",
    "exponent": '{"mean": [1e999, 0, 0]}',
    "NaN": '{"mean": [NaN, 0, 0]}',
    "empty": "",
    "list": "[]",
    "number": "1",
    "null": "null",
    "cut": '{"a": ',
    "surrogate": '{"backbone": "\\ud800"}',
}


@pytest.mark.parametrize("kind", ABOUTS)
def test_a_description_that_cannot_be_parsed_is_refused(model: Path, kind: str) -> None:
    save_file(load_file(model), model, {"about": ABOUTS[kind]})
    refuse(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(model: Path, value: float) -> None:
    network = build()
    with torch.no_grad():
        next(network.parameters()).view(-1)[3] = value
    write_model(model, network)
    assert "not finite" in refuse(model)


def test_tensors_of_another_network_are_named(model: Path) -> None:
    tensors, about = load_tensors(model, "train_seg")
    name = next(iter(tensors))
    for changed in ({name: torch.zeros(1, 2, 3)}, {name: None}, {"more": torch.zeros(1)}):
        kept = {key: tensor for key, tensor in {**tensors, **changed}.items() if tensor is not None}
        save_tensors(model, kept, about)
        assert next(iter(changed)) in refuse(model)


HEADERS: dict[str, Any] = {
    "longer than the file": {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}},
    "another size": {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}},
    "negative": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "overflow": {"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}},
    "overlap": {
        "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
    },
    "type": {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}},
    "no tensor": {"a": 1},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, kind: str) -> None:
    header = json.dumps(HEADERS[kind]).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refuse(tmp_path / "m.safetensors")


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 8, struct.pack("<Q", 2**63), b"PK\x03\x04" + bytes(99)])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    refuse(tmp_path / "m.safetensors")


def test_a_good_model_is_loaded(model: Path) -> None:
    assert load_segmenter(model).description.classes == ("a", "b", "c")
