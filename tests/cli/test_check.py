"""`rca check` and `prepare_data` on a dataset with something wrong."""

import csv
from pathlib import Path

import pytest
import yaml
from planting import IMAGES, Dataset, make_dataset, plant, rename

from rca.cli.check import LINES_A_KIND
from rca.cli.main import main
from rca.core.settings import load_params
from rca.data.faults import KINDS
from rca.data.manifest import read_manifest

SHAPES = Path(__file__).parents[2] / "workflow/presets/shapes.yaml"
MANIFEST = Path("runs/mine/data")
# Faults that belong to one image, told from a copy of a sound one each.
ELSEWHERE = {  # not, or not so, in `folder`
    *("broken annotation", "bad annotation", "missing mask", "missing saliency map", "unusable id", "ambiguous name"),
    "unknown colour",
}
PLANTED = [kind for kind, about in KINDS.items() if about.of_image and kind not in ELSEWHERE]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A sound dataset in the format `folder`, and a project that reads it."""
    monkeypatch.chdir(tmp_path)
    dataset = make_dataset(Path("data/mine"))
    dataset.write_lists()
    use()
    return dataset


def use(**changes: object) -> None:
    params = load_params(SHAPES)
    section = {"name": "mine", "format": "folder", "splits": ["train", "val"], **changes}
    params.update(generate_data={}, dataset=section)
    Path("params.yaml").write_text(yaml.safe_dump(params))


def remove_photographs(dataset: Dataset, *names: str) -> None:
    for name in names:
        (dataset.root / f"images/{name}.jpg").unlink()


def test_nothing_is_wrong_with_a_sound_dataset(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--out", "faults.csv"]) == 0
    told = capsys.readouterr()
    assert "data/mine: no faults." in told.out
    assert told.err == ""
    assert Path("faults.csv").read_text() == "severity,kind,id,file,sentence\n"


def plant_everywhere(dataset: Dataset) -> dict[str, str]:
    """Plant all that one dataset can have at once; gives the file of each kind."""
    planted = {}
    for number, kind in enumerate(PLANTED):
        dataset.victim = f"x{number:02d}"
        dataset.add_image(dataset.victim, "train", 1 + number % 3)
        planted[kind] = plant(dataset, kind)
    dataset.victim = "a1"
    for name, split in (("space", "train"), ("same", "train"), ("copy", "train"), ("leak", "val"), ("lost", "lost")):
        dataset.add_image(name, split, 1)
    planted["unusable id"] = rename(dataset, "space", "white space")
    dataset.add_image("white_space", "train", 1)  # the name that it could have had
    dataset.add_image("Same", "train", 2)
    planted["similar ids"] = "images/same.jpg"
    content = (dataset.root / "images/b2.jpg").read_bytes()
    planted["duplicate photograph"] = dataset.write("images/copy.jpg", content)
    planted["leaked photograph"] = dataset.write("images/leak.jpg", content)
    dataset.add_image("both", "train", 3)
    dataset.change("both", splits=("train", "val"))
    dataset.add_image("bare", "no_tags", 1)
    dataset.change("bare", tags=())
    remove_photographs(dataset, "lost")
    (dataset.root / "masks/e5.png").unlink()
    (dataset.root / "saliency/e5.png").unlink()
    dataset.classes = ("cat", "dog", "cow", "Cat", "dog", "background", "fish;chips", "horse")
    names = ("similar classes", "repeated class", "misleading class", "unusable class name")
    planted |= dict.fromkeys(names, "classes.txt")
    of_splits = (
        "class without image",
        "overlapping splits",
        "empty split",
        "exhausted split",
        "split without tags",
    )
    planted |= dict.fromkeys((*of_splits, "masks for a part", "saliency maps for a part"), "tags.csv")
    dataset.write_lists()
    with open(dataset.root / "tags.csv", "a") as table:
        table.write("c3,dog,train\n")
    planted["repeated id"] = "tags.csv"
    use(splits=["train", "val", "none", "no_tags", "lost"])
    return planted


def test_every_fault_of_many_kinds_is_found_at_once(
    dataset: Dataset, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    planted = plant_everywhere(dataset)
    assert len(planted) > 45
    assert main(["check", "--out", "faults.csv"]) == 2
    told = capfd.readouterr()
    with open("faults.csv", newline="") as file:
        found = {(line["kind"], line["file"]): line for line in csv.DictReader(file)}
    for kind, name in planted.items():
        line = found[kind, f"data/mine/{name}"]
        assert line["severity"] == KINDS[kind].severity
        assert Path(name).name in line["sentence"]
        assert f"  {kind} (" in told.out
        assert Path(name).name in told.out.partition(f"  {kind} (")[2].partition("\n  ")[2]
    sound = {f"data/mine/images/{name}.jpg" for name in IMAGES} | {f"data/mine/masks/{name}.png" for name in IMAGES}
    assert not sound & {file for _, file in found}
    assert told.out.index("\nWarnings") < told.out.index("\nErrors")
    closing = [line for line in told.err.splitlines() if line]
    errors = sum(line["severity"] == "error" for line in found.values())
    assert len(closing) == 1
    assert closing[0].startswith(f"error: data/mine has {errors} errors in ")
    assert "Traceback" not in told.out + told.err


def test_the_terminal_shows_some_of_each_kind_and_says_how_many_more(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"y{number:02d}" for number in range(LINES_A_KIND + 3)]
    for name in names:
        dataset.add_image(name, "train", 1)
    dataset.write_lists()
    remove_photographs(dataset, *names)
    assert main(["check"]) == 2
    told = capsys.readouterr().out
    assert f"missing photograph ({len(names)}): restore it" in told
    assert [name in told for name in names] == [True] * LINES_A_KIND + [False] * 3
    assert "and 3 more (all of them: --out FILE)" in told


def test_warnings_stop_nothing(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    plant(dataset, "CMYK photograph")
    assert main(["check"]) == 0
    told = capsys.readouterr()
    assert "CMYK photograph (1): save it as sRGB" in told.out
    assert "Errors" not in told.out
    assert "Disk: " in told.out
    assert main(["prepare_data"]) == 0
    assert "1 warning: `rca check` lists them" in capsys.readouterr().out


def test_a_broken_image_stops_prepare_data_and_nothing_is_written(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    remove_photographs(dataset, "a1", "c3", "f6")
    assert main(["prepare_data"]) == 2
    told = capsys.readouterr().err
    assert "data/mine/images/a1.jpg does not exist: restore it" in told
    assert "(and 2 more errors: `rca check` lists them)" in told
    assert not MANIFEST.exists()


def test_broken_images_are_left_out_with_a_list(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    remove_photographs(dataset, "f6")
    plant(dataset, "unknown label")
    plant(dataset, "missing saliency map")  # the format lists the saliency maps that are there
    plant(dataset, "truncated photograph")
    use(broken="quarantine")
    assert main(["prepare_data"]) == 0
    assert f"2 images with errors left out: see {MANIFEST}/quarantine.csv" in capsys.readouterr().out
    assert [record.id for record in read_manifest(MANIFEST).images] == ["b2", "c3", "d4", "e5"]
    assert [record.id for record in read_manifest(MANIFEST, "splits/val").images] == ["e5"]
    with open(MANIFEST / "quarantine.csv", newline="") as file:
        lines = [(line["id"], Path(line["file"]).name, line["kind"]) for line in csv.DictReader(file)]
    assert lines == [
        ("f6", "f6.jpg", "missing photograph"),
        ("a1", "a1.jpg", "truncated photograph"),
        ("a1", "a1.png", "unknown label"),
    ]

    assert main(["inspect", "data", str(MANIFEST)]) == 0
    told = capsys.readouterr().out
    assert "2 images with errors left out" in told
    assert "f6: The photograph data/mine/images/f6.jpg does not exist: restore it" in told

    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert "missing photograph (1)" in told
    assert "2 images with errors will be left out, as dataset.broken says" in told


def test_a_quarantine_may_be_empty(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    use(broken="quarantine")
    assert main(["prepare_data"]) == 0
    assert (MANIFEST / "quarantine.csv").read_text() == "severity,kind,id,file,sentence\n"
    assert main(["inspect", "data", str(MANIFEST)]) == 0
    assert "0 images with errors left out" in capsys.readouterr().out


def test_without_a_quarantine_there_is_no_list(dataset: Dataset) -> None:
    assert main(["prepare_data"]) == 0
    assert not (MANIFEST / "quarantine.csv").exists()


def test_no_quarantine_mends_what_is_wrong_with_the_whole(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    plant(dataset, "similar classes")
    plant(dataset, "truncated photograph")
    dataset.write_lists()
    use(broken="quarantine")
    for command in ("check", "prepare_data"):
        assert main([command]) == 2
    told = capsys.readouterr().err
    assert "data/mine has 2 errors in 1 image and " in told
    assert "classes.txt names the classes 'cat' and 'Cat', which differ only in case" in told
    assert not MANIFEST.exists()


def test_another_word_for_what_to_do_with_broken_images_is_refused(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    use(broken="skip")
    assert main(["check"]) == 2
    assert "dataset.broken" in capsys.readouterr().err
