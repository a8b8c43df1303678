"""Photographs that no training saw, from end to end; skipped where they do not lie at $RCA_SHARED."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import rca
from rca.cli.main import main
from rca.core.files import PALETTE, hash_file, read_mask
from rca.core.settings import build_settings
from rca.data.loading.images import normalise
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings, fetch_weights
from rca.segmentation.network import Segmenter, SegmenterDescription, save_segmenter

SHARED = (Path(__file__).parents[2] / os.environ.get("RCA_SHARED", "../shared")).resolve()
PHOTOGRAPHS, WEIGHTS = SHARED / "data/coco-tiny/val2017", SHARED / "weights/mobilenet_v2.safetensors"
CLASSES = ("cat", "dog", "cow", "horse")
COLOUR = (0.5,) * 3

pytestmark = pytest.mark.skipif(
    not (PHOTOGRAPHS.is_dir() and WEIGHTS.is_file()), reason=f"{SHARED} does not hold them: set RCA_SHARED"
)


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three photographs; the working directory holds a model of ImageNet's features and a random head."""
    monkeypatch.chdir(tmp_path)
    file = {"source": "file", "path": str(WEIGHTS), "sha256": hash_file(WEIGHTS), "mean": COLOUR, "std": COLOUR}
    settings = build_settings(BackboneSettings, {"name": "mobilenet_v2", "weights": file}, "backbone", "here")
    fetch_weights(settings, tmp_path / "weights.safetensors")
    torch.manual_seed(0)
    network = Segmenter(SegmenterDescription("mobilenet_v2", 16, "linear", CLASSES, COLOUR, COLOUR, "ImageNet"))
    network.backbone.load_state_dict(load_tensors(tmp_path / "weights.safetensors", "fetch_weights")[0])
    save_segmenter(tmp_path / "model.safetensors", network.eval())
    return sorted(PHOTOGRAPHS.glob("*.jpg"))[:3]


def test_photographs_are_segmented_and_leave_for_other_tools(photographs: list[Path]) -> None:
    assert main(["predict", "model.safetensors", *map(str, photographs), "--tile", "320", "--overlap", "96"]) == 0
    summary = json.loads(Path("predictions/predictions.json").read_text())
    assert len(summary["images"]) == 3
    for one, path in zip(summary["images"], photographs, strict=True):
        with Image.open(path) as photograph, Image.open(Path("predictions", one["mask"])) as mask:
            assert mask.size == photograph.size
            assert mask.getpalette() == PALETTE
        assert sum(found["pixels"] for found in one["classes"]) == one["width"] * one["height"]
        assert len(one["classes"]) > 1
        assert Path("predictions", one["overlay"]).stat().st_size > 10_000
    assert main(["export", "coco", "predictions", "masks.json", "--components"]) == 0
    coco = COCO("masks.json")
    for one in summary["images"]:
        (image,) = [each for each in coco.dataset["images"] if one["image"].endswith(each["file_name"])]
        drawn = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            drawn[coco.annToMask(annotation) == 1] = annotation["category_id"]
        assert (drawn == read_mask(Path("predictions", one["mask"]))).all()


@pytest.mark.slow
@torch.no_grad()
def test_onnx_agrees_on_photographs(photographs: list[Path]) -> None:
    assert main(["export", "onnx", "model.safetensors", "model.onnx"]) == 0
    network = rca.load("model.safetensors", "cpu").network
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    for path in photographs:
        with Image.open(path) as photograph:
            image = normalise(np.asarray(photograph.convert("RGB")), COLOUR, COLOUR)[None]
        expected = network(image).numpy()
        (found,) = session.run(["logits"], {"image": image.numpy()})
        assert np.abs(found - expected).max() < 1e-4
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.999
