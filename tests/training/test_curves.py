"""The curves of a training, read back by TensorBoard, DVC and MLflow themselves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from rca.core.errors import UserError
from rca.data.loading.images import EpochSampler, Sample
from rca.training.curves import Curves, record_curves
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer

EPOCHS = 5
PLACE = "toy/rca/0/train_cam"
NAMED = ("-c", "user.name=a", "-c", "user.email=a@b.c")


class StoppedError(Exception):
    """What a power cut does."""


def compute_losses(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
    error = (network(batch.tags) - 1).square().mean()
    return {"classification": error, "contrast_of_regions": 0.1 * error + epoch}


def never(epoch: int) -> None:
    """What is done before an epoch: nothing."""


def below(folder: Path | None) -> Curves:
    """TensorBoard's curves in a folder."""
    return {} if folder is None else {"RCA_TENSORBOARD": (str(folder), "")}


def train(
    curves: Path | Curves | None,
    checkpoint: Path | None = None,
    start_epoch: Callable[[int], None] = never,
    rate: float = 0.01,
) -> list[dict[str, float]]:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    settings = OptimisationSettings(epochs=EPOCHS, batch_size=1, learning_rate=rate, backbone_learning_rate=rate)
    # The network is its own backbone: one rate for all.
    trainer = Trainer(
        network=network,
        backbone=network,
        settings=settings,
        seed=0,
        device=torch.device("cpu"),
        compute_losses=compute_losses,
        start_epoch=start_epoch,
        checkpoint=checkpoint,
        curves=below(curves) if curves is None or isinstance(curves, Path) else curves,
    )
    batch = Sample(torch.ones(1, 1, 1, 1), torch.ones(1), torch.rand(7, 3), *torch.ones(3, 1))
    return trainer.fit([batch, batch], EpochSampler(2, 1, 0))


def stop_before(last: int) -> Callable[[int], None]:
    def start_epoch(epoch: int) -> None:
        if epoch == last:
            raise StoppedError

    return start_epoch


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: step and value of each point of each curve."""
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expect(history: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """The same of a history; curves hold single precision."""
    names = {"learning_rate", "loss_classification", "loss_contrast_of_regions"}
    return {
        name.replace("loss_", "loss/"): [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in history]
        for name in names
    }


def test_curves_are_the_history(tmp_path: Path) -> None:
    history = train(tmp_path / "curves")
    assert len(history) == EPOCHS
    assert read(tmp_path / "curves") == expect(history)
    assert history == train(None)


def test_curves_grow_with_each_epoch(tmp_path: Path) -> None:
    """While the training runs, the curves show all epochs that are over."""
    seen = []

    def look(epoch: int) -> None:
        seen.append([step for step, _ in read(tmp_path).get("loss/classification", [])])

    train(tmp_path, start_epoch=look)
    assert seen == [list(range(1, epoch + 1)) for epoch in range(EPOCHS)]


def test_a_resumed_training_has_each_step_once(tmp_path: Path) -> None:
    curves, checkpoint = tmp_path / "curves", tmp_path / "state.pt"
    for stop in (2, 4):
        with pytest.raises(StoppedError):
            train(curves, checkpoint, stop_before(stop))
        assert len(read(curves)["learning_rate"]) == stop
    history = train(curves, checkpoint)
    assert read(curves) == expect(history)
    assert len(list(curves.iterdir())) == 3  # an event file for each attempt


def test_curves_that_are_asked_for_late_are_whole(tmp_path: Path) -> None:
    curves, checkpoint = tmp_path / "curves", tmp_path / "state.pt"
    with pytest.raises(StoppedError):
        train(None, checkpoint, stop_before(3))
    assert not curves.exists()
    history = train(curves, checkpoint)
    assert read(curves) == expect(history)


def test_another_training_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(tmp_path, start_epoch=stop_before(4))
    with pytest.raises(StoppedError):
        train(tmp_path, start_epoch=stop_before(1), rate=0.5)
    assert [step for step, _ in read(tmp_path)["learning_rate"]] == [1]
    assert read(tmp_path)["learning_rate"][0][1] == 0.5


def test_without_a_folder_tensorboard_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert len(train(None)) == EPOCHS
    with pytest.raises(UserError, match=r"TensorBoard is not installed: .* `pip install 'rca\[tensorboard\]'`"):
        train(tmp_path / "curves")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_raises_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"No curves can be written to .*file/curves \(Not a dir"):
        train(tmp_path / "file" / "curves")
    with pytest.raises(UserError, match="File exists"), record_curves(below(tmp_path / "file")):
        pass


# --- DVCLive and MLflow


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of git and DVC, with one commit."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", *NAMED, "commit", "--quiet", "--message", "empty"], check=True)
    return tmp_path


def read_plots() -> dict[str, list[tuple[int, float]]]:
    """What DVC plots: step and value of each point of each curve, by the curve's file."""
    done = subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "--json"], capture_output=True, text=True)
    plots = json.loads(done.stdout)["data"]
    found = {}
    for path, (plot,) in plots.items():
        points = plot["content"]["data"]["values"]
        name = path.partition("plots/metrics/")[2].removesuffix(".tsv")
        found[name] = [(int(point["step"]), float(point[Path(name).name])) for point in points]
    return found


