"""The stage that scores a run, on a few small pictures and a network with random weights."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scored import PATHS, PLACE, build_project, make_masks
from sklearn.metrics import confusion_matrix, jaccard_score, precision_recall_fscore_support
from stages import run_stage, write_params

from rca.core.files import IGNORE, read_json, read_mask, write_mask
from rca.core.settings import load_params
from rca.data.manifest import ImageRecord, Manifest
from rca.data.partition import assign_shard
from rca.evaluation.errors import SHARES
from rca.evaluation.protocol import fingerprint_list
from rca.labels.background import label_pixels
from rca.labels.score_maps import Shard, Tags, enlarge, open_shard

BOTH = {
    "make_cam": {"predicted_tags": {"splits": ["val"]}},
    "evaluate": {"seed": ["val"], "seed_predicted_tags": ["val"]},
}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Manifest]:
    """Put the project down with all masks made."""
    monkeypatch.chdir(tmp_path)

    def make(**sections: dict[str, Any]) -> Manifest:
        manifest = build_project(**sections)
        make_masks(refine=sections.get("refine_crf", {}).get("enabled", False))
        return manifest

    return make


def score() -> tuple[dict, dict]:
    """Run the stage; its metrics and protocol."""
    assert run_stage("evaluate", **PLACE) == 0
    written = read_json(PATHS.evaluation / "evaluation.json")
    assert read_json(PATHS.metrics) == written["metrics"]
    return written["metrics"], written["protocol"]


def read_pairs(
    manifest: Manifest, split: str, read: Callable[[ImageRecord, Shard], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The known pixels of a split: their truth, and what `read` gives for them."""
    pairs = []
    for record in manifest.select(split):
        truth = np.asarray(Image.open(manifest.truth(record)))
        with open_shard(PATHS.maps_of(assign_shard(record.id, 2), "scores")) as shard:
            mask = read(record, shard)
        pairs.append((truth[truth != IGNORE], mask[truth != IGNORE]))
    return np.concatenate([one for one, _ in pairs]), np.concatenate([one for _, one in pairs])


def test_seeds_of_given_and_of_predicted_tags_are_scored_apart(build: Callable[..., Manifest]) -> None:
    manifest = build(**BOTH)
    metrics, protocol = score()
    thresholds = read_json(PATHS.threshold)
    found: dict[str, float] = {}
    tags: Tags
    for kind, tags in (("seed", "given"), ("seed_predicted_tags", "predicted")):
        for choice in ("best", "fixed"):

            def read(record: ImageRecord, shard: Shard, tags: Tags = tags, choice: str = choice) -> np.ndarray:
                one = shard.read(record.id, tags)
                return label_pixels(enlarge(one.scores, record.height, record.width), one.labels, thresholds[choice])

            truth, mask = read_pairs(manifest, "val", read)
            occurring = np.union1d(truth, mask)
            expected = jaccard_score(truth, mask, labels=occurring, average="macro")
            figures = metrics[kind]["val"][choice]
            assert figures["miou"] == pytest.approx(expected, abs=1e-6)
            assert figures["images"] == 5
            assert figures["threshold"] == pytest.approx(thresholds[choice], abs=1e-6)
            found[f"{kind} {choice}"] = figures["miou"]
    assert found["seed fixed"] != found["seed_predicted_tags fixed"]
    assert protocol["tags"] == {"seed": "given", "seed_predicted_tags": "predicted", "pseudo": "given"}
    assert protocol["tag_threshold"] == 0.5
    for example in Path("runs/shapes/evaluation/cam-0/examples").iterdir():
        assert {path.stem for path in example.iterdir()} == {"truth", "scores", "seed", "seed_predicted_tags", "pseudo"}


def test_refined_masks_of_given_and_of_predicted_tags_are_scored_apart(build: Callable[..., Manifest]) -> None:
    manifest = build(
        make_cam=BOTH["make_cam"],
        refine_crf={"enabled": True, "crf": {"iterations": 1}},
        evaluate={"refined": ["val"], "refined_predicted_tags": ["val"], "examples_split": "val"},
    )
    metrics, protocol = score()
    found: dict[str, float] = {}
    for kind, ending in (("refined", ""), ("refined_predicted_tags", "_predicted_tags")):
        for choice in ("best", "fixed"):

            def read(record: ImageRecord, shard: Shard, folder: str = choice + ending) -> np.ndarray:
                return read_mask(PATHS.masks_of("refined") / shard.path.parent.name / folder / f"{record.id}.png")

            truth, mask = read_pairs(manifest, "val", read)
            expected = jaccard_score(truth, mask, labels=np.union1d(truth, mask), average="macro")
            found[kind + choice] = metrics[kind]["val"][choice]["miou"]
            assert found[kind + choice] == pytest.approx(expected, abs=1e-6)
    assert found["refinedfixed"] != found["refined_predicted_tagsfixed"]
    assert protocol["tags"]["refined_predicted_tags"] == "predicted"
    for example in Path("runs/shapes/evaluation/cam-0/examples").iterdir():
        assert (example / "refined_predicted_tags.png").is_file()


