"""`rca suspect`, and the way of its first masks to Label Studio and back, on a network with random weights."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr
from scored import PATHS, build_project, make_masks
from sklearn.metrics import jaccard_score
from stages import run_stage

from rca.cli.main import main
from rca.core.files import IGNORE, hash_file, read_json, read_mask, write_mask
from rca.data.manifest import Manifest, read_manifest
from rca.data.partition import assign_shard
from rca.exporting.label_studio import pack


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build_project(refine_crf={"enabled": True, "crf": {"iterations": 1}}, train_seg={"enabled": True})
        make_masks(refine=True)
    return folder


@pytest.fixture
def project(built: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.chdir(built)
    return read_manifest(PATHS.dataset.manifest)


def find_mask(image_id: str) -> Path:
    return PATHS.masks_of("refined") / str(assign_shard(image_id, 2)) / "best" / f"{image_id}.png"


def test_the_list_the_page_and_the_validation(project: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suspect", "cam", "--validate", "--top", "3", "--out", "list.csv", "--page", "page"]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv("list.csv")
    assert sorted(table["image"]) == sorted(record.id for record in project.select("train"))
    assert table["suspicion"].is_monotonic_decreasing
    np.testing.assert_allclose(table["suspicion"], 1 - table[["steps", "scores"]].mean(axis=1), atol=1e-3)
    ious = []
    for image_id in table["image"]:
        truth = read_mask(project.truth(project.images[project.index[image_id]]))
        mask = read_mask(find_mask(image_id))
        truth, mask = truth[truth != IGNORE], mask[truth != IGNORE]
        labels = sorted({*truth, *mask} - {0})
        ious.append(jaccard_score(truth, mask, labels=labels, average="macro"))
    rho = spearmanr(table["suspicion"], -np.array(ious)).statistic
    assert f"Against {len(table)} true masks: Spearman's rho of suspicion and error {rho:.2f};" in printed
    worst, suspected = int(np.argmin(ious)), round(0.2 * len(table))
    assert f"{100 if worst < suspected else 0}% are among the 20% most suspicious" in printed
    page = Path("page/index.html").read_text()
    assert page.count("<figure") == 3
    assert len(list(Path("page/pictures").iterdir())) == 6
    assert all(image_id in page for image_id in table["image"])


def test_what_is_missing_is_said(project: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir(exist_ok=True)
    Path("full/notes.txt").touch()
    for arguments, sentence in (
        (["other"], "other is no run on tags: choose from cam, rca"),
        (["cam", "--seed", "7"], "cam has no masks of seed 7 here (of 0)"),
        (["cam", "--masks", "segmentation"], "Not all images of train have segmentation: choose from seed, refined"),
        (["cam", "--page", "full"], "full holds other files"),
    ):
        assert main(["suspect", *arguments]) == 2
        assert sentence in capsys.readouterr().err


def test_corrected_masks_come_back_and_take_precedence(project: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suspect", "cam", "--out", "list.csv"]) == 0
    listed = pd.read_csv("list.csv")["image"].tolist()
    refined = str(PATHS.masks_of("refined"))
    export = ["export", "label-studio", refined, "tasks.json", "--list", "list.csv", "--first", "2", "--force"]
    assert main(export) == 0
    assert '<BrushLabels name="brush" toName="image">' in capsys.readouterr().out
    tasks = json.loads(Path("tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={name}.png" for name in listed[:2]]

    # The annotator accepts the second mask, and paints a corner of the first.
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    first = read_mask(find_mask(listed[0]))
    corner = np.zeros(first.shape, bool)
    corner[:9, :7] = True
    shape = {"original_height": first.shape[0], "original_width": first.shape[1]}
    value = {"format": "rle", "rle": pack(corner), "brushlabels": [project.classes[2]]}
    tasks[0]["annotations"][0]["result"].append({"type": "brushlabels", **shape, "value": value})
    Path("back.json").write_text(json.dumps(tasks))
    assert main(["import", "masks", "back.json"]) == 0
    assert "2 new corrected masks, 2 in corrected/shapes" in capsys.readouterr().out
    wanted = np.where(corner, 3, first)
    kept = {image_id: Path(f"corrected/shapes/{image_id}.png") for image_id in listed[:2]}
    assert (read_mask(kept[listed[0]]) == wanted).all()
    assert (read_mask(kept[listed[1]]) == read_mask(find_mask(listed[1]))).all()
    assert yaml.safe_load(Path("params.yaml").read_text())["train_seg"]["corrected"]["folder"] == "corrected/shapes"

    assert run_stage("pin_masks", run="cam", seed=0) == 0
    pinned = read_json(PATHS.pinned_masks)
    assert pinned["paths"] == {image_id: str(file) for image_id, file in kept.items()}
    assert pinned["masks"] == "refined, best threshold, 2 corrected by hand"
    files = {image_id: kept.get(image_id, find_mask(image_id)) for image_id in listed}
    assert pinned["sha256"] == {image_id: hash_file(file) for image_id, file in files.items()}

    # What is corrected stays, whatever comes back later.
    assert main(["import", "masks", "back.json"]) == 0
    assert "0 new corrected masks" in capsys.readouterr().out
    Path("other").mkdir()
    write_mask(Path(f"other/{listed[0]}.png"), first)
    write_mask(Path(f"other/{listed[2]}.png"), read_mask(find_mask(listed[2])))
    assert main(["import", "masks", "other"]) == 2
    assert "is another corrected mask, which is never overwritten" in capsys.readouterr().err
    assert {file.stem for file in Path("corrected/shapes").iterdir()} == set(listed[:2])
    assert (read_mask(kept[listed[0]]) == wanted).all()

    write_mask(kept[listed[1]], wanted)
    assert run_stage("pin_masks", run="cam", seed=0) == 2
    assert "are not those of train_seg.corrected.sha256" in capsys.readouterr().err


def test_a_figure_in_one_line(project: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (record.id for record in project.select("train")[:2])
    arguments = ["figure", first, second, "--runs", "cam", "--columns", "photo,truth,seed,refined", "--names"]
    assert main([*arguments, "--zoom", f"{first}=4,5,10,9", "--colours", "safe", "--out", "figure.svg"]) == 0
    assert "figure.svg: 2 images, 4 columns" in capsys.readouterr().out
    text = Path("figure.svg").read_text()
    assert all(f">{heading}<" in text for heading in ("photograph", "truth", "seed", "refined"))
    for wrong, sentence in (
        (["nobody"], "The dataset has no image nobody"),
        ([first, "--columns", "photo,mask"], "mask is no column: choose from photo, truth, seed"),
        ([first, "--columns", "segmentation"], f"cam has no segmentation mask of {first}"),
        ([first, "--zoom", f"{first}=40,5,10,9"], "inside 48x48"),
        ([first, "--out", "figure.jpg"], "end its name with .pdf, .svg, .png"),
        ([first, "--alpha", "2"], "--alpha 2.0 is no opacity"),
    ):
        assert main(["figure", *wrong, "--runs", "cam"]) == 2
        assert sentence in capsys.readouterr().err
