"""The forms in which people bring lists, names, tables, suffixes and colours."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rca.core.errors import UserError
from rca.core.files import PALETTE, write_mask
from rca.core.images import SUFFIXES
from rca.data.checking.agreement import find_order
from rca.data.checking.examination import Examination
from rca.data.formats.colours import read_label_map
from rca.data.formats.dataset import examine_dataset, list_dataset
from rca.data.formats.files import read_list, read_names
from rca.data.formats.folder import FolderSettings
from rca.data.formats.tables import read_table
from rca.data.formats.voc import VocSettings
from rca.data.names import find_parts, find_role, find_similar, take_objects

FOLDER = FolderSettings(name="mine", format="folder", splits=("train", "val"))
VOC = VocSettings(name="tiny", format="voc", splits=("train", "val"))
HEIGHT, WIDTH = 23, 37


def save(path: Path, seed: int = 0, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)


def save_mask(path: Path, *labels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, label in enumerate(labels):
        mask[3 + 4 * place : 6 + 4 * place] = label
    Image.fromarray(mask).save(path)


def tell(examination: Examination, kind: str) -> list[str]:
    return [fault.sentence for fault in examination.faults if fault.kind == kind]


# --- names


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "background") for name in ("_background_", "__background__", "background", "Background", "BG")),
        *((name, "undecided") for name in ("__ignore__", "ignore", "void", "Unlabelled", "ignored")),
        *((name, "nothing") for name in ("nan", "None", "n/a", "", " ", "NaN", "null", "#REF!", "#Name?")),
        *((name, "object") for name in ("cat", "backgrounds of sky", "avoid", "nana", "none of these")),
    ],
)
def test_one_rule_tells_classes_from_what_is_none(name: str, role: str) -> None:
    assert find_role(name) == role


@pytest.mark.parametrize(
    ("names", "objects"),
    [
        (("__ignore__", "_background_", "cat", "dog"), ("cat", "dog")),
        (("background", "cat", "void"), ("cat",)),
        (("void", "cat"), ("cat",)),
        (("cat", "background"), ("cat", "background")),  # label 2: an error of the check
        (("background", "void", "cat"), ("void", "cat")),  # label 1 would shift
        (("void",), ()),
    ],
)
def test_names_are_left_out_only_where_no_label_shifts(names: tuple[str, ...], objects: tuple[str, ...]) -> None:
    assert take_objects(names).objects == objects


def test_names_made_of_others_and_mistyped_ones() -> None:
    assert find_parts("cow, grass", ("cow", "grass", "cow, grass")) == ("cow", "grass")
    assert find_parts("Cow and grass", ("cow", "grass")) == ("cow", "grass")
    assert find_parts("dining table", ("dining", "cow")) == ()
    for name, meant in (("catt", "cat"), ("ct", "cat"), ("cta", "cat"), ("aeroplne", "aeroplane"), ("cow", None)):
        assert find_similar(name, ("cat", "aeroplane")) == meant


# --- lists


@pytest.mark.parametrize(
    "text",
    [
        "a1\r\nb2\r\n",
        "\ufeffa1\n\n  b2\n",
        "/JPEGImages/a1.jpg /SegmentationClass/a1.png\n/JPEGImages/b2.jpg /SegmentationClass/b2.png\n",
        "a1  1\nb2 -1\n",
        "VOCdevkit/VOC2012/JPEGImages/a1.jpg\nVOCdevkit/VOC2012/JPEGImages/b2.JPG",
        "JPEGImages\\a1.jpg\nJPEGImages\\b2.jpg",
    ],
)
def test_lists_of_other_codes_are_read(make_voc: Callable[..., Path], text: str) -> None:
    root = make_voc()
    (root / "ImageSets/Segmentation/train.txt").write_bytes(text.encode())
    found = examine_dataset(root, VOC)
    assert found.errors == ()
    assert [record.id for record in found.manifest.select("train")] == ["a1", "b2"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a1\nthe photograph of a dog\n", "line 2: 'the photograph of a dog' is no name"),
        ("x/a1\ny/a1\n", "have one name"),
    ],
)
def test_one_error_names_a_bad_list(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=told):
        read_list(tmp_path / "list.txt")


# --- tables


TABLES = {
    "other headers": "filename,label\np0.jpg,cow\np1.jpg,sheep\n",
    "headers as written by hand": " Image ID , Tags \np0,cow\np1,sheep\n",
    "a column a class": "filename, cow, sheep\np0.jpg,1,0\np1.jpg,0,1\n",
    "a column a class with words": "image,cow,sheep\np0,True,False\np1,false,true\n",
    "semicolons": "id;tags\np0;cow\np1;sheep\n",
    "tabs": "id\ttags\np0\tcow\np1\tsheep\n",
    "empty cells": "id,tags\np0,cow;nan\np1,sheep;None\n,\n",
    "blank lines and a mark": "\ufeffid,tags\r\n\r\np0,cow\r\np1,sheep\r\n",
    "Excel's separator": "sep=;\r\nid;tags\r\np0;cow\r\np1;sheep\r\n",
    "empty cells behind": "id,tags\np0,cow,,\np1,sheep,\n",
    "decimal commas": "filename;cow;sheep\np0.jpg;1,0;0,0\np1.jpg;0;1,00\n",
    "decimal commas beside": "filename;label;score\np0.jpg;cow;0,93\np1.jpg;sheep;0,5\n",
    "numbers beside names": "id,label,class\np0,1,cow\np1,2,sheep\n",
    "numbered lines": "id,image,label\n1,p0.jpg,cow\n2,p1.jpg,sheep\n",
    "an index without a name": ",filename,label\n0,p0.jpg,cow\n1,p1.jpg,sheep\n",
    "counts behind tags": "id,tags\np0,cow:3;sheep:0\np1,sheep = 1\n",
    "Label Studio's": "annotation_id,choice,id,image\n1,cow,7,/data/upload/1/0a1b2c3d-p0.jpg\n"
    '2,"{""choices"":[""sheep""]}",8,https://host/p1.jpg?x=1\n',
    "paths of other machines": "path,label\n/home/me/images/p0.jpg,cow\nC:\\x\\images\\p1.jpg,sheep\n",
    "the folder's name": "path,label\nimages/p0.jpg,cow\nimages/p1.jpg,sheep\n",
    "Windows' paths": "id,tags\n.\\p0.JPG,cow\np1,sheep\n",
}


@pytest.mark.parametrize("form", TABLES)
def test_tables_are_read_as_people_write_them(tmp_path: Path, form: str) -> None:
    for number in (0, 1):
        save(tmp_path / f"images/p{number}.jpg", number)
    (tmp_path / "tags.csv").write_bytes(TABLES[form].encode())
    listing = list_dataset(tmp_path, FOLDER)
    assert listing.classes == ("cow", "sheep")
    assert {entry.id: (entry.image, entry.tags) for entry in listing.entries} == {
        "p0": ("images/p0.jpg", ("cow",)),
        "p1": ("images/p1.jpg", ("sheep",)),
    }
    if form == "empty cells":
        assert any("'nan' is no class and left out 1 times" in note for note in listing.notes)


@pytest.mark.parametrize("cell", ['"cow, grass"', "cow|grass", "cow;grass", "cow; grass ;"])
def test_tags_are_separated_as_the_column_shows(tmp_path: Path, cell: str) -> None:
    (tmp_path / "tags.csv").write_text(f"id,tags\np0,{cell}\np1,cow\n")
    assert list_dataset(tmp_path, FOLDER).classes == ("cow", "grass")


@pytest.mark.parametrize("cell", ["cow grass", '"cow, grass"', "cow & grass"])
def test_a_class_made_of_others_is_an_error(tmp_path: Path, cell: str) -> None:
    for number in range(3):
        save(tmp_path / f"images/p{number}.jpg", number)
    (tmp_path / "tags.csv").write_text(f"id,tags,split\np0,{cell},train\np1,cow;grass,train\np2,cow,val\n")
    assert (
        "is made of cow, grass: separate the tags by ';'"
        in tell(examine_dataset(tmp_path, FOLDER), "joined classes")[0]
    )


def test_a_mistyped_tag_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    lines = [f"p{number:02d},{'catt' if number == 7 else 'cat' if number % 3 else 'dog'}" for number in range(50)]
    for number in range(50):
        save(tmp_path / f"images/p{number:02d}.png", number)
    (tmp_path / "tags.csv").write_text("\n".join(["id,tags", *lines]))
    cats = sum(line.endswith(",cat") for line in lines)
    found = tell(examine_dataset(tmp_path, FOLDER), "rare class")
    assert len(found) == 1
    assert f"catt: 1 image; did you mean cat ({cats} images)?" in found[0]


@pytest.mark.parametrize("place", ["", "images/"])
@pytest.mark.parametrize("by_split", [False, True])
def test_a_folder_of_class_folders_is_a_dataset(tmp_path: Path, place: str, by_split: bool) -> None:
    for number in range(8):
        split = ("train/" if number < 5 else "val/") if by_split else ""
        save(tmp_path / f"{place}{split}{('cat', 'dog')[number % 2]}/{number}.jpg", number)
    listing = list_dataset(tmp_path, FOLDER)
    assert listing.classes == ("cat", "dog")
    assert len(listing.entries) == 8
    for entry in listing.entries:
        number = int(entry.id.rpartition("--")[2])
        assert entry.tags == (("cat", "dog")[number % 2],)
        assert (tmp_path / entry.image).is_file()
        if by_split:
            assert entry.splits == (("train",) if number < 5 else ("val",))


def test_loose_photographs_without_a_table_are_an_error(tmp_path: Path) -> None:
    save(tmp_path / "images/cat/1.jpg")
    save(tmp_path / "images/2.jpg")
    with pytest.raises(UserError, match=r"tags\.csv does not exist, and .*2\.jpg lies in no class folder"):
        list_dataset(tmp_path, FOLDER)


@pytest.mark.parametrize("place", ["", "images/"])
def test_folders_named_like_splits_are_no_classes(tmp_path: Path, place: str) -> None:
    for split in ("train", "Valid", "test"):
        save(tmp_path / f"{place}{split}/1.jpg")
    with pytest.raises(
        UserError, match=r"the folders Valid, test, train are named like splits, not classes: name them"
    ):
        list_dataset(tmp_path, FOLDER)
    save(tmp_path / f"{place}plane/1.jpg")  # then a train may be a class
    assert list_dataset(tmp_path, FOLDER).classes == ("Valid", "plane", "test", "train")


def test_images_of_other_splits_are_named_with_them(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("id,tags,split\na,cow,train\nb,cow,Validation\nc,cow,test\n")
    notes = list_dataset(tmp_path, FOLDER).notes
    assert "2 images of no split in dataset.splits, but of Validation, test, left out." in notes


def test_what_systems_leave_in_folders_is_not_read(tmp_path: Path) -> None:
    for folder in ("images", "masks", "__MACOSX/images", "images/__MACOSX"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("._p0.jpg", "._p0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (tmp_path / folder / name).write_bytes(b"no picture")
    save(tmp_path / "images/p0.jpg")
    save(tmp_path / "images/__MACOSX/p0.jpg")
    save_mask(tmp_path / "masks/p0.png", 1)
    (tmp_path / "tags.csv").write_text("id,tags,split\np0,cow,train;val\n")
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors == ()
    assert not any("left out" in note for note in found.notes)
    assert [(one.image, one.mask) for one in found.manifest.images] == [("images/p0.jpg", "masks/p0.png")]


# --- names of classes on a list


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("\ufeffcat \r\n\r\n stop sign\r\n", ("cat", "stop sign")),
        ("1 cat\n2 stop sign\n", ("cat", "stop sign")),
        ("0: background\n1: cat\n2: dog\n", ("cat", "dog")),
        ("id,name\n0,_background_\n1,cat\n2,dog\n", ("cat", "dog")),
        ("Pixel Value, Class\n", None),
        ("1\tcat\n2\tdog\n", ("cat", "dog")),
        ("7 up\n8 ball\n", None),  # numbers, but none of labels
        ("1 euro\n2 euro\n", ("1 euro", "2 euro")),
        ("dog, small\ndog, large\n", ("dog, small", "dog, large")),
        ("3 birds\ncat\n", ("3 birds", "cat")),
        ("cat,dog\n", None),
        ("['cat', 'dog']\n", None),
        ("0 cat\n1 dog\n", None),  # label 0 is the background
        ("1 cat\n3 dog\n", None),
        ("name,r,g,b\n1,cat,255,0,0\n2,dog,0,255,0\n", None),
        ("name,r,g,b\ncat,255,0,0\n", None),
        ("cat,255,0,0\ndog,0,255,0\n", None),
    ],
)
def test_a_list_of_classes_may_be_numbered(tmp_path: Path, text: str, classes: tuple[str, ...] | None) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(text.encode())
    if classes is not None:
        assert read_names(path).objects == classes
        return
    with pytest.raises(UserError, match=r"classes\.txt (has one line|numbers its names|is a table).*: (write|number)"):
        read_names(path)


# --- names of masks


@pytest.mark.parametrize("ending", ["_mask", ".jpg", "-seg", "_gt.labels"])
def test_masks_may_have_one_ending_behind_the_names(tmp_path: Path, ending: str) -> None:
    for number in (1, 10):
        save(tmp_path / f"images/p{number}.jpg", number)
        save_mask(tmp_path / f"masks/p{number}{ending}.png", 1)
    (tmp_path / "tags.csv").write_text("id,tags,split\np1,cow,train\np10,cow,val\n")
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors == ()
    assert [one.mask for one in found.manifest.images] == [f"masks/p1{ending}.png", f"masks/p10{ending}.png"]
    assert f"{tmp_path / 'masks'}: masks have the names of their images with {ending!r} behind." in found.notes


@pytest.mark.parametrize("names", [("p10", "p20"), ("p1_mask", "p2_seg"), ("mask_p1", "mask_p2")])
def test_masks_of_other_names_are_one_error(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names, 1):
        save(tmp_path / f"images/p{number}.jpg", number)
        save_mask(tmp_path / f"masks/{name}.png", 1)
    (tmp_path / "tags.csv").write_text("id,tags,split\np1,cow,train\np2,cow,val\n")
    (sentence,) = tell(examine_dataset(tmp_path, FOLDER), "masks of no image")
    assert f"masks: none of 2 masks ({min(names)}.png, ...) has the name of an image: save each mask as PNG" in sentence


@pytest.mark.parametrize("suffix", [".npy", ".gif", ".mat"])
def test_masks_that_are_no_pictures_are_one_error(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "images/p0.jpg")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/.DS_Store").write_bytes(b"x")
    (tmp_path / "tags.csv").write_text("id,tags,split\np0,cow,train;val\n")
    assert examine_dataset(tmp_path, FOLDER).errors == ()
    (tmp_path / f"masks/p0{suffix}").write_bytes(b"x")
    (sentence,) = tell(examine_dataset(tmp_path, FOLDER), "masks of no image")
    assert f"masks holds no picture that is read (p0{suffix}, ...): save each mask as PNG" in sentence


@pytest.mark.parametrize(("column", "told"), [("", True), (",split", False)])
def test_lists_of_splits_beside_a_table_are_named(tmp_path: Path, column: str, told: bool) -> None:
    (tmp_path / "tags.csv").write_text(f"id,tags{column}\na,cow{',train' * bool(column)}\n")
    (tmp_path / "val.txt").write_text("a\n")
    note = f"{tmp_path / 'val.txt'} is not read: give tags.csv a column named split."
    assert (note in list_dataset(tmp_path, FOLDER).notes) == told


@pytest.mark.parametrize("place", ["images/a.json", "via_project.json", "a.json"])
def test_an_annotation_tools_own_json_is_named(tmp_path: Path, place: str) -> None:
    save(tmp_path / "images/a.jpg")
    (tmp_path / place).write_text('{"version": "5.0", "shapes": []}')
    with pytest.raises(UserError, match=rf"tags\.csv does not exist, and .*{place} is not read: export it as COCO"):
        list_dataset(tmp_path, FOLDER)


# --- suffixes


@pytest.mark.parametrize("suffix", [*sorted(SUFFIXES), ".Jpg", ".TIF", ".WebP"])
@pytest.mark.parametrize("is_named", [False, True])
def test_all_suffixes_are_read_in_any_case(tmp_path: Path, suffix: str, is_named: bool) -> None:
    save(tmp_path / f"images/p0{suffix}", format=Image.registered_extensions()[suffix.lower()])
    (tmp_path / "tags.csv").write_text(f"id,tags,split\np0{suffix if is_named else ''},cow,train;val\n")
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors == ()
    assert [(one.id, one.image) for one in found.manifest.images] == [("p0", f"images/p0{suffix}")]


def test_a_photograph_of_another_suffix_is_named(tmp_path: Path) -> None:
    save(tmp_path / "images/p0.webp")
    (tmp_path / "tags.csv").write_text("id,tags,split\np0.jpg,cow,train;val\n")
    found = tell(examine_dataset(tmp_path, FOLDER), "photograph of another name")
    assert "images/p0.jpg does not exist, but p0.webp is there: correct the name" in found[0]


def test_a_name_that_may_be_two_files_is_an_error(tmp_path: Path, make_voc: Callable[..., Path]) -> None:
    save(tmp_path / "images/p0.webp")
    save(tmp_path / "images/p0.jpg")
    (tmp_path / "tags.csv").write_text("id,tags,split\np0,cow,train;val\n")
    found = tell(examine_dataset(tmp_path, FOLDER), "ambiguous name")
    assert "tags.csv, line 2: p0 may be p0.webp or p0.jpg" in found[0]
    (tmp_path / "tags.csv").write_text("id,tags,split\np0.webp,cow,train;val\n")
    assert list_dataset(tmp_path, FOLDER).entries[0].image == "images/p0.webp"
    root = make_voc()
    save(root / "JPEGImages/a1.bmp")
    assert len(tell(examine_dataset(root, VOC), "ambiguous name")) == 1


# --- tags against masks


def write_permuted(root: Path, images: int = 6) -> None:
    """Masks of 1 sheep and 2 cow beside tags without classes.txt, which are sorted."""
    rows = []
    for number in range(images):
        label, tag = ((1, "sheep"), (2, "cow"))[number % 2]
        save(root / f"images/p{number}.jpg", number)
        save_mask(root / f"masks/p{number}.png", label)
        rows.append(f"p{number},{tag},{'val' if number > 3 else 'train'}")
    (root / "tags.csv").write_text("\n".join(["id,tags,split", *rows]))


def test_labels_in_another_order_than_the_tags_are_one_error(tmp_path: Path) -> None:
    write_permuted(tmp_path)
    found = examine_dataset(tmp_path, FOLDER)
    assert [fault.kind for fault in found.errors] == ["permuted labels"]
    assert (
        "labels look permuted: 1 goes with sheep in 3 of 3 images, 2 goes with cow in 3 of 3"
        in found.errors[0].sentence
    )
    assert any("labels are taken for the sorted tags: 1 cow, 2 sheep" in note for note in found.notes)
    (tmp_path / "classes.txt").write_text("sheep\ncow\n")
    assert examine_dataset(tmp_path, FOLDER).errors == ()


def test_an_order_is_found_only_where_there_is_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        order = random.permutation(6) + 1
        tags = [set(random.choice(6, random.integers(1, 3), replace=False) + 1) for _ in range(60)]
        shown = [{int(np.flatnonzero(order == tag)[0]) + 1 for tag in each} for each in tags]
        expected = {label: int(order[label - 1]) for label in range(1, 7) if order[label - 1] != label}
        assert find_order(6, list(zip(tags, shown, strict=True))) == expected
    noise = [({int(random.integers(1, 7))}, {int(random.integers(1, 7))}) for _ in range(200)]
    assert find_order(6, noise) == {}


def test_a_mask_of_0_and_255_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "images/p0.jpg")
    save_mask(tmp_path / "masks/p0.png", 255)
    (tmp_path / "tags.csv").write_text("id,tags,split\np0,crack,train;val\n")
    found = tell(examine_dataset(tmp_path, FOLDER), "binary mask")
    assert "p0.png holds 0 and 255 alone: write the object as 1" in found[0]


# --- colours


LABEL_MAP = (
    "# label:color_rgb:parts:actions\r\nbackground: 0, 0, 0::\r\ncat:250,50,83::\ndog:36,179,83::\ncow:1,2,3::\n"
)


def colour(root: Path, colours: dict[int, tuple[int, int, int]], mode: str = "RGB") -> dict[str, np.ndarray]:
    """Turn the masks of a dataset into colours; gives their labels."""
    labels = {}
    for path in sorted((root / "SegmentationClass").glob("*.png")):
        mask = np.asarray(Image.open(path)).copy()
        labels[path.stem] = mask
        pixels = np.zeros((*mask.shape, 3), np.uint8)
        for label, shade in colours.items():
            pixels[mask == label] = shade
        picture = Image.fromarray(pixels)
        (picture.quantize(16) if mode == "P" else picture.convert(mode)).save(path)
    return labels


SHADES = {0: (0, 0, 0), 1: (250, 50, 83), 2: (36, 179, 83), 3: (1, 2, 3), 255: (224, 224, 192)}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("has_list", [False, True])
def test_masks_in_colours_are_decoded_by_a_label_map(make_voc: Callable[..., Path], mode: str, has_list: bool) -> None:
    root = make_voc()
    expected = colour(root, SHADES, mode)
    (root / "labelmap.txt").write_text(LABEL_MAP + "ignored:224,224,192::\n")
    if not has_list:
        (root / "classes.txt").unlink()
    listing = list_dataset(root, VOC)
    assert listing.classes == ("cat", "dog", "cow")
    for entry in listing.entries:
        np.testing.assert_array_equal(entry.draw(), expected[entry.id])


def test_a_colour_that_no_label_has_is_an_error(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    colour(root, SHADES)
    (root / "labelmap.txt").write_text(LABEL_MAP)  # without the colour of what is undecided
    found = tell(examine_dataset(root, VOC), "unknown colour")
    assert len(found) == 1
    assert "d4.png holds the colour 224,224,192, which no label has" in found[0]


def test_a_label_map_of_other_classes_is_an_error(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    (root / "labelmap.txt").write_text(LABEL_MAP.replace("dog", "hound"))
    assert "differ in dog, hound" in tell(examine_dataset(root, VOC), "differing classes")[0]


@pytest.mark.parametrize(
    "line",
    [
        "cat",
        "9,9,9:cow",
        "9 9 9\tcow",
        "cow,9,9,9",
        "cow #090909",
        "cat:1,2",
        "cat:1,2,300::",
        "dog:250,50,83::",
        "cat:9,9,9::",
    ],
)
def test_a_bad_label_map_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "labelmap.txt").write_text(LABEL_MAP + line)
    with pytest.raises(UserError, match=r"labelmap\.txt, line 6: "):
        read_label_map(tmp_path / "labelmap.txt")


def test_vocs_colours_at_other_values_are_an_error(make_voc: Callable[..., Path]) -> None:
    root = make_voc()
    masks = colour(root, {label: tuple(PALETTE[3 * label : 3 * label + 3]) for label in (0, 1, 2, 3, 255)}, "P")
    found = tell(examine_dataset(root, VOC), "shuffled palette")
    assert found
    assert all("has the colour of VOC's label" in sentence for sentence in found)
    for name, mask in masks.items():
        write_mask(root / f"SegmentationClass/{name}.png", mask)
    assert examine_dataset(root, VOC).errors == ()


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ("['cow', 'sheep']", ("cow", "sheep")),
        ("['cow']", ("cow",)),
        ("[]", ()),
        ('["dog, small", "O\'Brien"]', ("dog, small", "O'Brien")),
        ("['cow' 'sheep']", ("cow", "sheep")),  # numpy
        ("[cow, sheep]", ("cow", "sheep")),
        ("cow|sheep", ("cow", "sheep")),
        ("[x] box", ("[x] box",)),
    ],
)
def test_a_cell_may_hold_a_list(tmp_path: Path, cell: str, tags: tuple[str, ...]) -> None:
    with open(tmp_path / "tags.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "tags"), ("a", cell), ("b", "cat")])
    assert [row.tags for row in read_table(tmp_path / "tags.csv").rows] == [tags, ("cat",)]


def test_an_image_may_have_a_line_for_each_tag(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("filename,width,class,xmin\na.jpg,9,cow,1\nb.jpg,9,cat,1\na.jpg,9,sheep,2\na.jpg,9,cow,3\n")
    table = read_table(path)
    assert [(row.name, row.tags) for row in table.rows] == [("a.jpg", ("cow", "sheep")), ("b.jpg", ("cat",))]
    assert table.notes == (f"{path} has 4 lines of 2 images: tags of an image are joined.",)
    # Where cells hold several tags, a second line is a mistake, as are lines of other splits.
    path.write_text("id,tags\na,cow;cat\na,sheep\n")
    assert [row.tags for row in read_table(path).rows] == [("cow", "cat"), ("sheep",)]
    path.write_text("id,tags,split\na,cow,train\na,sheep,val\n")
    assert [row.tags for row in read_table(path).rows] == [("cow",), ("sheep",)]


@pytest.mark.parametrize("name", ["labels.csv", "Tags.CSV", "tags.xlsx", "annotations.tsv"])
@pytest.mark.parametrize("photograph", ["images/a.jpg", "notes/readme.txt"])
def test_a_table_of_another_name_is_named(tmp_path: Path, name: str, photograph: str) -> None:
    (tmp_path / photograph).parent.mkdir()
    if photograph.endswith(".jpg"):
        save(tmp_path / photograph)
    (tmp_path / name).write_text("id,tags\na,cow\n")
    with pytest.raises(UserError, match=rf"tags\.csv does not exist, but .*{name} is there: save it as .*/tags.csv"):
        list_dataset(tmp_path, FOLDER)


def test_class_folders_need_no_table_beside_them(tmp_path: Path) -> None:
    for name in ("cow/a.jpg", "background/b.jpg"):
        save(tmp_path / name)
    (tmp_path / "sizes.csv").write_text("id,width\na,9\n")
    assert [entry.tags for entry in list_dataset(tmp_path, FOLDER).entries] == [(), ("cow",)]


@pytest.mark.parametrize("file", ["photos/a.jpg", "images/photos/a.jpg", "ds0/img/a.jpg"])
def test_one_folder_of_photographs_is_no_class(tmp_path: Path, file: str) -> None:
    save(tmp_path / file)
    with pytest.raises(
        UserError, match=r"tags\.csv does not exist, and all photographs lie in folders named .*: add the table"
    ):
        list_dataset(tmp_path, FOLDER)


def test_masks_that_show_more_than_the_tags_are_counted(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"images/p{number}.jpg", number)
        save_mask(tmp_path / f"masks/p{number}.png", *((1, 2) if number else (2,)))
    (tmp_path / "tags.csv").write_text("id,tags,split\np0,dog,train\np1,dog,train\np2,cat;dog,val\n")
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors == ()
    assert "1 of 3 masks show classes besides their tags (p1: cat (1))." in found.notes


@pytest.mark.parametrize("folder", ["images", "Images", "photos", ""])
def test_photographs_lie_in_images_or_in_the_only_place_there_is(tmp_path: Path, folder: str) -> None:
    for seed, name in enumerate(("a", "trip/b")):
        save(tmp_path / folder / f"{name}.jpg", seed)
    save_mask(tmp_path / "masks/a.png", 1)
    (tmp_path / "tags.csv").write_text("id,tags,split\na,cow,train;val\ntrip/b,cow,train;val\n")
    found = examine_dataset(tmp_path, FOLDER)
    assert found.errors == ()
    images = [(one.id, one.image, one.mask) for one in found.manifest.images]
    prefix = f"{folder}/" if folder else ""
    assert images == [("a", f"{prefix}a.jpg", "masks/a.png"), ("trip--b", f"{prefix}trip/b.jpg", None)]


def test_without_images_a_table_of_other_files_is_refused_at_once(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.jpg")
    save(tmp_path / "labels/a.png")
    (tmp_path / "tags.csv").write_text("id,tags\na,cow\n")
    with pytest.raises(UserError, match=r"images does not exist, and no image in .*tags\.csv is elsewhere"):
        list_dataset(tmp_path, FOLDER)
    (tmp_path / "tags.csv").write_text("id,tags\nphotos/a,cow\n")
    assert [entry.image for entry in list_dataset(tmp_path, FOLDER).entries] == ["photos/a.jpg"]


def test_a_folder_of_pictures_that_nothing_reads_is_named(tmp_path: Path) -> None:
    save(tmp_path / "images/a.jpg")
    save_mask(tmp_path / "labels/a.png", 1)
    save_mask(tmp_path / "masks/a.png", 1)
    (tmp_path / "tags.csv").write_text("id,tags\na,cow\n")
    notes = list_dataset(tmp_path, FOLDER).notes
    assert [note for note in notes if "is not read" in note] == [
        f"{tmp_path / 'labels'} has 1 picture and is not read: masks belong in masks, saliency maps in saliency."
    ]