def test_the_protocol_names_lists_ignore_and_thresholds(build: Callable[..., Manifest]) -> None:
    manifest = build(evaluate={"predicted_ignore": "exclude", "boundary_distance": 0.05})
    _, protocol = score()
    for split, images in (("train", 9), ("val", 5)):
        ids = [record.id for record in manifest.select(split)]
        assert protocol["lists"][split] == {"images": images, "sha256": fingerprint_list(ids)}
    assert protocol["predicted_ignore"] == "exclude"
    assert protocol["boundary_distance"] == 0.05
    assert protocol["best_on"] == "train"
    assert protocol["tag_threshold"] is None
    table = pd.read_csv("results/shapes/cam-0.csv")
    assert set(table["tags"]) == {"given"}
    assert table.groupby("split")["images"].unique().map(list).to_dict() == {"train": [9], "val": [5]}
    assert {"iou", "boundary_iou", "precision", "recall"} <= set(table)


def test_masks_that_leave_pixels_undecided_are_scored_both_ways(build: Callable[..., Manifest]) -> None:
    manifest = build()
    for path in PATHS.masks_of("pseudo").glob("*/best/*.png"):
        mask = np.array(Image.open(path))
        mask[:20] = IGNORE
        write_mask(path, mask)
    folder = PATHS.masks_of("pseudo")
    truth, mask = read_pairs(
        manifest,
        "train",
        lambda record, _: np.asarray(Image.open(folder / str(assign_shard(record.id, 2)) / f"best/{record.id}.png")),
    )
    labels = sorted((set(truth) | set(mask)) - {IGNORE})
    # To an independent library an undecided pixel is one of a label that no pixel truly has.
    as_error = jaccard_score(truth, mask, labels=labels, average="macro")
    kept = mask != IGNORE
    occurring = np.union1d(truth[kept], mask[kept])
    left_out = jaccard_score(truth[kept], mask[kept], labels=occurring, average="macro")
    metrics, _ = score()
    figures = metrics["pseudo"]["train"]["best"]
    assert figures["miou"] == figures["miou_count_as_error"] == pytest.approx(as_error, abs=1e-6)
    assert figures["miou_exclude"] == pytest.approx(left_out, abs=1e-6)
    assert figures["coverage"] == pytest.approx(kept.mean(), abs=1e-6)
    assert metrics["seed"]["train"]["best"]["coverage"] == 1


