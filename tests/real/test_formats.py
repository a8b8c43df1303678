"""Real photographs in each format; skipped where they do not lie at $RCA_SHARED."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from stages import read_preset, run_stages, write_params

from rca.core.files import hash_file
from rca.data.formats.coco import CocoSettings
from rca.data.formats.dataset import read_dataset
from rca.data.manifest import Manifest, read_manifest
from rca.stages.base.layout import Layout, MaskKind
from rca.stages.base.pins import Instance
from rca.stages.base.stage import load_stage

ROOT = Path(__file__).parents[2]
SHARED = (ROOT / os.environ.get("RCA_SHARED", "../shared")).resolve()
MSRC, COCO_TINY = SHARED / "data/msrc", SHARED / "data/coco-tiny"
WEIGHTS = SHARED / "weights/mobilenet_v2.safetensors"
LISTS = Path("ImageSets/Segmentation")

needs_msrc = pytest.mark.skipif(
    not MSRC.is_dir() or not WEIGHTS.is_file(), reason=f"{SHARED} does not hold msrc and its weights: set RCA_SHARED"
)
needs_coco = pytest.mark.skipif(not COCO_TINY.is_dir(), reason=f"{COCO_TINY} does not exist: set RCA_SHARED")


# --- COCO


@needs_coco
def test_the_masks_of_coco_are_those_of_its_annotations(tmp_path: Path) -> None:
    """Against a slow reference: each pixel by itself takes the smallest of the instances that cover it."""
    settings = CocoSettings(
        name="coco-tiny", format="coco", annotations="annotations/instances_{split}2017.json", images="{split}2017"
    )
    notes: list[str] = []
    manifest = read_dataset(COCO_TINY, settings, drawn=tmp_path, draw_into=tmp_path, report=notes.append)
    assert notes == [
        "train: 1 of 50 images have no annotation and are left out.",
        "train: 5 of 470 annotations are crowds and undecided (in 000000184613.jpg).",
        "val: 2 of 50 images have no annotation and are left out.",
        "val: 5 of 382 annotations are crowds and undecided (in 000000087038.jpg).",
    ]
    assert [len(manifest.select(split)) for split in ("train", "val")] == [49, 48]
    assert len(manifest.classes) == 80
    assert (manifest.classes[0], manifest.classes[11], manifest.classes[79]) == ("person", "stop sign", "toothbrush")
    annotations = COCO(str(COCO_TINY / "annotations/instances_train2017.json"))
    crowds = [one["image_id"] for one in annotations.anns.values() if one["iscrowd"]]
    for record in manifest.select("train"):
        if int(record.id) in crowds or record.id.endswith("1"):
            truth = np.asarray(Image.open(manifest.truth(record)))
            np.testing.assert_array_equal(truth, draw_slowly(annotations, int(record.id)))
            assert {tag + 1 for tag in record.tags} == set(np.unique(truth).tolist()) - {0, 255}


def draw_slowly(annotations: COCO, image: int) -> np.ndarray:
    names = sorted(annotations.cats)
    found = annotations.loadAnns(annotations.getAnnIds(image))
    covers = np.stack([annotations.annToMask(one) for one in found])
    # The later of two with the same number of pixels lies above.
    pixels = covers.sum((1, 2)) - np.arange(len(found)) / len(found)
    areas = np.where([one["iscrowd"] for one in found], 1e12, pixels)
    labels = np.array([255 if one["iscrowd"] else names.index(one["category_id"]) + 1 for one in found])
    smallest = np.where(covers > 0, areas[:, None, None], np.nan)
    mask = np.zeros(covers.shape[1:], np.uint8)
    covered = covers.any(0)
    mask[covered] = labels[np.nanargmin(smallest[:, covered], 0)]
    return mask


# --- one dataset in two formats


def write_voc(root: Path) -> None:
    """A part of msrc in VOC layout."""
    for folder in ("JPEGImages", "SegmentationClass", LISTS):
        (root / folder).mkdir(parents=True)
    shutil.copy(MSRC / "classes.txt", root)
    for split, count in (("train", 14), ("val", 5)):
        names = (MSRC / LISTS / f"{split}.txt").read_text().split()[::19][:count]
        (root / LISTS / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            shutil.copy(MSRC / f"JPEGImages/{name}.jpg", root / "JPEGImages")
            shutil.copy(MSRC / f"SegmentationClass/{name}.png", root / "SegmentationClass")


def write_folder(root: Path, manifest: Manifest) -> None:
    """The same photographs as a folder with tags and splits, and no masks."""
    (root / "images").mkdir(parents=True)
    with open(root / "tags.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("id", "tags", "split"))
        for record in manifest.images:
            shutil.copy(manifest.photograph(record), root / "images")
            tags = ";".join(manifest.classes[tag] for tag in record.tags)
            table.writerow((record.id, tags, ";".join(record.splits)))
    (root / "classes.txt").write_text("\n".join(manifest.classes))


def use(dataset: dict) -> Layout:
    """Point the preset msrc, cut down, at a dataset."""
    params = read_preset("msrc")
    params.update(dataset=dataset, shards=[0, 1, 2])
    backbone = params["train_cam"]["backbone"]
    backbone["weights"].update(path=str(WEIGHTS), sha256=hash_file(WEIGHTS))
    params["train_cam"]["optimisation"]["epochs"] = 1
    params["make_cam"]["inference"]["scales"] = [1.0]
    params["refine_crf"]["crf"]["iterations"] = 2
    write_params(params)
    return Layout(dataset["name"])


def run(*stages: str) -> None:
    """Run stages, in all shards those that have shards."""
    for stage in stages:
        place: dict[str, Any] = {}
        if "run" in load_stage(stage).axes:
            place = {"run": "rca", "seed": 0}
        if "item" in load_stage(stage).axes:
            place = {"item": "classifier"}
        places = [{"shard": shard} for shard in (0, 1, 2)] if "shard" in load_stage(stage).axes else [{}]
        run_stages(*(Instance(stage, **place, **shard) for shard in places))


@needs_msrc
@pytest.mark.slow
def test_a_folder_gives_the_labels_that_voc_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_voc(Path("data/voc"))
    voc = use({"name": "voc", "format": "voc", "splits": ["train", "val"]})
    run("prepare_data", "pin_images", "fetch_weights", "train_cam", "snapshot_memory")
    run("make_cam", "choose_threshold", "make_pseudo", "refine_crf")
    write_folder(Path("data/photos"), read_manifest(voc.manifest))

    photos = use({"name": "photos", "format": "folder", "splits": ["train", "val"]})
    run("prepare_data")
    one, two = voc.of("rca", 0), photos.of("rca", 0)
    shutil.copytree(one.model, two.model)
    run("make_cam", "choose_threshold")
    assert not [record for record in read_manifest(photos.manifest).images if record.mask]
    shutil.copy(one.threshold, two.threshold)  # the folder has no masks to choose another by
    run("make_pseudo", "refine_crf")
    kinds: dict[MaskKind, int] = {"pseudo": 19, "refined": 19 + 5}
    for kind, images in kinds.items():  # refined with predicted tags as well: those of val
        expected = {
            path.relative_to(one.masks_of(kind)): path.read_bytes() for path in one.masks_of(kind).rglob("*.png")
        }
        assert len(expected) == 2 * images
        found = {path.relative_to(two.masks_of(kind)): path.read_bytes() for path in two.masks_of(kind).rglob("*.png")}
        assert found == expected
    for shard in (0, 1, 2):
        assert one.maps_of(shard, "scores").read_bytes() == two.maps_of(shard, "scores").read_bytes()
