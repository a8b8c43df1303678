"""The stages that train and use the segmentation network, on a few small pictures."""

import hashlib
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from stages import locate, run_stages, shrink_preset, write_params

import rca
from rca.cli.main import main
from rca.core.files import hash_file, read_mask
from rca.core.imports import PACKAGE, Closures
from rca.core.settings import load_params, merge
from rca.data.manifest import read_manifest
from rca.segmentation.network import Provenance, load_segmenter
from rca.stages.base.pins import Instance

PATHS = locate("rca", seed=1)


@pytest.fixture(autouse=True)
def _trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded preset cut down, with true masks in the place of refined ones."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=4, val=2, epochs=2, batch_size=2)
    params.update(shards=[0], seeds=[1])
    write_params(params)
    before = (Instance("generate_data", item="shapes"), Instance("prepare_data"), Instance("pin_images"))
    run_stages(*before, Instance("fetch_weights", item="segmenter"))
    shutil.copytree("data/shapes/SegmentationClass", PATHS.masks_of("refined") / "0/best")
    run_stages(*(Instance(stage, run="rca", seed=1) for stage in ("pin_masks", "train_seg", "predict_seg")))


def test_a_model_tells_where_it_comes_from() -> None:
    masks = sorted((PATHS.masks_of("refined") / "0/best").glob("train_*.png"))
    lines = "".join(f"{mask.stem} {hash_file(mask)}\n" for mask in masks)
    model, code = rca.load(PATHS.segmenter), Closures()
    assert model.description.classes == read_manifest(PATHS.dataset.manifest).classes
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
        code_sha256=code.hash(code.find([PACKAGE / "stages/__main__.py", PACKAGE / "stages/train_seg.py"])),
    )


@pytest.mark.parametrize(
    "option",
    [
        {"weight_average": 0.9},
        {"loss": {"mixture": {"start_epoch": 0}}},
        {"loss": {"correction": {"slowing": 0.01, "confidence": 0.0}}},
    ],
    ids=["average", "mixture", "correction"],
)
def test_an_option_against_wrong_labels_changes_the_network(option: dict) -> None:
    """And a training with none of them is the same each time."""
    params = load_params(Path("params.yaml"))
    params["train_seg"]["optimisation"].update(epochs=5, batch_size=4)
    trained = []
    for section in ({}, option, {}):
        write_params({**params, "train_seg": merge({**params["train_seg"], "loss": {"balance": "labels"}}, section)})
        run_stages(Instance("train_seg", run="rca", seed=1))
        trained.append(load_segmenter(PATHS.segmenter).state_dict())
    plain, other, again = trained
    assert all(torch.equal(value, again[name]) for name, value in plain.items())
    assert not torch.equal(plain["head.branches.0.weight"], other["head.branches.0.weight"])


def test_images_without_masks_and_tags_are_segmented() -> None:
    """A list such as VOC's test: everything before it, the check included, takes it as it is."""
    model, root = rca.load(PATHS.segmenter), Path("data/shapes")
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    for name in names:
        shutil.copyfile(root / f"JPEGImages/{name}.png", root / f"JPEGImages/new_{name}.png")
    (root / "ImageSets/Segmentation/test.txt").write_text("".join(f"new_{name}\n" for name in names))
    params = load_params(Path("params.yaml"))
    params["dataset"].update(splits=["train", "val", "test"], unlabelled=["test"])
    params["predict_seg"]["splits"] = ["val", "test"]
    write_params(params)
    assert main(["check"]) == 0
    stages = [Instance("prepare_data"), Instance("pin_images"), Instance("predict_seg", run="rca", seed=1)]
    run_stages(*stages)
    masks = sorted((PATHS.predictions / "test").iterdir())
    assert [mask.stem for mask in masks] == [f"new_{name}" for name in sorted(names)]
    for mask in masks:
        assert (model.predict(f"data/shapes/JPEGImages/{mask.stem}.png").mask == read_mask(mask)).all()


def test_the_model_predicts_what_the_pipeline_predicted() -> None:
    model = rca.load(PATHS.segmenter)
    masks = sorted((PATHS.predictions / "val").iterdir())
    assert len(masks) == 2
    for mask in masks:
        assert (model.predict(f"data/shapes/JPEGImages/{mask.stem}.png").mask == read_mask(mask)).all()
