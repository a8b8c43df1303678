"""Tags as CVAT and Label Studio export them: the same dataset as from a table, and the same faults."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.core.plain_xml import MOST_ELEMENTS, MOST_LEVELS, read_xml
from rca.data.checking.examination import Examination
from rca.data.formats.dataset import examine_dataset, list_dataset
from rca.data.formats.files import index_pictures
from rca.data.formats.folder import FolderSettings
from rca.data.formats.tag_exports import find_name
from rca.data.formats.voc import read_objects

SETTINGS = FolderSettings(name="mine", format="folder")
TAGS = {"cow_1": ("cow", "grass"), "trip--day2": ("sheep",), "both": ("cow",)}
FILES = {"cow_1": "cow_1.jpg", "trip--day2": "trip/day2.png", "both": "both.JPG"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, file in enumerate((*FILES.values(), "idle.jpg")):
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (23, 37, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


def write_cvat(root: Path, images: str, head: str = "") -> None:
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0"?>{head}<annotations><version>1.1</version>{images}</annotations>'
    )


def image(name: str, *tags: str, more: str = "", subset: str = "") -> str:
    elements = "".join(f'<tag label="{tag}" source="manual"></tag>' for tag in tags)
    subset = subset and f' subset="{subset}"'
    return f'<image id="1" name="{name}"{subset} width="37" height="23">{elements}{more}</image>'


def bring_cvat(root: Path) -> None:
    write_cvat(root, "".join(image(FILES[name], *tags) for name, tags in TAGS.items()) + image("idle.jpg"))


def choose(*tags: str, **more: Any) -> dict[str, Any]:
    value = {"choices": list(tags)}
    return {"result": [{"from_name": "choice", "to_name": "image", "type": "choices", "value": value}], **more}


def task(file: str, *annotations: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": file}, "annotations": list(annotations), **more}


def bring_tasks(root: Path) -> None:
    tasks = [task(f"/data/upload/3/0a1b2c3d-{Path(FILES[name]).name}", choose(*tags)) for name, tags in TAGS.items()]
    tasks[1] = task(
        "/data/local-files/?d=shot/images/trip/day2.png", choose("sheep"), choose("cow", was_cancelled=True)
    )
    (root / "project-3-at-2024-05-01-12-00-abcdef.json").write_text(json.dumps([*tasks, task("idle.jpg")]))


def bring_minimal(root: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "image": f"https://host/x/{Path(FILES[name]).name}?v=2",
            "id": 1,
            "choice": {"choices": list(tags)},
            "annotator": 1,
        }
        for name, tags in TAGS.items()
    ]
    rows[1]["choice"] = "sheep"  # one choice is a text
    rows[1]["image"] = "s3://bucket/images/trip%2Fday2.png"
    idle = {"image": "idle.jpg", "id": 4, "annotator": 1, "created_at": "2024-05-01T12:00:00Z", "lead_time": 1.5}
    (root / "tags.json").write_text(json.dumps([*rows, idle]))


BRING: dict[str, Callable[[Path], None]] = {"CVAT": bring_cvat, "JSON": bring_tasks, "JSON-MIN": bring_minimal}


def tell(examination: Examination, kind: str) -> list[str]:
    return [fault.sentence for fault in examination.faults if fault.kind == kind]


@pytest.mark.parametrize("tool", BRING)
def test_an_export_gives_the_dataset_of_the_same_table(root: Path, tool: str) -> None:
    lines = [f"{FILES[name]},{';'.join(tags)}" for name, tags in TAGS.items()]
    (root / "tags.csv").write_text("\n".join(["id,tags", *lines]))
    expected = list_dataset(root, SETTINGS)
    (root / "tags.csv").unlink()
    BRING[tool](root)
    found = list_dataset(root, SETTINGS)
    assert found.entries == expected.entries
    assert {entry.id: entry.tags for entry in found.entries} == TAGS
    assert found.classes == expected.classes == ("cow", "grass", "sheep")
    assert any("1 images (idle.jpg, ...) have no tag and are left out" in note for note in found.notes)
    assert not examine_dataset(root, SETTINGS.model_copy(update={"splits": ("train",)})).errors


@pytest.mark.parametrize("tool", BRING)
def test_a_table_goes_before_an_export(root: Path, tool: str) -> None:
    BRING[tool](root)
    (root / "tags.csv").write_text("id,tags\ncow_1,pig\n")
    found = list_dataset(root, SETTINGS)
    assert found.classes == ("pig",)
    assert any("is not read, since there is tags.csv" in note for note in found.notes)


def test_two_exports_are_refused(root: Path) -> None:
    bring_cvat(root)
    bring_minimal(root)
    with pytest.raises(UserError, match=r"holds annotations\.xml and tags\.json: keep the one with the tags"):
        list_dataset(root, SETTINGS)


def test_shapes_give_tags_and_are_counted(root: Path) -> None:
    write_cvat(root, image("cow_1.jpg", "grass", more='<box label="cow" xtl="1"/><polygon label="cow" points="1,2"/>'))
    found = list_dataset(root, SETTINGS)
    assert found.entries[0].tags == ("cow", "grass")
    assert any("2 shapes are not drawn; their labels are tags" in note for note in found.notes)
    (root / "annotations.xml").unlink()
    boxes = [{"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["cow"]}}]
    (root / "tags.json").write_text(json.dumps([task("cow_1.jpg", {"result": boxes})]))
    assert list_dataset(root, SETTINGS).entries[0].tags == ("cow",)
    (root / "tags.json").write_text(json.dumps([{"image": "cow_1.jpg", "label": [{"x": 1, "polygonlabels": ["pig"]}]}]))
    assert list_dataset(root, SETTINGS).entries[0].tags == ("pig",)


def test_a_subset_is_a_split(root: Path) -> None:
    images = [image("cow_1.jpg", "cow", subset="train"), image("both.JPG", "cow", subset="val")]
    write_cvat(root, "".join([*images, image("trip/day2.png", "cow", subset="default")]))
    splits = {entry.id: entry.splits for entry in list_dataset(root, SETTINGS).entries}
    assert splits["cow_1"] == ("train",)
    assert splits["both"] == ("val",)
    assert splits["trip--day2"] in {("train",), ("val",)}  # by chance, as a row without one


@pytest.mark.parametrize(
    ("bring", "kind", "sentence"),
    [
        (lambda root: write_cvat(root, image("cow_1.jpg", "cow", "")), "bad annotation", "cow_1.jpg: tag has no label"),
        (
            lambda root: write_cvat(root, image("cow_1.jpg", "cow") + image("", "cow")),
            "stray annotation",
            "its entry 2",
        ),
        (
            lambda root: write_cvat(root, image("gone.jpg", "cow")),
            "missing photograph",
            "images/gone.jpg does not exist",
        ),
        (lambda root: write_cvat(root, image("cow_1.jpg", "cow") * 2), "repeated id", "the image cow_1 twice"),
        *(
            (lambda root, tasks=tasks: (root / "tags.json").write_text(json.dumps(tasks)), "bad annotation", sentence)
            for tasks, sentence in [
                ([task("cow_1.jpg", choose("cow"), choose("sheep"))], "its annotations differ (cow and sheep)"),
                ([task("cow_1.jpg", {"result": 3})], "has no list of results"),
                ([task("cow_1.jpg", {"result": [3]})], "a result of it has no value"),
                ([task("cow_1.jpg", choose("cow", ""))], "its choices are no list of names"),
                (
                    [{"image": "cow_1.jpg", "choice": "cow"}, {"image": "cow_1.jpg", "choice": "pig"}],
                    "annotations differ",
                ),
            ]
        ),
    ],
)
def test_what_is_wrong_with_one_image_is_a_fault_of_it(
    root: Path, bring: Callable[[Path], None], kind: str, sentence: str
) -> None:
    bring(root)
    assert any(sentence in told for told in tell(examine_dataset(root, SETTINGS), kind))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("annotations.xml", "<annotations>", "is not valid XML"),
        ("annotations.xml", "", "is not valid XML"),
        ("annotations.xml", "<annotation/>", "its root is 'annotation', not 'annotations'"),
        ("annotations.xml", "<annotations><track/></annotations>", 'as "CVAT for images 1.1"'),
        ("annotations.xml", "<annotations/>", "gives no image a tag"),
        ("annotations.xml", '<!DOCTYPE a [<!ENTITY x "y">]><annotations/>', "it declares entities"),
        ("annotations.xml", '<!DOCTYPE a SYSTEM "/etc/passwd"><annotations/>', "gives no image a tag"),
        ("annotations.xml", '<?xml version="1.0" encoding="klingon"?><annotations/>', "is not valid XML"),
        ("tags.json", "{", "is not valid JSON"),
        ("tags.json", "[" * 100_000, "nests too deeply"),
        ("tags.json", "{}", "is no list of tasks"),
        ("tags.json", "[3]", "is no list of tasks"),
        ("tags.json", "[]", "holds no field with choices"),
        ("tags.json", '[{"image": "a.jpg", "mood": "x", "place": "y"}]', "several fields of text (mood, place)"),
    ],
)
def test_a_broken_export_is_refused_in_a_sentence(root: Path, name: str, text: str, sentence: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(UserError) as caught:
        list_dataset(root, SETTINGS)
    assert name in str(caught.value)
    assert sentence in str(caught.value)
    assert len(str(caught.value).replace(str(root), "")) < 240


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("cow_1.jpg", "cow_1.jpg"),
        ("trip/day2.png", "trip/day2.png"),
        ("day2.png", "day2.png"),  # no photograph of that path: missing
        (r"C:\photos\images\trip\day2.png", "trip/day2.png"),
        ("/data/upload/1/00ff00ff-cow_1.jpg", "cow_1.jpg"),
        ("/data/local-files/?d=a/trip/day2.png", "trip/day2.png"),
        ("gs://bucket/trip/day2.png?x=1", "trip/day2.png"),
        ("both.jpg", "both.JPG"),
        ("../../etc/passwd", "passwd"),
        ("deadbeef-x.jpg", "deadbeef-x.jpg"),
        ("..", ""),
    ],
)
def test_a_photograph_is_found_by_the_tools_name(root: Path, written: str, found: str) -> None:
    assert find_name(written, index_pictures(root / "images")) == found


def test_an_entity_bomb_is_refused_at_once(root: Path) -> None:
    lines = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY x0 "ha">{lines}]>'
    tracemalloc.start()
    write_cvat(root, image("&x11;", "cow"), bomb)
    with pytest.raises(UserError, match="it declares entities"):
        list_dataset(root, SETTINGS)
    (root / "a.xml").write_text(f"{bomb}<annotation><object><name>&x11;</name></object></annotation>")
    with pytest.raises(UserError, match="it declares entities"):
        read_objects(root / "a.xml")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_a_large_export_is_not_held_in_memory(root: Path) -> None:
    """60 MB, of which only a chunk is held while it is read."""
    with open(root / "annotations.xml", "w") as file:
        file.write("<annotations>")
        for number in range(20_000):
            file.write(image(f"{number}.jpg", "cow", more=" " * 3000))
        file.write("</annotations>")
    tracemalloc.start()
    assert sum(1 for _ in read_xml(root / "annotations.xml")) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<a>" + "<b>" * (MOST_LEVELS + 1), "more than 32 levels"),
        ("<a><b>" + "<c/>" * MOST_ELEMENTS, "one element has more than"),
    ],
)
def test_xml_is_bounded(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        list(read_xml(tmp_path / "x.xml"))
