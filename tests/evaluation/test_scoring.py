"""`rca score`: any masks against true masks."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scored import PATHS, PLACE, build_project, make_masks
from sklearn.metrics import jaccard_score, precision_score, recall_score
from stages import run_stage

from rca.cli.main import main
from rca.core.files import IGNORE, read_json, write_mask
from rca.evaluation import scoring
from rca.evaluation.errors import SHARES
from rca.evaluation.protocol import fingerprint_list
from rca.evaluation.scoring import list_figures, score_folders

CLASSES = ("cat", "dog", "cow", "hen")
SIZES = {"a": (13, 17), "b": (9, 31), "c": (1, 5), "d": (22, 11), "e": (8, 9)}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five images: palette masks of three labels and ignore, and grey true ones."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder in ("masks", "truth"):
        Path(folder).mkdir()
    for name, size in SIZES.items():
        truth, mask = (random.choice(np.array([0, 0, 1, 3, IGNORE], np.uint8), size) for _ in range(2))
        mask[truth != IGNORE] = np.where(random.random(size) < 0.6, truth, mask)[truth != IGNORE]
        write_mask(Path(f"masks/{name}.png"), mask)
        Image.fromarray(truth).save(f"truth/{name}.png")
    Path("classes.txt").write_text("\n".join(CLASSES) + "\n\n")


def read_pixels(names: str = "abcde") -> tuple[np.ndarray, np.ndarray]:
    """The known pixels of some images: true labels and those of the masks."""
    truth, mask = (
        np.concatenate([np.asarray(Image.open(f"{folder}/{name}.png")).ravel() for name in names])
        for folder in ("truth", "masks")
    )
    return truth[truth != IGNORE], mask[truth != IGNORE]


@pytest.mark.parametrize("classes", [None, Path("classes.txt")])
@pytest.mark.parametrize("mode", ["count_as_error", "exclude"])
def test_figures_agree_with_scikit_learn(folders: None, mode: str, classes: Path | None) -> None:
    truth, mask = read_pixels()
    kept = (mask != IGNORE) | (mode == "count_as_error")
    labels = [0, 1, 3]
    found = list_figures(score_folders([Path("masks")], [Path("truth")], classes, predicted_ignore=mode))
    expected = jaccard_score(truth[kept], mask[kept], labels=labels, average=None)
    names = ["background", *CLASSES] if classes else ["background", "1", "2", "3"]
    assert list(found["per_class"]) == names
    assert [found["per_class"][names[label]]["iou"] for label in labels] == pytest.approx(expected, abs=1e-6)
    assert found["per_class"][names[2]] == dict.fromkeys(scoring.FIGURES)
    assert found["metrics"]["miou"] == pytest.approx(expected.mean(), abs=1e-6)
    recall = recall_score(truth[kept], mask[kept], labels=labels, average="macro")
    assert found["metrics"]["recall"] == pytest.approx(recall, abs=1e-6)
    precision = precision_score(truth[kept], mask[kept], labels=labels, average="macro")
    assert found["metrics"]["precision"] == pytest.approx(precision, abs=1e-6)
    assert found["metrics"]["coverage"] == pytest.approx((mask != IGNORE).mean(), abs=1e-6)


def test_the_number_of_workers_changes_nothing(folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 2)
    alone, together = (
        list_figures(score_folders([Path("masks")], [Path("truth")], workers=workers)) for workers in (1, 2)
    )
    assert alone == together


def test_a_list_selects_what_is_scored_and_the_rest_is_counted(
    folders: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("list.txt").write_text("d\nb\n\nd\n")
    command = "score --predictions masks --truth truth --classes classes.txt --list list.txt --out out.json --workers 1"
    assert main(command.split()) == 0
    truth, mask = read_pixels("bd")
    found = json.loads(Path("out.json").read_text())
    expected = jaccard_score(truth, mask, labels=[0, 1, 3], average="macro")
    assert found["metrics"]["miou"] == pytest.approx(expected, abs=1e-6)
    assert found["protocol"]["list"] == {"name": "list.txt", "images": 2, "sha256": fingerprint_list("bd")}
    assert found["protocol"]["unscored_masks"] == 3
    text = capsys.readouterr().out
    assert f"list.txt (2 images, list {fingerprint_list('bd')[:8]})" in text
    assert "3 masks of other images are not scored." in text
    assert "counts as an error" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line and line.split()[0] in CLASSES}
    assert rows["cow"][0] == f"{100 * found['per_class']['cow']['iou']:.2f}"
    assert rows["dog"] == ["-"] * 4


@pytest.mark.parametrize(
    ("classes", "listed"),
    [
        (b"\xef\xbb\xbfcat\r\ndog\r\n\r\ncow\r\nhen\r\n", b"\xef\xbb\xbfd\r\nb\r\n"),
        (b"__ignore__\n_background_\ncat\ndog\ncow\nhen\n", b"d  1\nb -1\n"),
        (
            b"background\ncat\ndog\ncow\nhen\nvoid\n",
            b"/Photos/d.jpg /M/d.png\n/Photos/b.jpg /M/b.png\n",
        ),
        (b"Background\ncat\ndog\ncow\nhen\n", b"masks/d.png\nb.PNG\n"),
    ],
)
def test_lists_are_read_as_other_codes_write_them(folders: None, classes: bytes, listed: bytes) -> None:
    expected = score_folders([Path("masks")], [Path("truth")], Path("classes.txt"), list_names("d", "b"))
    Path("classes.txt").write_bytes(classes)
    Path("list.txt").write_bytes(listed)
    found = score_folders([Path("masks")], [Path("truth")], Path("classes.txt"), Path("list.txt"))
    assert list_figures(found) == list_figures(expected)


def list_names(*names: str) -> Path:
    Path("list.txt").write_text("\n".join(names))
    return Path("list.txt")


def test_masks_may_lie_in_several_folders(folders: None) -> None:
    whole = list_figures(score_folders([Path("masks")], [Path("truth")]))
    Path("more").mkdir()
    Path("masks/b.png").rename("more/b.png")
    parts = list_figures(score_folders([Path("masks"), Path("more")], [Path("truth")]))
    assert parts["metrics"] == whole["metrics"]


def damage_size() -> None:
    write_mask(Path("masks/b.png"), np.zeros((9, 30), np.uint8))


def damage_label() -> None:
    write_mask(Path("masks/d.png"), np.full(SIZES["d"], 5, np.uint8))


def damage_colour() -> None:
    Image.new("RGB", (17, 13)).save("masks/a.png")


def damage_file() -> None:
    Path("truth/c.png").write_bytes(b"no picture")


def blank_truth() -> None:
    for name in SIZES:
        Image.fromarray(np.where(np.eye(*SIZES[name]) > 0, 255, 0).astype(np.uint8)).save(f"truth/{name}.png")


def remove(*files: str) -> Callable[[], None]:
    return lambda: [Path(file).unlink() for file in files] and None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("masks/b.png"), "1 of 5 images have no mask in masks (b): add"),
        (remove(*(f"masks/{name}.png" for name in "abde")), "4 of 5 images have no mask in masks (a, b, d, ...): add"),
        (lambda: Path("list.txt").write_text("a\nx\n"), "1 of 2 images have no mask in masks (x)"),
        (remove(*(f"truth/{name}.png" for name in "abcde")), "truth names no image"),
        (damage_size, "The mask masks/b.png is 30x9, the true mask truth/b.png is 31x9: make them the same size."),
        (damage_label, "The mask masks/d.png holds the label 5, but there are 4 classes"),
        (damage_colour, "masks/a.png is a RGB picture, not one 8-bit channel: write its labels as numbers"),
        (damage_file, "The mask truth/c.png is broken"),
        (lambda: Path("list.txt").write_text("\n"), "list.txt names no image"),
        (remove("classes.txt"), "classes.txt does not exist"),
        (lambda: Path("classes.txt").write_text("cat\n__background__\ncow\n"), "names '__background__' as label 2"),
        (lambda: Path("classes.txt").write_text("cat\ndog\ncat\n"), "names the class 'cat' twice"),
        (lambda: Path("list.txt").write_text("a\nof the dog\n"), "list.txt, line 2: 'of the dog' is no name"),
        (blank_truth, "No true mask in truth holds an object pixel, only 0 and 255: write objects as 1, 2, ..."),
        (lambda: Path("classes.txt").write_text("\n"), "classes.txt names 0 classes"),
    ],
)
def test_bad_input_is_reported_in_one_sentence(
    folders: None, capsys: pytest.CaptureFixture[str], damage: Callable[[], object], message: str
) -> None:
    damage()
    command = "score --predictions masks --truth truth --classes classes.txt --out out.json --workers 1"
    if Path("list.txt").exists():
        command += " --list list.txt"
    assert main(command.split()) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert message in printed.err
    assert not printed.out
    assert not Path("out.json").exists()


def test_a_fault_found_by_a_worker_is_reported_too(folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 2)
    damage_size()
    with pytest.raises(scoring.UserError, match=r"b\.png is 30x9"):
        score_folders([Path("masks")], [Path("truth")], workers=2)


@pytest.mark.parametrize(
    ("given", "message"), [({"boundary_distance": 0}, "boundary distance"), ({"workers": 0}, "number of workers is 0")]
)
def test_numbers_out_of_range_are_refused(folders: None, given: dict, message: str) -> None:
    with pytest.raises(scoring.UserError, match=message):
        score_folders([Path("masks")], [Path("truth")], **given)


def test_masks_of_the_pipeline_get_the_figures_of_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build_project()
    make_masks()
    for path in PATHS.masks_of("pseudo").glob("*/best/*1.png"):
        mask = np.array(Image.open(path))
        mask[9:30] = IGNORE
        write_mask(path, mask)
    assert run_stage("evaluate", **PLACE) == 0
    metrics = read_json(Path("results/shapes/cam-0.json"))["pseudo"]["val"]["best"]
    protocol = read_json(Path("runs/shapes/evaluation/cam-0/evaluation.json"))["protocol"]
    found = list_figures(
        score_folders(
            [PATHS.masks_of("pseudo") / f"{shard}/best" for shard in (0, 1)],
            [Path("data/shapes/SegmentationClass")],
            Path("data/shapes/classes.txt"),
            Path("data/shapes/ImageSets/Segmentation/val.txt"),
        )
    )
    del metrics["threshold"]
    assert found["metrics"] == {name: value for name, value in metrics.items() if name not in SHARES}
    assert metrics["coverage"] < 1
    assert found["protocol"]["list"]["sha256"] == protocol["lists"]["val"]["sha256"]
    table = pd.read_csv("results/shapes/cam-0.csv").query("kind == 'pseudo' and split == 'val' and threshold == 'best'")
    for row in table[table["class"] != "mean"].to_dict("records"):
        for figure in scoring.FIGURES:
            one = found["per_class"][row["class"]][figure]
            assert row[figure] == pytest.approx(np.nan if one is None else one, nan_ok=True, abs=1e-6)
