"""Numbers and names that mean nothing are refused before anything is made of them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rca.core.errors import UserError
from rca.core.names import check_names
from rca.core.settings import load_params
from rca.params.read import read_params

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))
PLAIN = load_params(ROOT / "workflow/presets/shapes.yaml")


def refuse(tmp_path: Path, key: str, value: Any) -> str:
    """The one sentence that refuses a value."""
    data = copy.deepcopy(PLAIN)
    *parents, last = key.split(".")
    place = data
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as caught:
        read_params(path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text.replace(f"{tmp_path}/", "")) <= 2 * 120
    assert key.rpartition(".")[2].removesuffix("s") in text
    return text


# Numbers of the params, whole or not, of which none may be any of these.
SENSELESS = (-1, 2**64, 1e29, float("nan"), float("inf"), "1:30", True)
NUMBERS = (
    "train_cam.optimisation.epochs",
    "train_cam.optimisation.batch_size",
    "train_cam.optimisation.accumulate",
    "train_cam.optimisation.learning_rate",
    "train_cam.optimisation.backbone_learning_rate",
    "train_cam.optimisation.weight_decay",
    "train_cam.optimisation.poly_power",
    "train_cam.optimisation.workers",
    "train_cam.optimisation.processes",
    "train_cam.augmentation.crop",
    "train_cam.augmentation.jitter",
    "train_cam.neck",
    "train_cam.threads",
    "train_cam.snapshot_every",
    "train_cam.second_view",
    "train_affinity.radius",
    "train_affinity.optimisation.learning_rate",
    "make_cam.stride",
    "make_cam.threads",
    "make_cam.inference.batch_size",
    "prepare_data.workers",
    "generate_data.train",
    "generate_data.val",
    "generate_data.size",
    "generate_data.seed",
    "refine_crf.workers",
    "refine_crf.crf.iterations",
    "refine_crf.crf.bilateral_sxy",
    "walk_scores.walk.memory_mb",
    "walk_scores.walk.steps",
    "choose_threshold.candidates",
    "train_seg.threads",
    "predict_seg.threads",
    "evaluate.examples",
    "render_report.picture_width",
    "resources.other.gpu",
    "resources.other.mem_mb",
    "resources.other.runtime",
    "run.rca.options.memory.size",
    "run.rca.options.contrast.weight",
    "run.rca.options.contrast.start_epoch",
)


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_out_of_range_is_refused(tmp_path: Path, key: str) -> None:
    for value in SENSELESS:
        refuse(tmp_path, key, value)


LISTS = {
    "predict_seg.prediction.scales": ([], [-1], [0], [1e9], [1e-9], [float("nan")], [1.0, -1.0], [1.0] * 1000, 1.0),
    "make_cam.inference.scales": ([], [-1], [0], [1e9], [1e-9], [float("inf")], ["1:30"]),
    "train_cam.augmentation.scale": ([0, 1], [1, 1e9], [2, 1], [-1, 1], [1], [float("nan"), 1], [1e-9, 1]),
    "seeds": ([], [-1], [2**31], [2**64], [10**30], [0, 0], [0.5], ["0"], 0, [[0]], [True], list(range(1001))),
    "shards": ([], [1], [-1], [0, 2], [0, 0], 2**64, list(range(1001))),
    "generate_data.objects": ([-1, 0], [0, 1], [3, 1], [1, 10**9], [1], [1, 2, 3]),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in LISTS.items() for value in values])
def test_a_list_of_numbers_out_of_range_is_refused(tmp_path: Path, key: str, value: object) -> None:
    refuse(tmp_path, key, value)


@pytest.mark.parametrize("key", ["train_cam.threads", "train_cam.optimisation.batch_size", "generate_data.size"])
def test_yaml_does_not_count_in_sixties(tmp_path: Path, key: str) -> None:
    """`1:30` is 90 in YAML 1.1: nobody who writes it means 90."""
    text = yaml.safe_dump(PLAIN | {key.partition(".")[0]: {}})
    (tmp_path / "params.yaml").write_text(text)
    section, _, rest = key.partition(".")
    nested = rest.split(".")
    line = f"{section}: " + "".join(f"{{{name}: " for name in nested) + "1:30" + "}" * len(nested)
    (tmp_path / "params.yaml").write_text(text.replace(f"{section}: {{}}", line))
    with pytest.raises(UserError, match=r'is "1:30": input should be a valid (integer|number)'):
        read_params(tmp_path / "params.yaml")


EVIL = (
    "x; touch y",
    "$(touch y)",
    "`touch y`",
    "a b",
    "a|b",
    "a&b",
    "a>b",
    "a'b",
    'a"b',
    "a\nb",
    "a\n",
    "../up",
    "..",
    "/etc",
    "-rf",
    "--help",
    "~",
    "*",
    "{a}",
    "${HOME}",
    "",
    " ",
    "ü",
    "a\x00b",
    "a" * 300,
)
NAMES = ("runs", "run", "links", "dataset.name", "dataset.splits", "dataset.sources")


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", ["run", "dataset", "split", "source"])
def test_a_name_is_a_word(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot name a {kind}: use up to 100 .*letters, digits"):
        check_names(kind, ["good", name])


@pytest.mark.parametrize("name", EVIL[:2])
@pytest.mark.parametrize("key", NAMES)
def test_a_name_that_could_be_a_command_is_refused(tmp_path: Path, key: str, name: str) -> None:
    values = {
        "runs": [name],
        "run": {"cam": {}, "rca": {}, name: {}},
        "links": {name: "/"},
        "dataset.name": name,
        "dataset.splits": ["train", name],
        "dataset.sources": {name: {}},
    }
    refuse(tmp_path, key, values[key])


@pytest.mark.parametrize("name", EVIL[::6])
@pytest.mark.parametrize("key", ["run.cam.host", "run.cam.method", "run.cam.base", "train_cam.backbone.name"])
def test_a_name_of_code_is_one_of_those_that_exist(tmp_path: Path, key: str, name: str) -> None:
    refuse(tmp_path, key, name)


def test_names_in_use_are_taken(tmp_path: Path) -> None:
    data = copy.deepcopy(PLAIN)
    data["run"]["a_run_2"] = {}
    data["runs"] = ["a_run_2"]
    data["links"] = {"my-set_2": "/"}
    data["dataset"]["splits"] = ["train", "val", "trainval-2.1"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    assert read_params(tmp_path / "params.yaml").runs == ("a_run_2",)
