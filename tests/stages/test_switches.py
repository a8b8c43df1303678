"""Which instances each stage has: what is switched off or not needed has none."""

from pathlib import Path
from typing import Any

import pytest
from stages import read_preset, run_stage, write_params

from rca.core.errors import UserError
from rca.params.instances import describe, list_instances
from rca.params.pin import pin
from rca.params.read import read_params
from rca.params.schema import load_stages
from rca.pipeline.resolve import INSTANCES
from rca.stages.base.pins import Instance, read_pins

LABELLING = ("train_cam", "make_cam", "choose_threshold", "make_pseudo", "refine_crf", "pin_masks")
SEGMENTING = ("train_seg", "predict_seg", "evaluate")
WALK = ("pin_scores", "train_affinity", "walk_scores")
SINGLE = {"prepare_data", "pin_images", "tabulate", "render_report"}  # stages of one instance


def name(stages: tuple[str, ...], *instances: Any) -> dict[str, list[Any]]:
    return {stage: list(instances) for stage in stages}


# Of the embedded preset, the runs, items or shards of each other stage.
DEFAULT = {
    "generate_data": ["shapes"],
    "fetch_weights": ["classifier", "segmenter"],
    **name((*LABELLING, *SEGMENTING), "cam", "rca"),
    "snapshot_memory": ["rca"],
    **name(("cache_features", *WALK, "pin_truth")),
    **name(("take_network", "relabel_masks", "pin_maps", "average_maps")),
}
FULL_ALONE = {
    "fetch_weights": ["segmenter"],
    **name((*LABELLING, "snapshot_memory")),
    **name((*SEGMENTING, "pin_truth"), "full"),
}
FULL = {"full": {"supervision": "masks"}}
FROZEN = {
    "backbone": {
        "name": "mobilenet_v2",
        "trainable": "none",
        "weights": {"source": "torchvision", "name": "IMAGENET1K_V1"},
    },
    "augmentation": {"scale": [1.0, 1.0], "crop": None, "jitter": 0},
}
NO_SEGMENTATION = {"train_seg": {"enabled": False}, "evaluate": {"segmentation": []}}
# A second round, on masks by the network of cam, and a run that learns from the masks of cam themselves.
ROUNDS = {
    "second": {"masks_from": "cam", "train_seg": {"masks": "relabelled"}},
    "shared": {"masks_from": "cam", "train_seg": {"head": "linear"}},
}
# What params say otherwise than the preset, and the stages whose instances differ then.
CASES: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "default": ({}, {}),
    "walk": ({"walk_scores": {"enabled": True}}, name(WALK, "cam", "rca")),
    "one run walks": ({"run": {"rca": {"walk_scores": {"enabled": True}}}}, name(WALK, "rca")),
    "one run does not walk": (
        {"walk_scores": {"enabled": True}, "run": {"rca": {"walk_scores": {"enabled": False}}}},
        name(WALK, "cam"),
    ),
    "no refinement": (
        {"refine_crf": {"enabled": False}, "evaluate": {"refined": []}, "train_seg": {"masks": "pseudo"}},
        name(("refine_crf",)),
    ),
    "no segmentation": (
        NO_SEGMENTATION,
        {"fetch_weights": ["classifier"], **name(("pin_masks", "train_seg", "predict_seg"))},
    ),
    "full supervision beside another run": (
        {"runs": ["cam", "full"], "run": FULL, "walk_scores": {"enabled": True}},
        {
            **name((*LABELLING, *WALK), "cam"),
            **name(SEGMENTING, "cam", "full"),
            **name(("snapshot_memory",)),
            **name(("pin_truth",), "full"),
        },
    ),
    "full supervision alone": ({"runs": ["full"], "run": FULL, "walk_scores": {"enabled": True}}, FULL_ALONE),
    "rounds": (
        {"runs": ["cam", "second", "shared"], "run": ROUNDS, "walk_scores": {"enabled": True}},
        {
            **name((*LABELLING, *WALK), "cam"),
            **name(("pin_masks", *SEGMENTING), "cam", "second", "shared"),
            **name(("relabel_masks",), "second"),
            **name(("snapshot_memory",)),
        },
    ),
    "ensemble": (
        {"runs": ["cam", "rca", "both"], "run": {"both": {"averages": {"runs": ["cam", "rca"]}}}},
        {
            **name(("pin_maps", "average_maps"), "both"),
            **name(("choose_threshold", "make_pseudo", "refine_crf", "pin_masks", *SEGMENTING), "cam", "rca", "both"),
        },
    ),
    "frozen backbone": ({"train_cam": FROZEN}, name(("cache_features",), 0, 1)),
    "frozen backbone and full supervision alone": ({"runs": ["full"], "run": FULL, "train_cam": FROZEN}, FULL_ALONE),
    "no memory": ({"run": {"rca": {"method": "hsc", "options": {}}}}, name(("snapshot_memory",))),
    "nothing generated": ({"generate_data": {"train": 0}}, name(("generate_data",))),
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(changes: dict[str, Any]) -> None:
    """Write the embedded preset with what differs from it; sections of a run and of a stage are updated."""
    params = read_preset()
    for key, value in changes.items():
        for inner_key, inner in value.items() if isinstance(value, dict) else ():
            old = params.setdefault(key, {}).get(inner_key)
            params[key][inner_key] = {**old, **inner} if isinstance(old, dict) else inner
        if not isinstance(value, dict):
            params[key] = value
    write_params(params)


