"""HSC in two real processes under gloo, against one process on the same batches."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rca.classifier.losses import compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.core.distributed import gather_with_gradient, rank, sum_over_ranks, world_size
from rca.core.launch import launch
from rca.data.loading.images import EpochSampler, Sample
from rca.hosts.cam import CamHost
from rca.methods.hsc import Hsc, HscOptions
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer

CHANNELS, CLASSES, IMAGES = 6, 4, 5
SIZES = ((5, 7), (3, 4))
COUNTS = ((3, 2), (0, 2), (2, 0))  # rows on rank 0 and rank 1


def take_part(tensor: Tensor) -> Tensor:
    """This rank's part of a global batch; the whole batch in a single process."""
    return tensor.tensor_split(world_size())[rank()]


def average(tensor: Tensor) -> Tensor:
    """Average over ranks, as the trainer does for losses and DistributedDataParallel for gradients."""
    return sum_over_ranks(tensor) / world_size()


def gather_and_differentiate() -> list[Tensor]:
    """A loss of all pairs of rows of the whole batch, and its gradient."""
    found = []
    for counts in COUNTS:
        inputs, weight = (
            torch.arange(2.0 * sum(counts)).view(-1, 2).sin(),
            torch.tensor([0.3, -0.7], requires_grad=True),
        )
        own = inputs.split(counts)[rank()] if world_size() > 1 else inputs
        rows = gather_with_gradient((own * weight).exp())
        loss = (rows @ rows.T).sin().sum()
        loss.backward()
        found += [average(loss), average(weight.grad)]
    return found


def contrast() -> dict[str, Tensor]:
    """Losses, gradients and prototypes over batches in which the ranks see different classes."""
    torch.manual_seed(0)
    options = {"class_level": {"positions": 20}, "refinement": {"iterations": 1}, "prototype_positions": 7}
    hsc, found = Hsc(HscOptions.model_validate(options), CHANNELS, CLASSES, CamHost), {}
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        features = [torch.randn(IMAGES, CHANNELS, *size, generator=generator) for size in SIZES]
        tags = (torch.rand(IMAGES, CLASSES, generator=generator) < 0.6).float()
        tags[:3, 0], tags[3:, 1] = 0, 0  # the ranks' parts are images 0 to 2 and 3 to 4
        if number == 1:
            tags[3:] = 0
        image, frame = torch.randn(IMAGES, 3, 40, 56, generator=generator), torch.zeros(IMAGES, 4)
        parts = (image, torch.ones(IMAGES, 1, 40, 56), tags, torch.zeros(IMAGES, 40, 56), torch.arange(IMAGES), frame)
        batch = Sample(*map(take_part, parts))
        first, second = (hsc(take_part(one), torch.ones_like(take_part(one)[:, :1])) for one in features)
        losses = hsc.compute_losses(first._replace(second=second), batch, 0)
        hsc.zero_grad()
        sum(losses.values()).backward()
        for name, loss in losses.items():
            found[f"{name} {number}"] = average(loss)
        for name, parameter in hsc.named_parameters():
            found[f"gradient of {name} {number}"] = average(parameter.grad)
    return {**found, **hsc.state_dict()}


def train() -> dict[str, Tensor]:
    """The network and the history after HSC was trained on SEAM, with DistributedDataParallel where there are two."""
    torch.manual_seed(0)
    options = {"region_channels": 16, "pixel_channels": 8, "class_level": {"positions": 9}, "prototype_positions": 4}
    about = ("small", 16, 9, "seam", "hsc", options, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3, "from scratch")
    network, batches = CamNetwork(NetworkDescription(*about)), []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        image, frame = torch.randn(IMAGES, 3, 59, 75, generator=generator), torch.zeros(IMAGES, 4)
        tags = torch.eye(3)[torch.arange(IMAGES) % 3]
        parts = (image, torch.ones(IMAGES, 1, 59, 75), tags, torch.zeros(IMAGES, 59, 75), torch.arange(IMAGES), frame)
        batches.append(Sample(*map(take_part, parts)))
    rates = {"learning_rate": 0.05, "backbone_learning_rate": 0.02}
    settings = OptimisationSettings(optimiser="sgd", epochs=2, batch_size=IMAGES, freeze_batchnorm=True, **rates)
    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=settings,
        seed=0,
        device=torch.device("cpu"),
        compute_losses=partial(compute_losses, second_view=0.6),
    )
    history = trainer.fit(batches, EpochSampler(2 * IMAGES, IMAGES, 0))
    return {**network.state_dict(), "history": torch.tensor([list(line.values()) for line in history])}


def run_everything(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {"gathered": gather_and_differentiate(), "hsc": contrast(), "trained": train()}
    torch.save(found, folder / f"{world_size()}-{rank()}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process found, then what each of two found."""
    folder = tmp_path_factory.mktemp("found")
    threads = torch.get_num_threads()
    for processes in (1, 2):
        launch(run_everything, processes, folder)
    torch.set_num_threads(threads)
    return [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")]


def test_gradients_go_back_to_the_rows_of_every_rank(found: list[dict[str, Any]]) -> None:
    for every in found[1:]:
        torch.testing.assert_close(every["gathered"], found[0]["gathered"])
    assert all(tensor.norm() > 0 for tensor in found[0]["gathered"])


def test_a_training_ends_as_that_of_one_process(found: list[dict[str, Any]]) -> None:
    one, first, second = (every["trained"] for every in found)
    assert one["method.class_prototypes.known"].any(1).all()
    assert one["history"].isfinite().all()
    assert one.keys() == first.keys()
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], atol=1e-5, rtol=1e-4)


def test_losses_gradients_and_prototypes_are_those_of_one_process(found: list[dict[str, Any]]) -> None:
    one, first, second = (every["hsc"] for every in found)
    assert one.keys() == first.keys() == second.keys()
    assert one["class_prototypes.known"].all()
    assert all(one[f"{level} 3"] > 0 for level in ("roi", "class", "pixel"))
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], atol=1e-6, rtol=1e-5)
