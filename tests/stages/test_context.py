from pathlib import Path

import pytest
import yaml

from rca.core.errors import UserError
from rca.core.settings import Settings
from rca.stages.context import Context

PARAMS = {
    "dataset": {"name": "tiny"},
    "runs": ["cam", "rca"],
    "shards": [0, 1, 2],
    "make_cam": {"stride": 4, "inference": {"flip": True, "batch_size": 8}},
    "run": {"cam": {"make_cam": {}}, "rca": {"make_cam": {"inference": {"batch_size": 2}}}},
}


class Inference(Settings):
    flip: bool
    batch_size: int


class MakeCam(Settings):
    stride: int
    inference: Inference


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(PARAMS))
    return path


@pytest.mark.parametrize(("run", "batch_size"), [("cam", 8), ("rca", 2), (None, 8)])
def test_a_run_overrides_what_it_names_and_nothing_else(params: Path, run: str | None, batch_size: int) -> None:
    found = Context("make_cam", run=run, seed=0, params_file=params).settings(MakeCam)
    assert found == MakeCam(stride=4, inference=Inference(flip=True, batch_size=batch_size))


def test_an_instance_is_named_as_dvc_names_it(params: Path) -> None:
    assert Context("make_cam", run="rca", seed=0, shard=3).name == "make_cam.rca-0-3"
    assert Context("train_cam", run="cam", seed=1).name == "train_cam.cam-1"
    assert Context("fetch_weights", item="train_seg").name == "fetch_weights.train_seg"
    assert Context("tabulate").name == "tabulate"


def test_outputs_lie_under_dataset_run_and_seed(params: Path) -> None:
    paths = Context("make_cam", run="rca", seed=7, params_file=params).paths
    assert paths.network.as_posix() == "runs/tiny/rca/7/model/network.safetensors"
    assert paths.metrics.as_posix() == "results/tiny/rca-7.json"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"run": "hsc", "seed": 0}, r"There is no run hsc: .* lists cam, rca"),
        ({"run": "rca"}, "name them with --run and --seed"),
        ({"seed": 0}, "name them with --run and --seed"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(params: Path, place: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = Context("make_cam", **place, params_file=params).paths


@pytest.mark.parametrize("shard", [None, 3, -1])
def test_a_shard_that_does_not_exist_is_refused(params: Path, shard: int | None) -> None:
    with pytest.raises(UserError, match="name one with --shard, 0 to 2"):
        _ = Context("make_cam", run="rca", seed=0, shard=shard, params_file=params).chosen_shard


def test_a_checkpoint_is_of_its_settings_inputs_and_place_alone(params: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("one")
    settings = Inference(flip=True, batch_size=1)

    def name(seed: int = 0, given: Settings = settings) -> Path:
        return Context("train_cam", run="rca", seed=seed, params_file=params).checkpoint(given, [data])

    first = name()
    assert name() == first
    assert len({first, name(seed=1), name(given=Inference(flip=True, batch_size=2))}) == 3
    data.write_text("two")
    assert name() != first
