import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rca.core.errors import UserError
from rca.core.settings import load_params
from rca.params.instances import list_instances
from rca.params.read import read_params
from rca.params.schema import Params
from rca.params.validate import list_used_splits

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid(path: Path) -> None:
    params = read_params(path)
    assert tuple(params.described) == params.runs
    assert params.dataset.name in {*params.project.links, *list_instances(params)["generate_data"]["items"]}


def test_there_is_the_embedded_preset() -> None:
    assert "shapes" in {path.stem for path in PRESETS}


OFF = {
    "refine_crf.enabled": False,
    "train_seg.enabled": False,
    "evaluate.refined": [],
    "evaluate.segmentation": [],
}


FROZEN = {
    "train_cam.backbone": {
        "name": "mobilenet_v2",
        "trainable": "none",
        "weights": {"source": "torchvision", "name": "IMAGENET1K_V1"},
    },
    "train_cam.augmentation": {"scale": [1.0, 1.0], "crop": None, "jitter": 0.0},
}


def read_changed(tmp_path: Path, changes: dict[str, Any]) -> Params:
    """The preset shapes with values changed at dotted keys; `...` deletes a key."""
    data = load_params(ROOT / "workflow/presets/shapes.yaml")
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = data
        for part in parents:
            place = place.setdefault(part, {})
        if value is ...:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(data))
    return read_params(path)