def test_each_file_is_read_once_however_many_splits_it_belongs_to(
    build: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = build(evaluate={"examples": 0})
    lists = Path("data/shapes/ImageSets/Segmentation")
    (lists / "all.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    params = load_params(Path("params.yaml"))
    params["dataset"]["splits"] = ["train", "val", "all"]
    params["evaluate"].update(seed=["train", "all"], pseudo=["all", "val"])
    write_params(params)
    assert run_stage("prepare_data") == 0
    opened: Counter[Path] = Counter()

    def count(path: Path) -> np.ndarray:
        opened[path] += 1
        return read_mask(path)

    for module in ("masks", "figures"):
        monkeypatch.setattr(f"rca.evaluation.{module}.read_mask", count)
    metrics, _ = score()
    assert set(opened.values()) == {1}
    assert len(opened) == 3 * len(manifest.images)  # the truth, and the pseudo labels of two thresholds
    assert metrics["seed"]["all"]["best"]["images"] == 14
    assert metrics["seed"]["train"]["best"]["images"] == 9
    assert metrics["pseudo"]["all"]["best"]["miou"] != metrics["pseudo"]["val"]["best"]["miou"]


def test_examples_tell_how_good_each_mask_is(build: Callable[..., Manifest]) -> None:
    manifest = build(evaluate={"examples": None, "examples_split": "val"})
    score()
    folder = Path("runs/shapes/evaluation/cam-0")
    best = json.loads((folder / "threshold.json").read_text())["best"]
    table = pd.read_csv(folder / "examples.csv").set_index(["image", "kind", "label"])["iou"]
    ids = {record.id for record in manifest.select("val")}
    assert {path.name for path in (folder / "examples").iterdir()} == ids
    assert set(table.index.get_level_values("image")) == ids
    for record in manifest.select("val"):
        truth = np.asarray(Image.open(manifest.truth(record)))
        scores = np.asarray(Image.open(folder / f"examples/{record.id}/scores.png")) / 255
        found = np.asarray(Image.open(folder / f"examples/{record.id}/seed.png")) > 0
        clear = abs(scores - best) > 1 / 255  # what is not as near to the threshold as a picture can tell
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(found[clear], (scores > best)[clear])
        for kind in ("seed", "pseudo"):
            mask = np.asarray(Image.open(folder / f"examples/{record.id}/{kind}.png"))
            known = truth != IGNORE
            labels = np.union1d(truth[known], mask[known])
            ious = jaccard_score(truth[known], mask[known], labels=labels, average=None)
            assert table[record.id, kind].to_dict() == pytest.approx(dict(zip(labels, ious, strict=True)), abs=1e-4)


@pytest.mark.parametrize("examples", [0, 3])
def test_so_many_examples_are_kept(build: Callable[..., Manifest], examples: int) -> None:
    build(evaluate={"examples": examples, "examples_split": "train"})
    score()
    assert len(list(Path("runs/shapes/evaluation/cam-0").glob("examples/*"))) == examples
    table = pd.read_csv("runs/shapes/evaluation/cam-0/examples.csv")
    assert table["image"].nunique() == examples


def test_the_classes_of_the_report_are_those_of_the_results(build: Callable[..., Manifest]) -> None:
    build()
    score()
    assert (PATHS.evaluation / "per_class.csv").read_bytes() == PATHS.per_class.read_bytes()


def test_a_figure_that_there_is_nothing_to_average_for_is_null(build: Callable[..., Manifest]) -> None:
    manifest = build()
    for record in manifest.select("val"):
        write_mask(manifest.truth(record), np.full((record.height, record.width), IGNORE, np.uint8))
    metrics, _ = score()
    assert metrics["seed"]["val"]["best"]["miou"] is None
    assert metrics["seed"]["train"]["best"]["miou"] > 0


def test_seeds_of_predicted_tags_need_their_maps(
    build: Callable[..., Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    build()
    params = load_params(Path("params.yaml"))  # changed after the maps were made
    params["make_cam"]["predicted_tags"] = {"splits": ["val"]}
    params["evaluate"]["seed_predicted_tags"] = ["val"]
    write_params(params)
    assert run_stage("evaluate", **PLACE) == 2
    assert "add its split to make_cam.predicted_tags.splits" in capsys.readouterr().err


def test_confusion_precision_recall_and_errors_agree_with_sklearn(build: Callable[..., Manifest]) -> None:
    manifest = build(evaluate={"seed": ["val"], "pseudo": []})
    metrics, _ = score()
    threshold = read_json(PATHS.threshold)["best"]

    def read(record: ImageRecord, shard: Shard) -> np.ndarray:
        maps = shard.read(record.id)
        return label_pixels(enlarge(maps.scores, record.height, record.width), maps.labels, threshold)

    truth, mask = read_pairs(manifest, "val", read)
    labels = list(range(len(manifest.classes) + 1))

    def choose(table: pd.DataFrame) -> pd.DataFrame:
        return table[(table["kind"] == "seed") & (table["split"] == "val") & (table["threshold"] == "best")]

    entries = choose(pd.read_csv(PATHS.evaluation / "confusion.csv"))
    pixels = np.zeros((len(labels), len(labels)), int)
    pixels[entries["truth"], entries["predicted"]] = entries["pixels"]
    np.testing.assert_array_equal(pixels, confusion_matrix(truth, mask, labels=labels))
    table = choose(pd.read_csv(PATHS.per_class)).set_index("class").loc[["background", *manifest.classes]]
    precision, recall, _, _ = precision_recall_fscore_support(truth, mask, labels=labels, zero_division=np.nan)
    np.testing.assert_allclose(table["precision"], precision, atol=1e-6)
    np.testing.assert_allclose(table["recall"], recall, atol=1e-6)
    errors = choose(pd.read_csv(PATHS.evaluation / "errors.csv"))
    assert errors["hit"].sum() == ((truth == mask) & (truth > 0)).sum()
    shares = table.loc[list(manifest.classes), list(SHARES)]
    np.testing.assert_allclose(
        shares.sum(axis=1, skipna=False), 1 - table.loc[list(manifest.classes), "iou"], atol=1e-5
    )
    figures = metrics["seed"]["val"]["best"]
    assert {name: figures[name] for name in SHARES} == pytest.approx(shares.mean().to_dict(), abs=2e-6)
