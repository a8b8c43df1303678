"""MCIS by its stages: trained on pairs, scored beside references, on a few small pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stages import PREPARE, locate, run_stage, run_stages, shrink_preset, write_params

from rca.core.files import hash_file
from rca.data.manifest import read_manifest
from rca.data.partition import write_parts
from rca.labels.score_maps import open_shard
from rca.stages.base.pins import Instance

PATHS = locate("mcis")
TRAIN, SCORE = Instance("train_cam", run="mcis", seed=0), Instance("make_cam", run="mcis", seed=0, shard=0)


def run(params: dict, *instances: Instance) -> None:
    write_params(params)
    run_stages(*instances)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The embedded preset cut down, with one run; the stages before the training have run."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=9, val=3, epochs=3, batch_size=3)
    options = {"affinity": {"form": "cosine", "temperature": 0.1}, "contrastive": {"start_epoch": 1}}
    params["run"]["mcis"] = {"method": "mcis", "options": options}
    params.update(runs=["mcis"], shards=[0])
    params["make_cam"]["references"] = {"number": 2}
    run(params, *PREPARE)
    return params


def read_scores() -> dict[str, np.ndarray]:
    records = read_manifest(PATHS.dataset.manifest, "shards/0").images
    with open_shard(PATHS.maps_of(0, "scores")) as shard:
        return {record.id: shard.read(record.id).scores for record in records}


def test_a_run_trains_on_pairs_and_scores_beside_references(params: dict) -> None:
    run(params, TRAIN, SCORE)
    history = pd.read_csv(PATHS.cam_history)
    terms = ["loss_classification", "loss_co_attention", "loss_self_pairs"]
    assert history[terms].notna().all(axis=None)
    assert history["loss_contrastive"].notna().tolist() == [False, True, True]
    assert (history["loss_classification"].diff()[1:] < 0).all()
    beside, network = read_scores(), hash_file(PATHS.network)
    assert len(beside) == 12
    params["run"]["mcis"]["make_cam"] = {"references": {"number": 0}}
    run(params, SCORE)
    alone = read_scores()
    assert hash_file(PATHS.network) == network
    assert any(np.abs(beside[one] - alone[one]).max() > 0.01 for one in alone)
    # References are images of train: what else is there changes no map.
    params["run"]["mcis"]["make_cam"] = {}
    manifest = read_manifest(PATHS.dataset.manifest)
    images = tuple(one for one in manifest.images if one.id != "val_00000")
    write_parts(PATHS.dataset.manifest, replace(manifest, images=images), [0])
    run(params, SCORE)
    assert all(np.allclose(one, beside[image_id], atol=2e-3) for image_id, one in read_scores().items())


def test_extra_images_are_trained_on_and_serve_as_references(params: dict) -> None:
    manifest = read_manifest(PATHS.dataset.manifest)
    extra = [
        replace(one, splits=(), source=source)
        for one, source in zip(manifest.images[:2], ("single_label", "web"), strict=True)
    ]
    write_parts(PATHS.dataset.manifest, replace(manifest, images=(*extra, *manifest.images[2:])), [0])
    run(params, TRAIN, SCORE)
    without = read_scores()
    params["dataset"]["sources"] = {"single_label": {}}
    params["run"]["mcis"]["train_cam"] = {"sources": ["single_label"]}
    run(params, TRAIN, SCORE)
    assert Path("logs/train_cam.mcis-0.log").read_text().startswith("8 images, ")
    assert any(np.abs(one - without[image_id]).max() > 0.01 for image_id, one in read_scores().items())
    # Inference looks for the sources that the network was trained on.
    write_parts(PATHS.dataset.manifest, replace(manifest, images=manifest.images[2:]), [0])
    assert run_stage("make_cam", run="mcis", seed=0, shard=0) == 2
    assert "There is no source single_label" in Path("logs/make_cam.mcis-0-0.log").read_text()
