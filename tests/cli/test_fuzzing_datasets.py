"""Datasets given anything: each is read with its pictures and drawn, or refused in a sentence, or has faults."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import CELLS, EXAMPLES, FEW, PLAIN, damage, explore
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask

from rca.core.plain_xml import read_xml
from rca.data.faults import KINDS
from rca.data.formats.colours import read_label_map
from rca.data.formats.dataset import build_dataset_settings, examine_dataset
from rca.data.formats.files import read_list

HEIGHT, WIDTH = 31, 45
RUNS = mask.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH, 9, np.uint8)))["counts"].decode()
COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 2, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [{"id": 3, "name": "cat", "supercategory": "pet"}, {"id": 7, "name": "dog", "supercategory": "pet"}],
    "annotations": [
        {
            **{"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "area": 60.0, "bbox": [2, 3, 10, 6]},
            "segmentation": [[2, 3, 12, 3, 12, 9, 2, 9]],
        },
        {
            **{"id": 2, "image_id": 2, "category_id": 7, "iscrowd": 1, "area": 9, "bbox": [0, 0, 5, 5]},
            "segmentation": {"counts": [10, 20, HEIGHT * WIDTH - 30], "size": [HEIGHT, WIDTH]},
        },
        {
            **{"id": 3, "image_id": 2, "category_id": 3, "iscrowd": 0, "area": 9, "bbox": [0, 0, 5, 5]},
            "segmentation": {"counts": RUNS, "size": [HEIGHT, WIDTH]},
        },
    ],
}
# What coordinates, sizes, run lengths and ids may be instead of what they should.
ODD = st.sampled_from(
    [
        *(None, True, "", "1", "nan", [], {}, [[]], 0, -1, 0.5, 1e9, -1e9, 1e308, 2**31, 2**63, 2**64, 10**300),
        *(float("nan"), float("inf"), float("-inf"), [1, 2], [[1, 2, 3, 4]], [[0, 0, 1e9, 0, 0, 1e9]], {"counts": []}),
        *({"counts": [2**40], "size": [HEIGHT, WIDTH]}, {"counts": "PPPP", "size": [10**6, 10**6]}, {"counts": "\0"}),
    ]
)


def list_places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Each place of plain data, by its keys and positions."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from list_places(value, (*path, key))


def alter(data: Any) -> st.SearchStrategy[Any]:
    """Plain data of which some values, lists or mappings are others, gone or doubled."""
    places = [*list_places(data)]

    @st.composite
    def change(draw: st.DrawFn) -> Any:
        changed = copy.deepcopy(data)
        for path in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
            parent = changed
            for key in path[:-1]:
                inside = isinstance(parent, dict) and key in parent
                inside = inside or (isinstance(parent, list) and isinstance(key, int) and key < len(parent))
                parent = parent[key] if inside else None
            if isinstance(parent, list) and draw(st.booleans()):
                parent.append(copy.deepcopy(draw(ODD)))
            elif isinstance(parent, dict):
                if draw(st.integers(0, 4)):
                    parent[path[-1]] = copy.deepcopy(draw(ODD | PLAIN))
                else:
                    parent.pop(path[-1], None)
            elif isinstance(parent, list) and isinstance(path[-1], int) and path[-1] < len(parent):
                parent[path[-1]] = copy.deepcopy(draw(ODD | PLAIN))
        return changed

    return change()


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def read_whole(root: Path, data: dict[str, Any]) -> Callable[[], None]:
    """Read a dataset with all that belongs to it; each fault must be of a known kind, in one line."""
    settings = build_dataset_settings({"name": "x", "splits": ["train"], **data}, "params.yaml")
    drawn = root / "drawn"
    drawn.mkdir()

    def read() -> None:
        for fault in examine_dataset(root, settings, drawn=drawn, draw_into=drawn).faults:
            assert fault.kind in KINDS
            assert "\n" not in fault.sentence

    return read


@FEW
def test_annotations_of_coco(tmp_path: Path, examples: int) -> None:
    for name in "ab":
        save(tmp_path / f"train2014/{name}.png")
    path = tmp_path / "annotations/instances_train2014.json"
    path.parent.mkdir()
    whole = json.dumps(COCO).encode()
    inputs = alter(COCO).map(lambda data: json.dumps(data).encode("utf-8", "surrogatepass")) | damage(whole)
    explore(read_whole(tmp_path, {"format": "coco"}), path.write_bytes, inputs | st.binary(max_size=99), examples)


def test_the_annotations_that_are_altered_are_good_ones(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"train2014/{name}.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2014.json").write_text(json.dumps(COCO))
    settings = build_dataset_settings({"name": "x", "format": "coco", "splits": ["train"]}, "params.yaml")
    (tmp_path / "drawn").mkdir()
    found = examine_dataset(tmp_path, settings, drawn=tmp_path / "drawn", draw_into=tmp_path / "drawn")
    assert [len(record.tags) for record in found.manifest.images] == [1, 1]  # crowds give no tag


TASKS = [
    {
        **{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "predictions": []},
        "annotations": [{"was_cancelled": False, "result": [{"type": "choices", "value": {"choices": ["cat"]}}]}],
    },
    {
        **{"id": 2, "data": {"image": "b.png"}},
        "annotations": [{"result": [{"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["dog"]}}]}],
    },
]
MINIMAL = [{"image": "a.png", "id": 1, "choice": "cat"}, {"image": "b.png", "id": 2, "choice": {"choices": ["dog"]}}]


@FEW
@pytest.mark.parametrize("tasks", [TASKS, MINIMAL], ids=["JSON", "JSON-MIN"])
def test_tasks_of_label_studio(tmp_path: Path, tasks: list[dict[str, Any]], examples: int) -> None:
    for name in "ab":
        save(tmp_path / f"images/{name}.png")
    whole = json.dumps(tasks).encode()
    inputs = alter(tasks).map(lambda data: json.dumps(data).encode("utf-8", "surrogatepass")) | damage(whole)
    explore(read_whole(tmp_path, {"format": "folder"}), (tmp_path / "tags.json").write_bytes, inputs, examples)


CVAT = b"""<?xml version="1.0" encoding="utf-8"?><!DOCTYPE a><annotations><version>1.1</version>
<image id="0" name="a.png" subset="train" width="45" height="31"><tag label="cat" source="manual"></tag></image>
<image id="1" name="b.png" width="45" height="31"><box label="dog" xtl="1"/><tag label="cat"/></image></annotations>"""


@FEW
def test_tags_of_cvat(tmp_path: Path, examples: int) -> None:
    for name in "ab":
        save(tmp_path / f"images/{name}.png")
    path = tmp_path / "annotations.xml"
    explore(read_whole(tmp_path, {"format": "folder"}), path.write_bytes, damage(CVAT), examples)


MARKUP = st.sampled_from(
    [
        *b"<>&;/!",
        *(b"<a>", b"</a>", b"<a b='c'/>", b"<!ENTITY x 'y'>", b"&x;", b"&#0;", b"<![CDATA[", b"]]>", b"<?p ?>"),
    ]
).map(lambda part: bytes([part]) if isinstance(part, int) else part)


@EXAMPLES
def test_xml(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "x.xml"
    inputs = st.lists(MARKUP, max_size=30).map(b"".join) | damage(CVAT) | st.binary(max_size=99)
    explore(lambda: list(read_xml(path)), path.write_bytes, inputs, examples)


LINES = st.lists(st.lists(CELLS | st.sampled_from(["/a/x.jpg", "x 1", "255,0,0"]), max_size=3), max_size=8).map(
    lambda lines: "\n".join(" ".join(cells) for cells in lines).encode("utf-8", "surrogatepass")
)


@EXAMPLES
def test_lists_of_images(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "train.txt"
    inputs = LINES | damage(b"/JPEGImages/x.jpg /SegmentationClass/x.png\ny  1\nz\n") | st.binary(max_size=99)
    explore(lambda: read_list(path), path.write_bytes, inputs, examples)


@EXAMPLES
def test_label_maps(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "labelmap.txt"
    good = b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n"
    explore(lambda: read_label_map(path), path.write_bytes, LINES | damage(good) | st.binary(max_size=99), examples)
