"""`rca compare` on a project whose results are written by hand: the planted difference is found."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from rca.cli.main import main

CLASSES = ("background", "cat", "cow")
HEADER = "kind,split,threshold,tags,images,predicted_ignore,class,iou,boundary_iou,precision,recall"
PRESETS = Path(__file__).parents[2] / "workflow/presets"


def write(run: str, seed: int, cow: float) -> None:
    """Write a run's results: refined masks of val, all classes at 0.5 but cow."""
    ious = dict(zip(CLASSES, (0.5, 0.5, cow), strict=True))
    folder = Path("results/shapes")
    folder.mkdir(parents=True, exist_ok=True)
    miou = sum(ious.values()) / len(ious)
    metrics = {"refined": {"val": {"best": {"miou": miou, "images": 7}}}}
    (folder / f"{run}-{seed}.json").write_text(json.dumps(metrics))
    lines = [f"refined,val,best,given,7,count_as_error,{name},{iou},0.5,0.5,0.5" for name, iou in ious.items()]
    (folder / f"{run}-{seed}.csv").write_text("\n".join([HEADER, *lines, ""]))


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PRESETS / "shapes.yaml", "params.yaml")
    for seed in (0, 1):
        write("cam", seed, 0.4)
        write("rca", seed, 0.6 + seed / 500)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True)


def test_the_class_that_differs_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "cam", "rca"]) == 0
    printed = capsys.readouterr().out
    assert "refined val best miou" in printed
    assert "+6.7" in printed  # a third of 20 points
    lines = printed[printed.index("IoU of refined val best") :].splitlines()
    assert [cell.strip() for cell in lines[4].split("|")[1:5]] == ["cow", "40.0", "60.1", "+20.1"]
    assert lines[5].split("|")[4].strip() == "+0.0"
    assert "  method: cam cam, rca rca" in printed
    assert "{}" not in printed  # an empty section of options is no setting


def test_equal_runs_show_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "rca", "--rev", "HEAD"]) == 0
    printed = capsys.readouterr().out
    points = [line.split("|")[4].strip() for line in printed.splitlines() if line.startswith("| ") and "." in line]
    assert len(points) == 4
    assert set(points) == {"+0.0"}
    assert "The settings are the same." in printed


def test_a_run_is_compared_with_a_commit(capsys: pytest.CaptureFixture[str]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["run"]["rca"].setdefault("options", {}).setdefault("contrast", {})["weight"] = 0.625
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for seed in (0, 1):
        write("rca", seed, 0.3)
    assert main(["compare", "rca", "--rev", "HEAD"]) == 0
    printed = capsys.readouterr().out
    assert "rca@HEAD" in printed
    assert "-30.1" in printed
    assert "options.contrast.weight: rca@HEAD" in printed
    assert "rca 0.625" in printed


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["cam"], "compared with itself"),
        (["cam", "other"], "holds no results of other: choose from cam, rca."),
        (["cam", "rca", "--rev", "nowhere"], "--rev nowhere: git finds no params.yaml"),
        (["cam", "rca", "--rev=--output=x"], "does not begin with a dash"),
        (["cam", "rca", "--masks", "seed"], "have no seed of any split: choose from refined val."),
        (["cam", "rca", "--split", "train"], "have no masks of train"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_images_that_gain_and_lose_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    header = "kind,split,threshold,image,label,hit,truth,predicted,undecided"
    for run, hits in (("cam", (50, 50, 50)), ("rca", (90, 50, 20))):
        for seed in (0, 1):
            folder = Path(f"runs/shapes/evaluation/{run}-{seed}")
            folder.mkdir(parents=True)
            lines = [f"refined,val,best,{name},1,{hit},100,100,0" for name, hit in zip("abc", hits, strict=True)]
            (folder / "images.csv").write_text("\n".join([header, *lines, ""]))
    assert main(["compare", "cam", "rca"]) == 0
    printed = capsys.readouterr().out
    gain, lose = printed.index("Images that gain most"), printed.index("Images that lose most")
    cells = [line.split("|")[1:5] for part in (printed[gain:lose], printed[lose:]) for line in part.splitlines()[4:5]]
    found = [[cell.strip() for cell in line] for line in cells]
    first, best, worst = (100 * hit / (200 - hit) for hit in (50, 90, 20))
    assert found == [
        ["a", f"{first:.1f}", f"{best:.1f}", f"{best - first:+.1f}"],
        ["c", f"{first:.1f}", f"{worst:.1f}", f"{worst - first:+.1f}"],
    ]
    assert "Over images (bootstrap), mean of 2 seeds: mIoU" in printed