@pytest.mark.parametrize("case", CASES)
def test_a_stage_has_the_instances_that_leave_anything_to_do(case: str) -> None:
    changes, differing = CASES[case]
    write(changes)
    found = {
        stage: list(dict.fromkeys(one["run"] for one in listed["each"].values()))
        if "each" in listed
        else next(listed[key] for key in ("runs", "items", "shards") if key in listed)
        for stage, listed in list_instances(read_params()).items()
        if stage not in SINGLE
    }
    assert found == DEFAULT | differing
    assert set(load_stages()) == SINGLE | set(found)


def test_an_instance_that_does_not_exist_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    write(NO_SEGMENTATION)
    assert run_stage("train_seg", run="rca", seed=0) == 2
    assert (
        capsys.readouterr().err
        == "error: train_seg has nothing to do with these params: change them, or run another stage.\n"
    )
    assert not Path("logs").exists()
    assert run_stage("snapshot_memory", run="cam", seed=0) == 2
    assert "snapshot_memory has no run cam: name one of rca." in capsys.readouterr().err


def test_the_segmentation_of_one_run_cannot_be_off_alone() -> None:
    write({"run": {"rca": {"train_seg": {"enabled": False}}}})
    with pytest.raises(
        UserError, match=r"run\.rca\.train_seg\.enabled cannot differ between runs: set it in train_seg"
    ):
        read_params()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"enabled": 0}, "refine_crf.enabled is 0: input should be a valid boolean"),
        ({"enabled": "false"}, 'refine_crf.enabled is "false": input should be a valid boolean'),
        ("off", "refine_crf must be a section of keys, not 'off'"),
    ],
)
def test_a_switch_is_on_or_off(section: Any, message: str) -> None:
    params = read_preset()
    params["refine_crf"] = section
    write_params(params)
    with pytest.raises(UserError) as caught:
        read_params()
    assert message in str(caught.value)


def test_the_list_for_dvc_is_written_where_it_differs() -> None:
    write({})
    assert pin()
    before = INSTANCES.read_text()
    assert not pin()
    write({"train_cam": {"neck": 8}})
    assert not pin()
    assert INSTANCES.read_text() == before
    write({"walk_scores": {"enabled": True}})
    assert pin()
    assert INSTANCES.read_text() != before


def test_resources_and_threads_are_of_the_stage_or_of_what_it_names() -> None:
    write({"resources": {"make_cam": {"gpu": 1, "mem_mb": 7}, "other": {"mem_mb": 5}}, "refine_crf": {"workers": 3}})
    params = read_params()
    found = {stage: describe(params, stage, declared) for stage, declared in load_stages().items()}
    assert found["cache_features"]["mem_mb"] == found["make_cam"]["mem_mb"] == 7  # it has no section of its own
    assert (found["tabulate"]["mem_mb"], found["tabulate"]["gpu"], found["tabulate"]["threads"]) == (5, 0, 1)
    assert found["refine_crf"]["threads"] == 3


def test_pins_have_exactly_these_instances() -> None:
    write(CASES["full supervision beside another run"][0])
    pin()
    data, pins = read_pins().data, read_pins()
    for stage, listed in list_instances(read_params()).items():
        for key in ("runs", "items"):
            assert key not in listed or list(data[stage]) == listed[key]
    _, context, task = pins.prepare(Instance("train_seg", run="full", seed=1))
    assert (context.run, context.seed, context.shard) == ("full", 1, None)
    assert task.enabled
