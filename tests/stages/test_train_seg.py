"""The stages that train and use the segmentation network, on a few small pictures."""

import hashlib
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import rca
from rca.core.files import hash_file, read_mask
from rca.core.imports import PACKAGE, hash_closure
from rca.core.settings import load_params
from rca.data.manifest import read_manifest
from rca.segmentation.network import Provenance
from rca.stages.context import Context
from rca.stages.run import run_stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """The embedded preset cut down, with true masks in the place of refined ones."""
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "workflow/presets/shapes.yaml")
    params["generate"] = {"shapes": {"train": 4, "val": 2, "size": 48, "seed": 0, "objects": [1, 2]}}
    params.update(shards=[0], seeds=[1])
    params["train_seg"]["optimisation"].update(epochs=2, batch_size=2)
    params["train_seg"]["augmentation"]["crop"] = 48
    Path("params.yaml").write_text(yaml.safe_dump(params))
    before = [
        Context("generate_data", item="shapes"),
        Context("prepare_data"),
        Context("fetch_weights", item="train_seg"),
    ]
    for context in before:
        assert run_stage(context) == 0
    stages = [Context(stage, run="rca", seed=1) for stage in ("pin_masks", "train_seg", "predict_seg")]
    shutil.copytree("data/shapes/SegmentationClass", stages[0].paths.refined / "0/best")
    for context in stages:
        assert run_stage(context) == 0
    return stages[1]


def test_a_model_tells_where_it_comes_from(trained: Context) -> None:
    paths = trained.paths
    masks = sorted((paths.refined / "0/best").glob("train_*.png"))
    lines = "".join(f"{mask.stem} {hash_file(mask)}\n" for mask in masks)
    model = rca.load(paths.segmenter)
    assert model.description.classes == read_manifest(trained.layout.manifest).classes
    assert model.description.initialisation == "small (from scratch)"
    assert model.description.provenance == Provenance(
        dataset="shapes",
        split="train",
        images=4,
        longest_side=48,
        masks="refined, best threshold",
        masks_sha256=hashlib.sha256(lines.encode()).hexdigest(),
        run="rca",
        seed=1,
        version=version("rca"),
        code_sha256=hash_closure(PACKAGE / "stages/train_seg.py"),
    )


def test_the_model_predicts_what_the_pipeline_predicted(trained: Context) -> None:
    model = rca.load(trained.paths.segmenter)
    masks = sorted((trained.paths.predictions / "val").iterdir())
    assert len(masks) == 2
    for mask in masks:
        assert (model.predict(f"data/shapes/JPEGImages/{mask.stem}.png").mask == read_mask(mask)).all()
