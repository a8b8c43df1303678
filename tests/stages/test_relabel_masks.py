"""The stage that masks training images by another run's segmentation network, and what learns from these masks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segmenters import MEAN, STD, build
from sklearn.metrics import jaccard_score
from stages import PREPARE, locate, run_stages, shrink_preset, write_params

from rca.core.files import IGNORE, hash_file, read_json, read_mask, read_photograph
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.data.partition import assign_shard
from rca.labels.crf import CrfSettings, refine_mask
from rca.segmentation.network import Segmenter, load_segmenter, save_segmenter
from rca.segmentation.predict import PredictionSettings, predict_mask
from rca.stages.base.pins import Instance

CAM, SECOND, SHARED = locate("cam"), locate("second"), locate("shared")
CRF = {"iterations": 3, "gaussian_sxy": 1, "bilateral_sxy": 20, "bilateral_weight": 4}


def build_project(section: str = "relabel_masks", **prediction: Any) -> Segmenter:
    """Put down few pictures, a network of the first round with random weights, and two runs that build on it."""
    params = shrink_preset(train=7, val=2, epochs=1, batch_size=3)
    params.update(runs=["cam", "second", "shared"], seeds=[0], shards=[0, 1])
    params["run"]["second"] = {"masks_from": "cam", "train_seg": {"masks": "relabelled"}}
    params["run"]["shared"] = {"masks_from": "cam", "train_seg": {"masks": "pseudo", "threshold": "fixed"}}
    params[section] = {"prediction": prediction}
    params["evaluate"].update(relabelled=["train"], segmentation=["val"])
    write_params(params)
    run_stages(*PREPARE[:3], Instance("fetch_weights", item="segmenter"))
    network = build(classes=read_manifest(CAM.dataset.manifest).classes)
    save_segmenter(CAM.segmenter, network)
    return network


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def relabel() -> tuple[Manifest, dict[ImageRecord, np.ndarray]]:
    """Run the stage; the mask of each training image."""
    run_stages(*(Instance("relabel_masks", run="second", seed=0, shard=shard) for shard in (0, 1)))
    manifest, folder = read_manifest(CAM.dataset.manifest), SECOND.masks_of("relabelled")
    records = manifest.select("train")
    found = {record: read_mask(folder / f"{assign_shard(record.id, 2)}/{record.id}.png") for record in records}
    assert len(list(folder.rglob("*.png"))) == len(records) == 7
    return manifest, found


@torch.no_grad()
def score_views(network: Segmenter, photograph: np.ndarray) -> np.ndarray:
    """The sum of the probabilities (C+1, H, W) of the photograph and of its mirror image, from the network alone."""
    views = []
    for picture in (photograph, photograph[:, ::-1]):
        pixels = torch.from_numpy(((picture / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)).float()
        views.append(network(pixels[None])[0].softmax(0).numpy())
    return views[0] + views[1][:, :, ::-1]


def choose_slowly(scores: np.ndarray, labels: list[int]) -> np.ndarray:
    """The highest of some labels at each pixel, one after another."""
    mask = np.zeros(scores.shape[1:], np.uint8)
    for row, column in np.ndindex(*mask.shape):
        mask[row, column] = max(labels, key=lambda label: scores[label, row, column])
    return mask


def test_each_pixel_gets_the_likeliest_label_of_its_image() -> None:
    network = build_project(crf=None)
    manifest, masks = relabel()
    untagged = 0
    for record, mask in masks.items():
        labels = [0, *(tag + 1 for tag in record.tags)]
        scores = score_views(network, read_photograph(manifest.photograph(record)))
        assert (mask == choose_slowly(scores, labels)).mean() > 0.999
        assert set(np.unique(mask)) <= set(labels)
        untagged += int((~np.isin(scores.argmax(0), labels)).sum())
    assert untagged > 500  # what the network alone would have named


@pytest.mark.parametrize("section", ["relabel_masks", "predict_seg"])
def test_the_crf_runs_over_the_labels_of_the_image(section: str) -> None:
    """As `relabel_masks.prediction` says or, where it says nothing, `predict_seg.prediction`."""
    network = build_project(section, crf=CRF)
    manifest, masks = relabel()
    changed = 0
    for record, mask in masks.items():
        labels = np.array([0, *(tag + 1 for tag in record.tags)], np.uint8)
        photograph = read_photograph(manifest.photograph(record))
        scores = score_views(network, photograph)
        expected = refine_mask(photograph, scores[labels], labels, CrfSettings(**CRF, tolerance=0))
        assert (mask == expected).mean() > 0.999
        changed += int((mask != choose_slowly(scores, labels.tolist())).sum())
    assert changed > 50


@pytest.mark.parametrize("crf", [None, CrfSettings(**CRF)], ids=["scores", "crf"])
def test_a_class_without_a_tag_cannot_come_about(crf: CrfSettings | None) -> None:
    """However sure the network is of it."""
    network, image = build(), np.random.default_rng(1).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    settings = PredictionSettings(crf=crf)
    with torch.no_grad():
        network.head.classifier.bias[2] += 50
    assert (predict_mask(network, image, settings) == 2).all()
    for labels in ([0, 1], [0, 3], [0, 1, 3], [0]):
        found = predict_mask(network, image, settings, np.array(labels, np.uint8))
        assert set(np.unique(found)) <= set(labels)


def test_a_run_learns_from_the_masks_of_its_round() -> None:
    build_project(crf=None)
    manifest, masks = relabel()
    of_run = ("pin_masks", "train_seg", "predict_seg", "evaluate")
    stale = [SECOND.root / name for name in ("maps/0", "masks/pseudo/0", "masks/relabelled/2", "threshold.json")]
    for path in stale:  # of earlier settings
        path.mkdir(parents=True)
    run_stages(*(Instance(stage, run="second", seed=0) for stage in of_run))
    assert not any(path.exists() for path in stale)
    pinned = read_json(SECOND.pinned_masks)
    assert pinned["sha256"] == {
        record.id: hash_file(SECOND.masks_of("relabelled") / f"{assign_shard(record.id, 2)}/{record.id}.png")
        for record in masks
    }
    provenance = load_segmenter(SECOND.segmenter).description.provenance
    assert provenance is not None
    assert provenance.masks == "relabelled by the segmentation network of cam"

    written = read_json(SECOND.evaluation / "evaluation.json")
    assert set(written["metrics"]) == {"relabelled", "segmentation"}
    assert written["protocol"]["supervision"] == "run"
    assert written["protocol"]["tags"] == {"relabelled": "given", "segmentation": "none"}
    truths = {record: read_mask(manifest.truth(record)) for record in masks}
    truth = np.concatenate([one[one != IGNORE] for one in truths.values()])
    mask = np.concatenate([masks[record][one != IGNORE] for record, one in truths.items()])
    expected = jaccard_score(truth, mask, labels=np.union1d(truth, mask), average="macro")
    assert written["metrics"]["relabelled"]["train"]["miou"] == pytest.approx(expected, abs=1e-6)


def test_a_run_learns_from_the_masks_of_another() -> None:
    """The same network as that of the masks' owner, with the same seed, ends with the same weights."""
    build_project()
    params_of_owner = {"masks": "pseudo", "threshold": "fixed"}
    for record in read_manifest(CAM.dataset.manifest).select("train"):
        folder = CAM.masks_of("pseudo") / f"{assign_shard(record.id, 2)}/fixed"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{record.id}.png").write_bytes(Path(f"data/shapes/SegmentationClass/{record.id}.png").read_bytes())
    run_stages(*(Instance(stage, run="shared", seed=0) for stage in ("pin_masks", "train_seg")))
    assert not SHARED.masks.exists()
    assert read_json(SHARED.pinned_masks)["masks"] == "pseudo of cam, fixed threshold"

    params = shrink_preset(train=7, val=2, epochs=1, batch_size=3)
    params.update(runs=["cam"], seeds=[0], shards=[0, 1])
    params["train_seg"].update(params_of_owner)
    write_params(params)
    run_stages(*(Instance(stage, run="cam", seed=0) for stage in ("pin_masks", "train_seg")))
    owner, other = (load_segmenter(paths.segmenter) for paths in (CAM, SHARED))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in owner.state_dict().items())
    assert read_json(CAM.pinned_masks)["masks"] == "pseudo, fixed threshold"
    about = [replace(one.description, provenance=None) for one in (owner, other)]
    assert about[0] == about[1]
