"""The curves of a training, read back by TensorBoard itself."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from rca.core.errors import UserError
from rca.data.loading.images import EpochSampler, Sample
from rca.training.curves import record_curves
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer

EPOCHS = 5


class StoppedError(Exception):
    """What a power cut does."""


def compute_losses(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
    error = (network(batch.tags) - 1).square().mean()
    return {"classification": error, "contrast_of_regions": 0.1 * error + epoch}


def never(epoch: int) -> None:
    """What is done before an epoch: nothing."""


def train(
    curves: Path | None, checkpoint: Path | None = None, start_epoch: Callable[[int], None] = never, rate: float = 0.01
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
        curves=curves,
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
    with pytest.raises(UserError, match="TensorBoard is not installed: install it with `pip install tensorboard`"):
        train(tmp_path / "curves")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_raises_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"No curves can be written to .*file/curves \(Not a dir"):
        train(tmp_path / "file" / "curves")
    with pytest.raises(UserError, match="File exists"), record_curves(tmp_path / "file"):
        pass
