"""The export to ONNX, run by onnxruntime."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from segmenters import MEAN, PROVENANCE, STD, build, write_model
from torch import nn

from rca.cli.main import main
from rca.core.files import hash_file
from rca.exporting import onnx as exporting
from rca.segmentation.network import load_segmenter


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture(scope="module", params=["linear", "deeplab_v3plus", pytest.param("upernet", marks=pytest.mark.slow)])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its export."""
    folder = tmp_path_factory.mktemp("onnx")
    write_model(folder / "model.safetensors", build(request.param, 16, provenance=PROVENANCE))
    assert main(["export", "onnx", str(folder / "model.safetensors"), str(folder / "out.onnx")]) == 0
    return folder


def open_export(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "out.onnx", providers=["CPUExecutionProvider"])


@torch.no_grad()
def test_onnxruntime_computes_what_pytorch_computes_at_any_size(exported: Path) -> None:
    network, session = load_segmenter(exported / "model.safetensors"), open_export(exported)
    for size in ((1, 3, 32, 32), (2, 3, 61, 173), (4, 3, 256, 33)):
        images = torch.randn(size, generator=torch.Generator().manual_seed(7))
        expected = network(images).numpy()
        (found,) = session.run(["logits"], {"image": images.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.999


def test_the_file_describes_its_input_and_output(exported: Path) -> None:
    session = open_export(exported)
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert about["labels"] == ["background", "a", "b", "c"]
    assert (about["mean"], about["std"]) == (list(MEAN), list(STD))
    assert about["model"]["sha256"] == hash_file(exported / "model.safetensors")
    assert about["model"]["provenance"] == vars(PROVENANCE)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, given.name) == ("image", "logits")
    assert taken.shape == ["batch", 3, "height", "width"]
    assert given.shape[1] == 4
    files = sorted(path.name for path in exported.iterdir())
    assert files == ["model.safetensors", "out.onnx"]  # the weights are inside


@torch.no_grad()
def test_the_ten_lines_of_the_page_segment_a_photograph(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs/sharing.md").read_text(encoding="utf-8")
    (runner,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in block]
    assert len([line for line in runner.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported / "out.onnx", "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (45, 58, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photograph.jpg", quality=95)
    exec(compile(runner, "docs/sharing.md", "exec"), {})
    network, decoded = load_segmenter(exported / "model.safetensors"), np.asarray(Image.open("photograph.jpg"))
    normalised = (torch.from_numpy(decoded).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    expected = network(normalised[None]).argmax(1)[0].numpy()
    assert (np.asarray(Image.open("mask.png")) == expected).mean() > 0.999
    names = ("background", "a", "b", "c")
    assert capsys.readouterr().out.splitlines()[-1] == str([names[label] for label in np.unique(expected)])


def test_an_export_that_disagrees_is_not_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = exporting.compare

    def compare_with_other_weights(network: nn.Module, file: Path) -> exporting.Agreement:
        with torch.no_grad():
            network.head.classifier.bias[0] += 0.05
        return compare(network, file)

    monkeypatch.setattr(exporting, "compare", compare_with_other_weights)
    Path("out.onnx").write_text("mine")
    assert main(["export", "onnx", "model.safetensors", "out.onnx", "--force"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: The export of model.safetensors does not agree with PyTorch (logits differ by ")
    assert Path("out.onnx").read_text() == "mine"
    assert sorted(path.name for path in here.iterdir()) == ["model.safetensors", "out.onnx"]


def test_obstacles_to_the_export_are_reported(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out.onnx").write_text("mine")
    assert main(["export", "onnx", "model.safetensors", "out.onnx"]) == 2
    assert "out.onnx exists: name another file, or overwrite it with --force" in capsys.readouterr().err
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert main(["export", "onnx", "model.safetensors", "other.onnx"]) == 2
    assert "The export needs onnxscript: install it with `pip install onnxscript`." in capsys.readouterr().err
    assert main(["export", "onnx", "gone", "other.onnx"]) == 2
    assert "gone does not exist" in capsys.readouterr().err
    assert not Path("other.onnx").exists()
