"""Readers given anything: they succeed or raise a UserError, and nothing else. The examples are the same every time."""

import io
import json
import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from fuzzing import CELLS, EXAMPLES, PLAIN, damage, explore
from hypothesis import strategies as st
from pictures import encode
from PIL import Image
from safetensors.torch import load_file, save_file
from segmenters import write_model

import rca
from rca.core.files import read_json, read_mask, read_photograph
from rca.core.tensors import read_about
from rca.data.formats.dataset import build_dataset_settings, list_dataset
from rca.evaluation.scoring import read_classes
from rca.params.read import read_params
from rca.prediction.inputs import read_image, read_size

ROOT = Path(__file__).parents[2]
PRESET = (ROOT / "workflow/presets/shapes.yaml").read_bytes()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def list_keys(data: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*path, key)
            yield from list_keys(value, (*path, key))


@EXAMPLES
def test_params(place: Path, examples: int) -> None:
    params = yaml.safe_load(PRESET)

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        changed = yaml.safe_load(PRESET)
        for keys in draw(st.lists(st.sampled_from([*list_keys(params)]), min_size=1, max_size=3)):
            parent = changed
            for key in keys[:-1]:
                parent = parent.get(key) if isinstance(parent, dict) else None
            if isinstance(parent, dict):
                parent[keys[-1]] = draw(PLAIN)
        return yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")

    path = place / "params.yaml"
    explore(lambda: read_params(path), path.write_bytes, change() | damage(PRESET) | st.binary(max_size=99), examples)


@EXAMPLES
def test_json(place: Path, examples: int) -> None:
    path = place / "x.json"
    good = json.dumps({"a": [1, 2.5, None, "ü"], "b": {"c": True}}).encode()
    explore(lambda: read_json(path), path.write_bytes, damage(good) | st.binary(max_size=99), examples)


@EXAMPLES
def test_tables_of_tags(place: Path, examples: int) -> None:
    (place / "images").mkdir()
    Image.new("RGB", (20, 20)).save(place / "images/a.png")
    about = build_dataset_settings({"name": "x", "format": "folder"}, "params.yaml")
    good = b"id,tags,split\na,cat;dog,train\nb/c,cat,val\n"
    rows = st.lists(st.lists(CELLS, max_size=4), max_size=6).map(
        lambda lines: "\n".join(["id,tags", *(",".join(cells) for cells in lines)]).encode("utf-8", "surrogatepass")
    )
    inputs = damage(good) | rows | st.binary(max_size=99)
    explore(lambda: list_dataset(place, about), (place / "tags.csv").write_bytes, inputs, examples)


@EXAMPLES
def test_lists_of_classes(place: Path, examples: int) -> None:
    path = place / "classes.txt"
    inputs = damage("cat\nKühe\n".encode()) | st.lists(CELLS, max_size=9).map(
        lambda names: "\n".join(names).encode("utf-8", "surrogatepass")
    )
    explore(lambda: read_classes(path), path.write_bytes, inputs, examples)


XML = b"""<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;&x;">]><annotation><size><width>9</width></size>
<object><name>cat</name><difficult>0</difficult></object><object><name>&z;</name></object></annotation>"""


@EXAMPLES
def test_annotations_of_voc(place: Path, examples: int) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (place / folder).mkdir(parents=True)
    (place / "classes.txt").write_text("cat\n")
    (place / "ImageSets/Segmentation/train.txt").write_text("a\n")
    data = {"name": "x", "format": "voc", "splits": ["train"], "tags": "annotations"}
    about = build_dataset_settings(data, "params.yaml")
    inputs = damage(XML) | st.binary(max_size=99)
    explore(lambda: list_dataset(place, about), (place / "Annotations/a.xml").write_bytes, inputs, examples)


@EXAMPLES
def test_descriptions_of_models(place: Path, examples: int) -> None:
    path = write_model(place / "m.safetensors")
    tensors = load_file(path)
    good = json.dumps(read_about(path, "train_seg"))
    fields = sorted(json.loads(good))

    @st.composite
    def change(draw: st.DrawFn) -> str:
        about = json.loads(good)
        for key in draw(st.lists(st.sampled_from(fields) | st.text(max_size=5), min_size=1, max_size=2)):
            about[key] = draw(PLAIN)
        return json.dumps(about)

    texts = change() | damage(good.encode()).map(lambda data: data.decode(errors="replace"))
    explore(lambda: rca.load(path), lambda text: save_file(tensors, path, {"about": text}), texts, examples)


@EXAMPLES
def test_files_of_models(place: Path, examples: int) -> None:
    path = write_model(place / "m.safetensors")
    whole = path.read_bytes()
    head = 8 + struct.unpack("<Q", whole[:8])[0]
    # Hypothesis keeps its inputs: the megabyte of weights is added as a file is written.
    inputs = st.tuples(damage(whole[:head]), st.just(whole[head:])) | st.tuples(st.binary(max_size=99), st.just(b""))
    explore(lambda: rca.load(path), lambda parts: path.write_bytes(b"".join(parts)), inputs, examples)


def write_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


PICTURES = {form: encode(form) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")} | {
    "EXIF": write_exif()
}


@EXAMPLES
@pytest.mark.parametrize("form", PICTURES)
def test_pictures(place: Path, form: str, examples: int) -> None:
    path = place / "picture"

    head = damage(PICTURES[form][:200]).map(lambda data: data + PICTURES[form][200:])
    for read in (read_size, read_image, read_photograph, read_mask):
        explore(partial(read, path), path.write_bytes, head | damage(PICTURES[form]), examples // 4)
    assert os.listdir(place) == ["picture"]
