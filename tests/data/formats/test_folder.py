from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.data.base import SourceSettings
from rca.data.formats.dataset import build_dataset_settings, list_dataset, read_dataset
from rca.data.formats.folder import FolderSettings
from rca.data.manifest import Manifest, summarise

SETTINGS = FolderSettings(name="mine", format="folder")
TABLE = """id,tags,split
cow_1,cow; grass ,train
trip/day2.png,sheep,val
trip/day3,,train
both,grass;cow,val;train
"""


def save(path: Path, seed: int = 0, height: int = 23, width: int = 37) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def save_map(path: Path, value: int, height: int = 23, width: int = 37) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), value, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for number, name in enumerate(("cow_1.jpg", "trip/day2.png", "trip/day3.JPG", "both.jpeg")):
        save(root / "images" / name, number)
    (root / "tags.csv").write_text(TABLE)
    return root


def describe(manifest: Manifest) -> dict[str, tuple]:
    return {record.id: (record.image, record.tags, record.splits) for record in manifest.images}


def test_a_folder_and_a_table_are_a_dataset(root: Path) -> None:
    manifest = read_dataset(root, SETTINGS)
    assert manifest.classes == ("cow", "grass", "sheep")
    assert describe(manifest) == {
        "both": ("images/both.jpeg", (0, 1), ("train", "val")),
        "cow_1": ("images/cow_1.jpg", (0, 1), ("train",)),
        "trip--day2": ("images/trip/day2.png", (2,), ("val",)),
        "trip--day3": ("images/trip/day3.JPG", (), ("train",)),
    }
    assert all(record.mask is None and record.saliency is None for record in manifest.images)


def test_classes_may_be_given_in_their_order(root: Path) -> None:
    (root / "classes.txt").write_text("sheep\ncow\nhorse\ngrass\n")
    manifest = read_dataset(root, SETTINGS)
    assert manifest.classes == ("sheep", "cow", "horse", "grass")
    assert [record.tags for record in manifest.images] == [(1, 3), (1, 3), (0,), ()]
    (root / "classes.txt").write_text("cow\ngrass\n")
    with pytest.raises(UserError, match=r"day2\.png has the tag 'sheep', which is no class"):
        read_dataset(root, SETTINGS)


def test_any_image_may_have_a_mask_and_a_saliency_map(root: Path) -> None:
    save_map(root / "masks/trip/day2.png", 3)
    save_map(root / "masks/cow_1.png", 2)
    save_map(root / "saliency/both.png", 200)
    manifest = read_dataset(root, SETTINGS)
    found = {record.id: (record.mask, record.saliency) for record in manifest.images}
    assert found["trip--day2"] == ("masks/trip/day2.png", None)
    assert found["both"] == (None, "saliency/both.png")
    assert describe(manifest)["cow_1"][1] == (0, 1)  # the table's tags, whatever the mask holds
    save_map(root / "masks/cow_1.png", 4)
    with pytest.raises(UserError, match=r"masks/cow_1\.png holds the label 4, but there are 3 classes"):
        read_dataset(root, SETTINGS)


def test_a_table_from_a_spreadsheet_is_read(root: Path) -> None:
    (root / "tags.csv").write_bytes(b"\xef\xbb\xbf" + b'"id","tags"\r\n"cow_1","cow;grass"\r\n')
    settings = SETTINGS.model_copy(update={"splits": ("all",)})
    assert describe(read_dataset(root, settings)) == {"cow_1": ("images/cow_1.jpg", (0, 1), ("all",))}


def test_left_out_images_are_reported(root: Path) -> None:
    save(root / "images/trip/new.jpg")
    save(root / "images/notes.gif")
    settings, notes = SETTINGS.model_copy(update={"splits": ("train",)}), []
    found = read_dataset(root, settings, report=notes.append)
    assert [(record.id, record.splits) for record in found.images] == [
        ("both", ("train",)),
        ("cow_1", ("train",)),
        ("trip--day3", ("train",)),
    ]
    assert notes == [
        "1 image of no split in dataset.splits, but of val, left out.",
        f"1 photographs ({root}/images/trip/new.jpg, ...) are not in tags.csv and are left out.",
    ]


