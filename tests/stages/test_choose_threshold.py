"""The stage that chooses thresholds, where all, some or none of the images have true masks."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stages import locate, read_preset, run_stage, write_params

from rca.core.files import read_mask
from rca.data.manifest import read_manifest
from rca.labels.background import PowerBackground
from rca.labels.score_maps import ScoreMaps, write_shard

LABELS = {"a1": (1,), "b2": (1, 3), "c3": ()}


@pytest.fixture
def choose(make_voc: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Make a folder of the small dataset with the masks of some images, and choose a threshold on its train split.

    The scores are such that the mask's pixels score 0.75 and all others 0.25: any threshold between is perfect.
    """
    voc = make_voc()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    params = read_preset()
    dataset = {"name": "mine", "format": "folder", "splits": ["train"]}
    params.update(generate_data={}, shards=[0], dataset=dataset)
    params["choose_threshold"].update(candidates=9)
    write_params(params)

    def run(masked: tuple[str, ...]) -> dict:
        root = Path("data/mine")
        root.mkdir(parents=True)
        (voc / "JPEGImages").rename(root / "images")
        (root / "masks").mkdir()
        for name in masked:
            (voc / f"SegmentationClass/{name}.png").rename(root / f"masks/{name}.png")
        (root / "classes.txt").write_text("cat\ndog\ncow\n")
        (root / "tags.csv").write_text("id,tags\na1,cat\nb2,cat;cow\nc3,\n")
        assert run_stage("prepare_data") == 0
        paths, maps = locate("cam", dataset="mine"), {}
        for record in read_manifest(paths.dataset.manifest).images:
            labels = np.array(LABELS[record.id], np.uint8)
            scores = np.full((len(labels), record.height, record.width), 0.25, np.float16)
            if record.mask is not None:
                truth = read_mask(root / record.mask)
                scores[labels[:, None, None] == truth] = 0.75
            maps[record.id] = ScoreMaps(labels, scores, np.zeros(3, np.float32))
        write_shard(paths.maps_of(0, "scores"), maps, {})
        assert run_stage("choose_threshold", run="cam", seed=0) == 0
        with open(paths.threshold_curve) as file:
            return {**json.loads(paths.threshold.read_text()), "curve": list(csv.DictReader(file))}

    return run


FIXED = PowerBackground(kind="power", alpha=4).find_threshold()


@pytest.mark.parametrize("masked", [("a1", "b2", "c3"), ("b2",)])
def test_the_best_threshold_is_that_on_the_true_masks(choose: Callable[..., dict], masked: tuple[str, ...]) -> None:
    found = choose(masked)
    assert found["best"] == pytest.approx(0.3)  # the first of those at which the masks are perfect
    assert found["fixed"] == pytest.approx(FIXED)
    assert found["split"] == "train"
    perfect = [float(line["threshold"]) for line in found["curve"] if float(line["miou"]) > 0.999]
    assert perfect == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    counted = {float(line["threshold"]): (int(line["pixels"]), int(line["right"])) for line in found["curve"]}
    objects = counted.pop(0.7)  # scores above 0.7 are those of the masks, all right
    assert objects[0] == objects[1] > 0
    assert counted.pop(0.2)[1] == 0  # of the others none is
    assert set(counted.values()) == {(0, 0)}


def test_without_true_masks_the_fixed_threshold_stands(
    choose: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    found = choose(())
    assert found["best"] == found["fixed"] == pytest.approx(FIXED)
    assert found["split"] is None
    assert found["curve"] == []
    assert "no image of train has a true mask: the fixed threshold" in capsys.readouterr().out