# A run whose segmentation learns from masks of another's network, and one that learns from another's masks.
ROUND = {"masks_from": "cam", "train_seg": {"masks": "relabelled"}}
SHARED = {"masks_from": "cam"}
# An ensemble.
BOTH = {"averages": {"runs": ["cam"]}}
# A run that takes the network of cam.
TAKES = {"base": "cam", "train": "none", "method": "rca_extended"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian_cam": {}}, "trian_cam is an unknown key"),
        ({"dataset": ...}, "dataset is missing: add it"),
        ({"make_cam": [1]}, "make_cam must be a section of keys, not [1]"),
        ({"run.rca.make_cam": 3}, "run.rca.make_cam must be a section of keys, not 3"),
        ({"run.rca.evaluate": {}}, "run.rca.evaluate cannot differ"),
        ({"run.rca.prepare_data": {}}, "run.rca.prepare_data cannot differ between runs: set it in prepare_data"),
        ({"run.rca.base": "hsc"}, "run.rca.base names hsc, but there is no section run.hsc: add it"),
        ({"run.rca.base": "rca"}, "run.rca.base leads back to rca: remove it there"),
        ({"run.cam.base": "rca", "run.rca.base": "cam"}, "leads back to "),
        ({"resources.train": {"gpu": 1}}, "resources: train is not a stage: name a stage, or other"),
        ({"train_cam.optimisation.learning_rate": "0.1"}, 'train_cam.optimisation.learning_rate is "0.1": '),
        ({"train_cam.optimisation.epochs": 0}, "train_cam.optimisation.epochs is 0: "),
        (
            {"train_cam.backbone.output_stride": 32},
            "train_cam.backbone: the features of small are at stride 8 or 16: set",
        ),
        ({"train_cam.backbone.weights": {"source": "web"}}, "train_cam.backbone.weights"),
        ({"choose_threshold.background": {"kind": "constant"}}, "background.threshold is missing: add it"),
        (
            {"choose_threshold.background": {"kind": "two_thresholds", "low": 0.4, "high": 0.3}},
            "choose_threshold.background: low must be below high",
        ),
        ({"choose_threshold.background": {"kind": "saliency", "salient": 0}}, "background.salient is 0: "),
        ({"walk_scores.walk": {"radius": 1}}, "walk_scores.walk.radius is 1: "),
        ({"walk_scores.walks": {}}, "walk_scores.walks is an unknown key"),
        ({"train_affinity.labels": {"low": 0.5, "high": 0.4}}, "train_affinity.labels: low must not exceed high"),
        ({"run.cam.walk_scores": {"walk": {"steps": 0}}}, "run.cam.walk_scores.walk.steps is 0: "),
        ({"run.cam.train_affinity": {"labels": {"high": 1.5}}}, "run.cam.train_affinity.labels.high is 1.5: "),
        (
            {"run.cam.train_affinity": {"optimisation": {"processes": 2}}},
            "train_affinity trains with 2 processes, but resources.train_cam.gpu is 1: set it to 2, or",
        ),
        ({"refine_crf.crf.iterations": 0}, "refine_crf.crf.iterations is 0: "),
        ({"run.cam.train_cam": {"optimisation": {"epcohs": 3}}}, "run.cam.train_cam.optimisation.epcohs is an unknown"),
        ({"run.cam.make_cam": {"stride": 0}}, "run.cam.make_cam.stride is 0: "),
        ({"make_cam.predicted_tags": {"splits": ["test"]}}, "make_cam: predicted_tags.splits names test: add it to"),
        ({"evaluate.seed_predicted_tags": ["val"]}, "seed_predicted_tags names val: add it to make_cam.predicted_tags"),
        (
            {"evaluate.refined_predicted_tags": ["val"]},
            "refined_predicted_tags names val: add it to make_cam.predicted",
        ),
        ({"run.rca.make_cam": {"predicted_tags": {"splits": ["val"]}}}, "predicted_tags cannot differ between runs"),
        ({"run.rca.options.memory": {"gate": 1.0}}, "run.rca.options.memory.gate is 1.0: "),
        ({"run.rca.options.contrst": {}}, "run.rca.options.contrst is an unknown key"),
        ({"run.cam.options": {"memory": {}}}, "run.cam.options.memory is an unknown key"),
        ({"run.cam.host_options": {"memory": {}}}, "run.cam.host_options.memory is an unknown key"),
        ({"run.cam.supervision": "boxes"}, 'run.cam.supervision is "boxes": '),
        (
            {"run.cam.supervision": "masks", "evaluate.segmentation": []},
            "run.cam.supervision is masks, which trains and scores the segmentation alone: set train_seg.enabled",
        ),
        ({"train_cam.second_view": 1.5}, "train_cam.second_view is 1.5: "),
        ({"run.rca.method": "rcaa"}, "There is no method rcaa: choose one of "),
        ({"run.cam.host": "vgg"}, "There is no host vgg: choose one of "),
        ({"run.cam.train_cam": {"backbone": {"output_stride": 16}}}, "run.cam.train_cam.backbone cannot differ"),
        ({"run.cam.make_cam": {"threads": 2}}, "run.cam.make_cam.threads cannot differ"),
        ({"train_cam.optimisation.processes": 9}, "processes must not exceed batch_size"),
        ({"run.rca.train_seg": {"optimisation": {"processes": 2}}}, "resources.train_seg.gpu is 1: set it to 2, or"),
        ({"runs": ["cam", "rca", "cam"]}, "a run is listed twice"),
        ({"runs": ["cam", "new"]}, "runs lists new, but there is no section run.new"),
        ({"runs": []}, "runs is []: "),
        ({"runs": ["Cam"]}, "'Cam' cannot name a run"),
        ({"runs": ["a-b"]}, "'a-b' cannot name a run"),
        ({"seeds": [0, 0]}, "seeds must be distinct"),
        ({"seeds": [-1]}, "seeds must be distinct whole numbers from 0 to 2147483647"),
        ({"shards": [0, 2]}, "shards must count up from 0: write [0, 1]"),
        ({"shards": [1]}, "shards must count up from 0: write [0]"),
        (
            {"run.rca.train_cam": {"sources": ["web"]}, "dataset.sources": {"single_label": {}}},
            "run.rca.train_cam.sources names web, but dataset.sources has single_label: add it there.",
        ),
        (
            {"dataset.name": "other"},
            "generate_data draws the dataset shapes, but dataset.name is other: set train to 0",
        ),
        ({"dataset.format": "coco17"}, "dataset"),
        ({"evaluate.segmentation": ["train"]}, "evaluate.segmentation names train: add it to predict_seg.splits"),
        ({"refine_crf.enabled": False}, "evaluate.refined lists splits, but refine_crf.enabled is false: empty the"),
        ({"train_seg.enabled": False}, "evaluate.segmentation lists splits, but train_seg.enabled is false: empty"),
        ({"refine_crf.enabled": False, "evaluate.refined": []}, "train_seg.masks is refined, but refine_crf.enabled"),
        ({**FROZEN, "train_cam.augmentation.crop": 96}, "train_cam: augmentation.crop needs new features"),
        ({**FROZEN, "train_cam.augmentation.scale": [1.0, 1.2]}, "augmentation.scale needs new features"),
        ({**FROZEN, "train_cam.augmentation.jitter": 0.1}, "augmentation.jitter needs new features"),
        (
            {**FROZEN, "run.rca.make_cam": {"inference": {"flip": False}}},
            "run.rca.make_cam.inference cannot differ between runs while train_cam.backbone.trainable is none",
        ),
        ({**FROZEN, "run.cam.train_cam": {"split": "val"}}, "run.cam.train_cam.split cannot differ between runs"),
        ({**FROZEN, "run.cam.host": "seam"}, "run.cam: the host seam needs the images themselves, but train_cam."),
        ({"run.cam.host": "seam", "run.cam.host_options": {"hard_share": 0}}, "run.cam.host_options.hard_share is 0: "),
        ({"run.cam.train_seg": {"enabled": False}}, "run.cam.train_seg.enabled cannot differ between runs"),
        ({"run.rca.train": "some"}, 'run.rca.train is "some": '),
        ({"run.rca.train": "none"}, "run.rca: train is none, which takes the network of base, but base is null: name"),
        (
            {"run.rca": TAKES, "runs": ["rca"]},
            "run.rca.train is none, which takes the network of cam: add that run to runs.",
        ),
        (
            {"run.rca": {**TAKES, "host": "seam"}},
            "run.rca.train is none, so its host must be that of cam: remove run.rca.host.",
        ),
        (
            {"run.cam.host": "eps", "run.rca": {**TAKES, "host_options": {"overlap": 0.3}}},
            "run.rca.train is none, so its host_options must be that of cam: remove run.rca.host_options.",
        ),
        (
            {"run.rca": {**TAKES, "train_cam": {"optimisation": {"epochs": 3}}}},
            "run.rca.train is none, so nothing is trained by run.rca.train_cam: remove it.",
        ),
        (
            {"run.rca": TAKES, "run.third": {**TAKES, "base": "rca"}, "runs": ["cam", "rca", "third"]},
            "run.third.train is none, but its base rca trains no network: name another in base.",
        ),
        (
            {"run.rca": {**ROUND, "supervision": "masks"}},
            "run.rca: masks_from is cam, but supervision is masks, the true ones: remove one",
        ),
        ({"run.rca": ROUND, "runs": ["rca"]}, "run.rca.masks_from is cam: add that run to runs."),
        (
            {"run.rca": ROUND, "run.cam.supervision": "masks"},
            "run.rca.masks_from is cam, which learns from true masks: name a run that learns from tags.",
        ),
        (
            {"run.rca": ROUND, "run.cam": {**ROUND, "masks_from": "rca"}},
            "run.rca.masks_from leads back to cam: name a run that learns from tags.",
        ),
        ({"run.rca": {**ROUND, "masks_from": "rca"}}, "run.rca.masks_from leads back to rca: name a run"),
        (
            {"run.rca": ROUND, "run.third": {"masks_from": "rca"}, "runs": ["cam", "rca", "third"]},
            "run.third.masks_from is rca, which makes no refined masks: name the run that does, or set run.third.train",
        ),
        (
            {"run.rca": SHARED, "evaluate.relabelled": ["train"]},
            "evaluate.relabelled lists splits, but no run's train_seg.masks is relabelled: empty the list.",
        ),
        (
            {"train_seg.masks": "relabelled"},
            "train_seg.masks is relabelled, which the network of another run does: name that run in run.cam.masks_from",
        ),
        ({"run.rca": {"averages": {"runs": ["cam", "cam"]}}}, "a run is listed twice: list each once"),
        ({"run.rca": {"averages": {"runs": []}}}, "run.rca.averages.runs is []: "),
        (
            {"run.rca": {**BOTH, **SHARED}},
            "averages makes score maps, of which masks_from leaves none: remove one of the",
        ),
        ({"run.rca": {**BOTH, "supervision": "masks"}}, "averages makes score maps, of which supervision leaves none"),
        ({"run.rca": {**BOTH, "base": "cam", "train": "none"}}, "averages takes score maps, and train: none a network"),
        ({"run.rca": BOTH, "runs": ["rca"]}, "run.rca.averages.runs names cam: add that run to runs."),
        (
            {"run.rca": {"averages": {"runs": ["rca"]}}},
            "run.rca.averages.runs names rca, which makes no score maps of its own: name a run that does.",
        ),
        (
            {"run.rca": BOTH, "run.cam.supervision": "masks"},
            "run.rca.averages.runs names cam, which makes no score maps of its own",
        ),
        (
            {
                "run.third": {"averages": {"runs": ["cam", "rca"]}},
                "run.rca.make_cam": {"stride": 4},
                "runs": ["cam", "rca", "third"],
            },
            "run.third.averages.runs names rca, whose make_cam.stride or make_cam.splits differ from the first's: make",
        ),
        (
            {"run.rca": BOTH, "walk_scores.enabled": True},
            "run.rca.walk_scores.enabled needs a network, and an ensemble has none: set it to false there.",
        ),
        (
            {"run.rca": ROUND, "evaluate.segmentation": []},
            "run.rca.masks_from is cam, which trains and scores the segmentation alone: set train_seg.enabled",
        ),
        (
            {"run.rca": TAKES, "run.cam.supervision": "masks"},
            "run.rca.train is none, but its base cam trains no network: name another in base.",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_changed(tmp_path, changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_score_maps_walk_in_the_runs_that_say_so(tmp_path: Path) -> None:
    def list_walking(changes: dict[str, Any]) -> list[str]:
        return list_instances(read_changed(tmp_path, changes))["walk_scores"]["runs"]

    assert list_walking({}) == []
    assert list_walking({"run.rca.walk_scores": {"enabled": True}}) == ["rca"]
    assert list_walking({"walk_scores.enabled": True, "run.rca.walk_scores": {"enabled": False}}) == ["cam"]


def test_a_run_takes_a_network_or_trains_one(tmp_path: Path) -> None:
    third = {"base": "rca", "method": "hsc"}  # inherits no train
    stages = list_instances(
        read_changed(tmp_path, {"run.rca": TAKES, "run.third": third, "runs": ["cam", "rca", "third"], "seeds": [0, 4]})
    )
    assert stages["train_cam"]["runs"] == ["cam", "third"]
    assert stages["take_network"]["each"] == {
        f"rca-{seed}": {"run": "rca", "seed": seed, "place": {"run": "rca", "seed": seed}, "taken_from": "cam"}
        for seed in (0, 4)
    }
    assert stages["snapshot_memory"]["runs"] == ["rca"]
    assert stages["make_cam"]["runs"] == ["cam", "rca", "third"]


@pytest.mark.parametrize("name", ["data", "classifier", "segmenter", "evaluation", "report"])
def test_a_run_cannot_take_the_name_of_a_folder_beside_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' cannot name a run"):
        read_changed(tmp_path, {"runs": [name]})


@pytest.mark.parametrize(
    "changes",
    [
        {"runs": ["rca"]},
        {"runs": ["rca", "cam"]},
        {"runs": ["cam"]},
        {"run.rca.train_cam": {"sources": ["web"]}, "dataset.sources": {"web": {"weight": 0.5}}},
        {"run.cam.train_cam": {"optimisation": {"epochs": 3}, "augmentation": {"crop": None}}},
        {"run.rca.options": {"region_threshold": 0.3, "contrast": {"mixup": None}}},
        {"seeds": [7], "shards": [0]},
        {"train_cam.optimisation.processes": 2, "resources.train_cam.gpu": 2},
        {"train_cam.optimisation.processes": 2, "resources.train_cam.gpu": 0},
        {"train_seg.enabled": False, "evaluate.segmentation": []},
        {"refine_crf.enabled": False, "evaluate.refined": [], "train_seg.masks": "pseudo"},
        OFF,
        {"make_cam": ..., "train_affinity": ..., "evaluate": None},
        FROZEN,
        {**FROZEN, "run.cam.train_cam": {"optimisation": {"epochs": 3}}, "run.rca.make_cam": {"stride": 4}},
        {"run.rca.make_cam": {"inference": {"flip": False}}},
        {"run.rca.host": "seam", "run.rca.host_options": {"cross_weight": 0.5}},
        {"generate_data": ..., "dataset.name": "mine"},
        {"run.rca": TAKES},
        {"run.rca": ROUND},
        {"run.rca": ROUND, "evaluate.relabelled": ["train"]},
        {"run.rca": SHARED},
        {"run.rca": BOTH},
        {"run.rca": {**BOTH, "walk_scores": {"enabled": False}}, "walk_scores.enabled": True},
        {"run.rca": {**TAKES, "make_cam": {"stride": 4}}, **FROZEN},
    ],
)
def test_sound_changes_are_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    params = read_changed(tmp_path, changes)
    assert params.runs == tuple(changes.get("runs", ["cam", "rca"]))


def test_every_section_that_names_splits_is_listed(tmp_path: Path) -> None:
    found = list_used_splits(read_changed(tmp_path, {}))
    assert found["train_cam.split"] == ("train",)
    assert found["evaluate.classification"] == ("train", "val")
    assert {split for splits in found.values() for split in splits} == {"train", "val"}
