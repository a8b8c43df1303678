"""Corrected masks from annotation tools: packed regions, labels, colours, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.core.files import IGNORE, read_mask, write_mask
from rca.data.manifest import Manifest
from rca.exporting.corrections import find_image, keep_corrections, read_corrections
from rca.exporting.label_studio import describe_region, pack, unpack

# What encode_rle of label-studio-sdk 2.1.2 makes of the region below.
PACKED = [0, 0, 0, 216, 57, 27, 254, 43, 0, 194, 127, 247, 192, 48, 159, 253, 240, 12, 39, 255, 134, 192, 35, 255, 197]
PACKED += [224, 0]
REGION = np.zeros((6, 9), bool)
REGION[1:4, 2:7] = REGION[4, 5] = True


def test_regions_are_packed_as_label_studio_does() -> None:
    assert (unpack(PACKED, 6, 9) == REGION).all()
    assert (unpack(pack(REGION), 6, 9) == REGION).all()


def test_any_region_comes_back() -> None:
    random = np.random.default_rng(0)
    for region in (random.random((23, 31)) > 0.5, np.zeros((5, 7), bool), np.ones((200, 300), bool)):
        assert (unpack(pack(region), *region.shape) == region).all()


def test_broken_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="216 words"):
        unpack(PACKED, 6, 8)
    with pytest.raises(ValueError, match="ends too early"):
        unpack(PACKED[:-5], 6, 9)


def test_masks_of_labels_and_of_colours(manifest: Manifest, tmp_path: Path) -> None:
    masks = {record.id: read_mask(manifest.truth(record)) for record in manifest.images[:2]}
    for image_id, mask in masks.items():
        (tmp_path / "labels").mkdir(exist_ok=True)
        write_mask(tmp_path / f"labels/{image_id}.png", mask)
    for name, mask in read_corrections(tmp_path / "labels", manifest):
        assert (mask == masks[name]).all()
    # CVAT: any colours, named in labelmap.txt.
    colours = {0: (0, 0, 0), 1: (9, 8, 7), 2: (200, 0, 0), 3: (0, 200, 0), IGNORE: (255, 255, 255)}
    names = {0: "background", IGNORE: "ignored", **dict(enumerate(manifest.classes, 1))}
    folder = tmp_path / "cvat/SegmentationClass"
    folder.mkdir(parents=True)
    lines = [f"{names[label]}:{','.join(map(str, colour))}::" for label, colour in colours.items()]
    (tmp_path / "cvat/labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines, ""]))
    table = np.zeros((256, 3), np.uint8)
    for label, colour in colours.items():
        table[label] = colour
    for image_id, mask in masks.items():
        Image.fromarray(table[mask]).save(folder / f"{image_id}.png")
    found = dict(read_corrections(tmp_path / "cvat", manifest))
    assert found.keys() == masks.keys()
    assert all((found[image_id] == mask).all() for image_id, mask in masks.items())


def test_images_are_found_by_the_names_of_tools(manifest: Manifest) -> None:
    for name in ("a1.png", "/data/upload/3/1f2e3d4c-a1.jpg", "/data/local-files/?d=photos/a1.jpg", "a1"):
        assert find_image(name, manifest, Path("back.json")) == "a1"
    with pytest.raises(UserError, match="which the dataset has not"):
        find_image("zebra.png", manifest, Path("back.json"))


def write_task(path: Path, manifest: Manifest, **changes: object) -> Path:
    record = manifest.images[0]
    region = np.zeros((record.height, record.width), bool)
    region[:3] = True
    result = describe_region(region, manifest.classes[0], "r") | changes
    task = {"data": {"image": f"{record.id}.jpg"}, "annotations": [{"result": [result]}]}
    path.write_text(json.dumps([task]))
    return path


def test_what_does_not_fit_is_refused_and_nothing_is_kept(manifest: Manifest, tmp_path: Path) -> None:
    source, kept = tmp_path / "back.json", tmp_path / "kept"
    value = {"format": "rle", "rle": PACKED, "brushlabels": ["zebra"]}
    cases = [
        (write_task(source, manifest, value=value).read_text(), "the name zebra is no class"),
        (write_task(source, manifest, original_width=3).read_text(), "a region is 3x"),
        ("[]x", "back.json"),
        ('[{"data": {}}]', "no list of annotated tasks"),
    ]
    for text, sentence in cases:
        source.write_text(text)
        with pytest.raises(UserError, match=sentence):
            keep_corrections(source, manifest, kept)
    folder = tmp_path / "masks"
    folder.mkdir()
    with pytest.raises(UserError, match="holds no PNG mask"):
        keep_corrections(folder, manifest, kept)
    for mask, sentence in ((np.zeros((2, 3), np.uint8), "is 3x2, its photograph"), (None, "holds the label 9")):
        record = manifest.images[0]
        write_mask(
            folder / f"{record.id}.png", np.full((record.height, record.width), 9, np.uint8) if mask is None else mask
        )
        with pytest.raises(UserError, match=sentence):
            keep_corrections(folder, manifest, kept)
    assert not kept.exists()


def test_an_annotation_that_was_skipped_is_left_out(manifest: Manifest, tmp_path: Path) -> None:
    source = write_task(tmp_path / "back.json", manifest)
    ((_, mask),) = read_corrections(source, manifest)
    assert (mask[:3] == 1).all()
    assert not mask[3:].any()
    tasks = json.loads(source.read_text())
    tasks[0]["annotations"][0]["was_cancelled"] = True
    source.write_text(json.dumps(tasks))
    assert list(read_corrections(source, manifest)) == []