FAULTS: dict[str, tuple[str | bytes | None, str]] = {
    "missing": (None, "tags.csv does not exist"),
    "empty": ("id,tags\n", "tags.csv is empty: give it the columns id and tags"),
    "Latin-1": ("id,tags\ncow_1,caf\xe9\n".encode("latin-1"), "tags.csv is not UTF-8"),
    "other columns": ("who,what\ncow_1,cow\n", "tags.csv lacks the column id (it has who, what)"),
    "no mark": ("id,cow,sheep\ncow_1,1,2\n", "line 2, has '2' in the column sheep: write 1 where"),
    "counts": ("id,cow,sheep\ncow_1,3,0\n", "line 2, has '3' in the column cow: write 1 where"),
    "no header": ("cow_1.jpg,cow\n", "tags.csv is empty"),
    "no tags": ("id\ncow_1\n", "tags.csv lacks the column tags"),
    "too few cells": ("id,tags,split\ncow_1,cow,val\nboth,cow\n", "tags.csv, line 3, has another number of cells"),
    "too many cells": ("id,tags\ncow_1,cow,grass\n", "tags.csv, line 2, has another number of cells"),
    "open quote": ('id,tags\ncow_1,"cow\n', "tags.csv is not valid CSV"),
    "twice": ("id,tags,split\ncow_1,cow,train;val\ncow_1,grass,val\n", "names the image cow_1 twice"),
    "twice with its suffix": (
        "id,tags,split\ncow_1,cow,train;val\ncow_1.jpg,grass,val\n",
        "names the image cow_1 twice",
    ),
    "elsewhere": ("id,tags\n../secret,cow\n", "line 2: '../secret' is no file below images"),
    "absolute": ("id,tags\n/etc/passwd,cow\n", "line 2: '/etc/passwd' is no file below images"),
    "no id": ("id,tags\n ,cow\n", "line 2: '' is no file below images"),
    "no photograph": ("id,tags,split\ncow_2,cow,train;val\n", "images/cow_2.jpg does not exist"),
    "no class": ("id,tags\ncow_1,\n", "names no class"),
    "no image in a split": ("id,tags,split\ncow_1,cow,train\n", "No image belongs to the split val"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_in_a_sentence(root: Path, fault: str) -> None:
    content, message = FAULTS[fault]
    (root / "tags.csv").unlink()
    if content is not None:
        (root / "tags.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        read_dataset(root, SETTINGS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- splits by chance


def write_many(root: Path, count: int, table: Callable[[int], str]) -> None:
    lines = [f"{number:04d},{table(number)}" for number in range(count)]
    root.mkdir(exist_ok=True)
    (root / "tags.csv").write_text("id,tags\n" + "\n".join(lines) + "\n")


def list_splits(root: Path, **changes: object) -> dict[str, tuple[str, ...]]:
    listing = list_dataset(root, SETTINGS.model_copy(update=changes))
    return {entry.id: entry.splits for entry in listing.entries}


def test_a_new_image_never_moves_another(tmp_path: Path) -> None:
    write_many(tmp_path, 400, lambda number: "cow" if number % 3 else "sheep")
    before = list_splits(tmp_path)
    write_many(tmp_path, 700, lambda number: "cow" if number % 5 else "grass;sheep")
    after = list_splits(tmp_path)
    assert {name: after[name] for name in before} == before


def test_every_class_is_divided_in_the_same_proportion(tmp_path: Path) -> None:
    write_many(tmp_path, 6000, lambda number: ("cow", "sheep;cow", "grass", "sheep")[number % 4])
    for share in (0.1, 0.35):
        splits = list_splits(tmp_path, held_out=share)
        for remainder in range(4):
            chosen = [splits[f"{number:04d}"] for number in range(remainder, 6000, 4)]
            assert set(chosen) == {("train",), ("val",)}
            # Four standard deviations of chance.
            assert abs(chosen.count(("val",)) / 1500 - share) < 4 * (share * (1 - share) / 1500) ** 0.5


def test_another_seed_draws_other_splits(tmp_path: Path) -> None:
    write_many(tmp_path, 400, lambda number: "cow")
    first, second = list_splits(tmp_path), list_splits(tmp_path, seed=1)
    assert first != second
    assert first == list_splits(tmp_path)
    assert set(list_splits(tmp_path, splits=("all",)).values()) == {("all",)}


def test_rows_with_a_split_keep_it_and_the_others_draw(tmp_path: Path) -> None:
    tmp_path.joinpath("tags.csv").write_text(
        "id,tags,split\n" + "".join(f"{number:04d},cow,{'val' if number < 50 else ''}\n" for number in range(300))
    )
    splits = list_splits(tmp_path)
    assert all(splits[f"{number:04d}"] == ("val",) for number in range(50))
    assert {splits[f"{number:04d}"] for number in range(50, 300)} == {("train",), ("val",)}


def test_a_seed_that_splits_badly_is_reported(tmp_path: Path) -> None:
    write_many(tmp_path, 60, lambda number: ("cow", "sheep", "grass")[number % 3])

    def listen(seed: int) -> list[str]:
        settings = SETTINGS.model_copy(update={"seed": seed})
        return [note for note in list_dataset(tmp_path, settings).notes if "dataset.seed" in note]

    told = {seed: notes[0] for seed in range(12) if (notes := listen(seed))}
    assert told
    for note in told.values():
        assert listen(int(note.partition("dataset.seed ")[2].split()[0])) == []


# --- further sources


@pytest.fixture
def with_web(root: Path) -> Path:
    for number in range(12):
        save(root / f"web/images/w{number}.jpg", number)
    rows = "".join(f"w{number},{'cow' if number % 2 else 'sheep'}\n" for number in range(12))
    (root / "web/tags.csv").write_text("id,tags\n" + rows)
    save_map(root / "web/masks/w3.png", 1)
    return root


def use_web(**settings: object) -> FolderSettings:
    return SETTINGS.model_copy(update={"sources": {"web": SourceSettings(**settings)}})


def test_a_source_gives_images_without_split_and_mask(with_web: Path) -> None:
    manifest = read_dataset(with_web, use_web(weight=0.5))
    found = manifest.select_sources(("web",))
    assert [record.id for record in found] == sorted(f"web.w{number}" for number in range(12))
    assert {(record.splits, record.mask, record.weight) for record in found} == {((), None, 0.5)}
    assert found[1].image == "web/images/w1.jpg"
    assert manifest.classes == ("cow", "grass", "sheep")
    assert {record.id: record.tags for record in found}["web.w4"] == (2,)
    assert [record.source for record in manifest.select("train")] == ["main"] * 3
    assert len(manifest.select_sources(("main", "web"))) == len(manifest.images) == 16
    assert summarise(manifest)["sources"] == {"web": 12}
    with pytest.raises(UserError, match="no source webb: the dataset's sources are main, web"):
        manifest.select_sources(("webb",))


def test_a_limit_takes_always_the_same_images(with_web: Path) -> None:
    notes: list[str] = []
    taken = read_dataset(with_web, use_web(limit=5), report=notes.append).select_sources(("web",))
    assert notes[-1] == "source web: 5 of 12 images are taken, as its limit says."
    fewer = read_dataset(with_web, use_web(limit=3)).select_sources(("web",))
    assert {record.id for record in fewer} < {record.id for record in taken}
    assert [record.id for record in taken] == sorted(record.id for record in taken)
    assert len(taken) == 5


def test_a_bad_source_is_named(with_web: Path) -> None:
    with pytest.raises(UserError, match=r"other does not exist: put it there, or correct dataset\.sources\.web\.path"):
        read_dataset(with_web, use_web(path="other"))
    (with_web / "web/tags.csv").write_text("id,tags\nw1,horse\n")
    with pytest.raises(UserError, match=r"web/images/w1\.jpg has the tag 'horse', which is no class"):
        read_dataset(with_web, use_web())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "mine", "format": "zip"}, "dataset"),
        ({"name": "mine"}, "dataset"),
        ({"name": "mine", "format": "folder", "held_out": 1}, "dataset.held_out is 1: "),
        ({"name": "mine", "format": "folder", "masks": ["x"]}, "dataset.masks is an unknown key"),
        ({"name": "mine", "format": "voc"}, "dataset.splits is missing"),
        ({"name": "Mine", "format": "folder"}, "dataset.name is"),
        ({"name": "mine", "format": "folder", "sources": {"web": {"weight": 0}}}, "sources.web.weight is 0: "),
    ],
)
def test_settings_are_checked_by_their_format(section: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_dataset_settings(section, "params.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
