"""The stages of an ensemble: its members' maps are pinned and averaged, and masks are made of the mean."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stages import locate, run_stage, run_stages, shrink_preset, write_params

from rca.core.files import read_json, read_mask
from rca.data.manifest import read_manifest
from rca.data.partition import select_from_shard
from rca.data.shapes.dataset import CLASS_NAMES
from rca.labels.background import label_pixels
from rca.labels.score_maps import ScoreMaps, enlarge, open_shard, write_shard
from rca.params.instances import list_instances
from rca.params.read import read_params
from rca.stages.base.pins import Instance

SEEDS, SHARDS = (0, 3), (0, 1)
MEMBERS = {"both": {0: ("cam-0", "rca-0"), 3: ("cam-3", "rca-3")}, "every": dict.fromkeys(SEEDS, ("cam-0", "cam-3"))}
Maps = dict[tuple[str, str], ScoreMaps]


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maps:
    """Two runs of two seeds with random score maps, by member and image, and two ensembles of them."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=6, val=3)
    params.update(runs=["cam", "rca", "both", "every"], seeds=list(SEEDS), shards=list(SHARDS))
    params["run"]["both"] = {"averages": {"runs": ["cam", "rca"]}}
    params["run"]["every"] = {"averages": {"runs": ["cam"], "seeds": "all"}}
    params["choose_threshold"]["candidates"] = 9
    params["make_cam"]["predicted_tags"] = {"splits": ["val"]}
    params["evaluate"].update(seed_predicted_tags=["val"], refined=[], segmentation=[])
    params["refine_crf"] = {"enabled": False}
    params["train_seg"]["enabled"] = False
    write_params(params)
    run_stages(Instance("generate_data", item="shapes"), Instance("prepare_data"), Instance("pin_images"))
    random, written = np.random.default_rng(0), {}
    for run in ("cam", "rca"):
        for seed in SEEDS:
            paths = locate(run, seed)
            for shard in SHARDS:
                records = select_from_shard(read_manifest(paths.dataset.manifest, f"shards/{shard}"), ["train", "val"])
                for record in records:
                    labels = np.array([tag + 1 for tag in record.tags], np.uint8)
                    scores = random.beta(0.6, 0.6, (len(labels), 24, 24)).astype(np.float16)
                    logits = random.normal(size=len(CLASS_NAMES)).astype(np.float32)
                    written[f"{run}-{seed}", record.id] = ScoreMaps(labels, scores, logits)
                of_shard = {record.id: written[f"{run}-{seed}", record.id] for record in records}
                write_shard(paths.maps_of(shard, "scores"), of_shard, {"stride": 2})
    return written


def average(run: str) -> None:
    instances: list[Instance] = []
    for seed, shard in product(SEEDS, SHARDS):
        place: dict[str, Any] = {"run": run, "seed": seed, "shard": shard}
        instances += [Instance("pin_maps", item=member, **place) for member in MEMBERS[run][seed]]
        instances.append(Instance("average_maps", **place))
    run_stages(*instances)


def test_an_ensemble_has_the_stages_after_its_maps(maps: Maps) -> None:
    stages = list_instances(read_params())
    with_runs = {name for name, one in stages.items() if "both" in one.get("runs", ())}
    assert with_runs == {"average_maps", "choose_threshold", "make_pseudo", "evaluate"}
    assert {one["run"] for one in stages["pin_maps"]["each"].values()} == {"both", "every"}
    assert stages["pin_maps"]["each"]["cam-3-every-0-1"] == {
        "item": "cam-3", "run": "every", "seed": 0, "shard": 1, "member": "cam", "member_seed": 3, "maps": "scores",
        "place": {"item": "cam-3", "run": "every", "seed": 0, "shard": 1},
    }  # fmt: skip
    assert len(stages["pin_maps"]["each"]) == 2 * len(SEEDS) * 2 * len(SHARDS)


@pytest.mark.parametrize("run", MEMBERS)
def test_its_maps_are_the_mean_of_those_of_its_members(maps: Maps, run: str) -> None:
    average(run)
    for seed, members in MEMBERS[run].items():
        for shard in SHARDS:
            with open_shard(locate(run, seed).maps_of(shard, "scores")) as found:
                assert found.ids
                assert found.about == {"stride": 2, "tags": "given", "members": list(members)}
                for name in found.ids:
                    one = found.read(name)
                    given = [maps[member, name] for member in members]
                    expected = sum(each.scores.astype(np.float64) for each in given) / 2
                    np.testing.assert_allclose(one.scores, expected, atol=1e-3)
                    np.testing.assert_allclose(one.logits, sum(each.logits for each in given) / 2, rtol=1e-5)
                    np.testing.assert_array_equal(one.labels, given[0].labels)
                    assert not found.has_predicted(name)


def test_masks_and_figures_are_made_of_the_mean(maps: Maps) -> None:
    average("both")
    paths, place = locate("both", 3), {"run": "both", "seed": 3}
    stale = [paths.model, paths.cam_history]  # of earlier settings
    for path in stale:
        path.mkdir(parents=True)
    pseudo = [Instance("make_pseudo", **place, shard=shard) for shard in SHARDS]
    run_stages(Instance("choose_threshold", **place), *pseudo, Instance("evaluate", **place))
    assert not any(path.exists() for path in stale)
    threshold = read_json(paths.threshold)["fixed"]
    for shard in SHARDS:
        with open_shard(paths.maps_of(shard, "scores")) as found:
            for name in found.ids:
                scores = enlarge(found.read(name).scores, 48, 48)
                expected = label_pixels(scores, found.read(name).labels, threshold)
                mask = read_mask(paths.masks_of("pseudo") / f"{shard}/fixed/{name}.png")
                np.testing.assert_array_equal(mask, expected)
    metrics = read_json(paths.evaluation / "evaluation.json")["metrics"]
    assert set(metrics) == {"seed", "pseudo", "classification"}


def test_maps_that_changed_since_they_were_pinned_are_refused(maps: Maps, capfd: pytest.CaptureFixture[str]) -> None:
    place: dict[str, Any] = {"run": "both", "seed": 0, "shard": 0}
    run_stages(*(Instance("pin_maps", item=member, **place) for member in MEMBERS["both"][0]))
    path = locate("rca", 0).maps_of(0, "scores")
    path.write_bytes(locate("rca", 3).maps_of(0, "scores").read_bytes())
    assert run_stage("average_maps", **place) == 2
    assert f"The score maps {path} are not those that were pinned: run the stage" in capfd.readouterr().err
    assert run_stage("pin_maps", item="cam-7", **place) == 2
    assert "both has no member cam-7: name one of cam-0, rca-0." in capfd.readouterr().err