def test_dvc_plots_the_history_and_the_project_stays_as_it_is(repository: Path) -> None:
    Path("dvc.yaml").write_text("stages: {a: {cmd: 'true'}}\n")
    curves = {"RCA_DVCLIVE": ("live", PLACE)}
    with pytest.raises(StoppedError):
        train(curves, Path("state.pt"), stop_before(3))
    assert [step for step, _ in read_plots()["learning_rate"]] == [1, 2, 3]
    history = train(curves, Path("state.pt"))
    assert read_plots() == expect(history)
    assert Path("dvc.yaml").read_text() == "stages: {a: {cmd: 'true'}}\n"
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True).stdout.split()
    assert set(changed[1::2]) == {"dvc.yaml", "live/", "state.pt"}
    assert history == train(None)


def test_mlflow_has_a_run_for_each_start(tmp_path: Path) -> None:
    server = f"sqlite:///{tmp_path / 'mlflow.db'}"
    curves, state = {"RCA_MLFLOW": (server, PLACE), "RCA_TENSORBOARD": (str(tmp_path), PLACE)}, tmp_path / "state.pt"
    with pytest.raises(StoppedError):
        train(curves, state, stop_before(3))
    history = train(curves, state)
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("rca/toy")
    last, first = client.search_runs([experiment.experiment_id])
    assert (first.info.status, last.info.status) == ("FAILED", "FINISHED")
    assert {key: last.data.tags[key] for key in ("dataset", "run", "seed", "stage")} == {
        "dataset": "toy",
        "run": "rca",
        "seed": "0",
        "stage": "train_cam",
    }
    found = {
        name: [(point.step, point.value) for point in client.get_metric_history(last.info.run_id, name)]
        for name in last.data.metrics
    }
    assert found == expect(history) == read(tmp_path / PLACE)
    assert [point.step for point in client.get_metric_history(first.info.run_id, "learning_rate")] == [1, 2, 3]


@pytest.mark.parametrize(("variable", "package"), [("RCA_DVCLIVE", "dvclive"), ("RCA_MLFLOW", "mlflow")])
def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{variable} is set, but .* 'rca\[{package}\]'`, or unset {variable}"):
        train({variable: (str(tmp_path / "there"), PLACE)})
    assert not list(tmp_path.iterdir())


def test_a_refusal_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    with pytest.raises(UserError, match=r"written to live/toy.* \(.*\): correct RCA_DVCLIVE, or unset it"):
        train({"RCA_DVCLIVE": ("live", PLACE)})  # there is no commit
    with pytest.raises(UserError, match=r"written to what://ever \(.*\): correct RCA_MLFLOW, or unset it"):
        train({"RCA_MLFLOW": ("what://ever", PLACE)})
