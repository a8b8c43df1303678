"""Two real processes under gloo, against one process on the same global batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from stages import PREPARE, locate, run_stage, run_stages, shrink_preset, write_params
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from rca.classifier import losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.core.distributed import count_rows, gather_rows, mean_of_rows, rank, sum_over_ranks, world_size
from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.core.launch import launch
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import EpochSampler, Sample, TrainingImages, make_loader
from rca.data.manifest import ImageRecord, Manifest
from rca.hosts.cam import CamHost
from rca.methods.rca import Rca
from rca.segmentation.loss import LossSettings
from rca.stages import train_seg
from rca.stages.base.layout import RunLayout
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer

CPU = torch.device("cpu")
COUNTS = ((3, 1), (0, 2), (2, 0), (0, 0))  # rows on rank 0 and rank 1
CHANNELS, CLASSES, IMAGES = 6, 4, 5
MEMORIES = {
    "ring": {"size": 7},
    "fifo": {"size": 7, "update": "fifo"},
    "momentum": {"size": 7, "update": "momentum"},
    "batch alone": {"size": 0},
}
OPTIONS = {
    "memory": {"size": 5, "gate": 0.0},
    # A projection has a BatchNorm, which several processes cannot train on a CPU.
    "contrast": {"weight": 0.3, "start_epoch": 1, "mixup": None, "projection": "none"},
    "aggregation": {"prototypes": 2, "start_epoch": 1},
    "head": {"channels": 4},
}
PAIRS = {"affinity": {"form": "cosine", "temperature": 0.1}, "contrastive": {"start_epoch": 1}}
SETTINGS = OptimisationSettings(
    optimiser="sgd", epochs=2, batch_size=4, learning_rate=0.05, backbone_learning_rate=0.02, freeze_batchnorm=True
)


def take_part(tensor: Tensor) -> Tensor:
    """This rank's part of a global batch; all of it in one process."""
    return tensor.tensor_split(world_size())[rank()]


def gather_ragged() -> list[list[Tensor]]:
    found = []
    for counts in COUNTS:
        rows = torch.arange(counts[rank()]) + 10 * rank()
        matrix = rows[:, None] * torch.tensor([1.0, 0.5])
        found.append([*gather_rows(matrix.requires_grad_(), rows, rows % 2 == 0), torch.tensor(count_rows(rows))])
    return found


def differentiate_means() -> list[Tensor]:
    """The mean over rows, and the gradient that DistributedDataParallel would make of it."""
    found = []
    for counts in ((3, 1), (0, 4)):
        inputs, weight = torch.arange(8.0).view(4, 2).sin(), torch.tensor([0.3, -0.7], requires_grad=True)
        own = inputs.split(counts)[rank()] if world_size() > 1 else inputs
        loss = mean_of_rows((own @ weight).square())
        loss.backward()
        found += [sum_over_ranks(term) / world_size() for term in (loss, weight.grad)]
    return found


def segment() -> Tensor:
    """The loss of two masks, one with five pixels that are not ignored and one with fifteen."""
    mask = torch.full((2, 5, 5), IGNORE)
    mask[0, 0], mask[1, 1:4] = 1, 2
    scores = torch.arange(150.0).view(2, 3, 5, 5).sin()
    batch = Sample(take_part(scores), scores, scores, take_part(mask), mask, scores)
    losses = train_seg.compute_losses(nn.Identity(), batch, 0, LossSettings())
    return sum_over_ranks(losses["segmentation"]) / world_size()


def fill_bank(**memory: Any) -> dict[str, Tensor]:
    """The state of RCA after batches of which one rank sees classes that the other does not, or no region at all."""
    torch.manual_seed(0)
    given = {**OPTIONS, "aggregation": {"form": "none"}, "memory": {"gate": 0.4, **memory}}
    method = Rca(Rca.Options.model_validate(given), CHANNELS, CLASSES, CamHost)
    found = {}
    for number in range(6):
        generator = torch.Generator().manual_seed(number)
        features = torch.randn(IMAGES, CHANNELS, 5, 7, generator=generator).relu()
        tags = (torch.rand(IMAGES, CLASSES, generator=generator) < 0.6).float()
        if number < 4:
            tags[:3, 0], tags[3:, 1] = 0, 0  # the ranks' parts are images 0 to 2 and 3 to 4
        if number in (1, 4):
            tags[3:] = 0
        if number in (2, 4):
            tags[:3] = 0
        frame, positions = torch.tensor([1.0, 0, 1, 0]).repeat(IMAGES, 1), torch.arange(IMAGES) + 3 * number
        parts = (torch.zeros(IMAGES, 3, 40, 56), torch.ones(IMAGES, 1, 5, 7), tags, positions, positions, frame)
        batch = Sample(*map(take_part, parts))
        method.start_epoch(number, seed=number)
        losses = method.compute_losses(method(take_part(features), batch.valid), batch, number)
        for name, loss in losses.items():
            found[f"{name} {number}"] = sum_over_ranks(loss) / world_size()
    return {**found, **method.state_dict()}


def train(
    manifest: Manifest,
    checkpoint: Path | None = None,
    stop_in: int | None = None,
    form: str = "softmax",
    method: str = "rca",
    **changes: Any,
) -> dict[str, Tensor]:
    """The weights and the memory after a method was trained, its history, and what each step drew."""
    torch.manual_seed(0)
    mean, std, drawn = (0.5,) * 3, (0.25,) * 3, []
    options = {**OPTIONS, "aggregation": {**OPTIONS["aggregation"], "form": form}} if method == "rca" else PAIRS
    about = NetworkDescription("small", 16, 9, "cam", method, options, manifest.classes, mean, std, "from scratch")
    network, settings = CamNetwork(about), SETTINGS.model_copy(update=changes)
    images = TrainingImages(manifest, manifest.images, AugmentationSettings(crop=36), mean, std, seed=0)

    def start_epoch(epoch: int) -> None:
        if epoch == stop_in:
            raise InterruptedError
        network.method.start_epoch(epoch, epoch)

    def compute_losses(network: CamNetwork, batch: Sample, epoch: int) -> dict[str, Tensor]:
        drawn.append(torch.rand(()))
        return losses.compute_losses(network, batch, epoch)

    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=settings,
        seed=0,
        device=CPU,
        compute_losses=compute_losses,
        start_epoch=start_epoch,
        checkpoint=checkpoint,
    )
    history = trainer.fit(*make_loader(images, settings.batch_size, 0, network.method.pairs_images))
    lines = torch.tensor([list(line.values()) for line in history[1:]])  # the first epoch has no contrast
    return {**network.state_dict(), "history": lines, "drawn": torch.stack(drawn)}


def resume(manifest: Manifest, checkpoint: Path) -> dict[str, Tensor]:
    """As `train`, but stopped after the first epoch and taken up again."""
    with pytest.raises(InterruptedError):
        train(manifest, checkpoint, stop_in=1)
    sum_over_ranks(torch.ones(1))  # rank 0 has written the checkpoint
    return train(manifest, checkpoint)


def lose_count() -> str:
    """What is said on this rank where the loss of rank 1 alone is not finite."""
    network = nn.Linear(2, 1)
    settings = SETTINGS.model_copy(update={"freeze_batchnorm": False})

    def compute_losses(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
        return {"loss": network(torch.ones(1, 2)).square().sum() * (float("inf") if rank() == 1 else 1)}

    batch = Sample(torch.ones(1, 1, 1, 1), *torch.ones(5, 1))
    with pytest.raises(UserError) as caught:
        Trainer(
            network=network, backbone=network, settings=settings, seed=0, device=CPU, compute_losses=compute_losses
        ).fit([batch], EpochSampler(1, 1, 0))
    return str(caught.value)


def run_everything(folder: Path, manifest: Manifest) -> None:
    torch.set_num_threads(1)
    found = {
        "gathered": gather_ragged(),
        "means": differentiate_means(),
        "segmentation": segment(),
        **{name: fill_bank(**memory) for name, memory in MEMORIES.items()},
        "trained": train(manifest),
        "released": train(manifest, form="released"),
        "pairs": train(manifest, method="mcis"),
        "resumed": resume(manifest, folder / f"{world_size()}.ckpt"),
    }
    if world_size() > 1:
        found["not finite"] = lose_count()
        with pytest.raises(UserError, match="Several processes cannot train BatchNorm on a CPU") as caught:
            train(manifest, freeze_batchnorm=False)
        found["batchnorm"] = str(caught.value)
    torch.save(found, folder / f"{world_size()}-{rank()}.pt")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Seven noisy images; in batches of four the last one has two for rank 0 and one for rank 1."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    records = []
    for number in range(7):
        Image.fromarray(random.integers(0, 256, (40, 44, 3)).astype(np.uint8)).save(root / f"{number}.png")
        tags = tuple(int(one) for one in random.choice(3, 1 + number % 2, replace=False))
        records.append(ImageRecord(str(number), f"{number}.png", "", 44, 40, tags, ("train",), "main", ""))
    return Manifest(root, ("cat", "dog", "cow"), tuple(records))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> list[dict[str, Any]]:
    """What one process found, then what each of two found."""
    folder = tmp_path_factory.mktemp("found")
    threads = torch.get_num_threads()
    for processes in (1, 2):
        launch(run_everything, processes, folder, manifest)
    torch.set_num_threads(threads)
    return [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")]


def test_ragged_rows_are_gathered_in_the_order_of_the_ranks(found: list[dict[str, Any]]) -> None:
    for every in found[1:]:
        for counts, (matrix, rows, even, count) in zip(COUNTS, every["gathered"], strict=True):
            expected = [*range(counts[0]), *range(10, 10 + counts[1])]
            assert rows.tolist() == expected
            assert matrix.tolist() == [[one, one / 2] for one in expected]
            assert even.tolist() == [one % 2 == 0 for one in expected]
            assert count == sum(counts)
            assert not matrix.requires_grad


def test_one_process_is_left_as_it_is() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    (same,) = gather_rows(rows)
    assert torch.equal(same, rows)
    assert not same.requires_grad
    assert (rank(), world_size(), count_rows(rows)) == (0, 1, 3)
    assert torch.equal(mean_of_rows(rows), rows.mean())


def test_means_and_their_gradients_are_those_of_the_whole_batch(found: list[dict[str, Any]]) -> None:
    for every in found[1:]:
        torch.testing.assert_close(every["means"], found[0]["means"])
        torch.testing.assert_close(every["segmentation"], found[0]["segmentation"])
    assert found[0]["means"][1].norm() > 0


@pytest.mark.parametrize("kind", MEMORIES)
def test_banks_and_losses_are_those_of_one_process(found: list[dict[str, Any]], kind: str) -> None:
    one, first, second = (every[kind] for every in found)
    assert one.keys() == first.keys() == second.keys()
    assert {"contrast 1", "contrast 2", "contrast 5"} < one.keys()
    assert not {"contrast 0", "contrast 4"} & one.keys()  # too early, and no region on any rank
    assert one["memory.written"].min() > 0 or kind == "batch alone"
    for name in one:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], one[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["trained", "released", "resumed"])
def test_a_training_ends_as_that_of_one_process(found: list[dict[str, Any]], name: str) -> None:
    one, first, second = ({k: v for k, v in every[name].items() if k != "drawn"} for every in found)
    assert one["method.memory.written"].sum() > 0
    assert one["method.prototypes_usable"].any()
    assert one.keys() == first.keys()
    for key in one:
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], one[key], atol=1e-5, rtol=1e-5)


def test_a_training_on_pairs_ends_as_that_of_one_process(found: list[dict[str, Any]]) -> None:
    one, first, second = ({k: v for k, v in every["pairs"].items() if k != "drawn"} for every in found)
    assert "method.affinity.weight" in one
    assert one.keys() == first.keys()
    for key in one:
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], one[key], atol=1e-5, rtol=1e-5)


def test_a_resumed_training_ends_as_one_that_was_not_stopped(found: list[dict[str, Any]]) -> None:
    for every in found:
        assert all(
            torch.equal(every["trained"][name], every["resumed"][name]) for name in every["trained"] if name != "drawn"
        )


def test_each_rank_draws_its_own_noise_and_rank_0_that_of_one_process(found: list[dict[str, Any]]) -> None:
    one, first, second = (every["trained"]["drawn"] for every in found)
    assert torch.equal(one, first)
    assert not set(first.tolist()) & set(second.tolist())


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(found: list[dict[str, Any]]) -> None:
    assert found[1]["not finite"] == found[2]["not finite"]
    assert "The loss became inf in epoch 1: lower the learning rate" in found[1]["not finite"]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("count", "size"), [(11, 4), (12, 4), (13, 6), (14, 6), (3, 8), (7, 3)])
def test_the_parts_of_all_ranks_are_the_batches_of_one_process(count: int, size: int, ranks: int) -> None:
    whole = list(EpochSampler(count, size, seed=5))
    parts = [list(EpochSampler(count, size, 5, rank, ranks)) for rank in range(ranks)]
    assert all(len(part) == len(EpochSampler(count, size, 5, 0, ranks)) for part in parts)
    joined = [[key for part in batch for key in part] for batch in zip(*parts, strict=True)]
    assert joined == [batch for batch in whole if len(batch) >= ranks]  # a smaller rest is left out
    assert all(batch for part in parts for batch in part)


def test_there_must_be_a_gpu_for_each_process_where_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes need 2 GPUs, but this job sees 1"):
        launch(print, 2)


def test_there_must_be_an_image_for_each_process(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rca.data.loading.images.world_size", lambda: 8)
    images = TrainingImages(manifest, manifest.images, AugmentationSettings(), (0.5,) * 3, (0.25,) * 3, seed=0)
    with pytest.raises(UserError, match="7 images are too few for 8 processes"):
        make_loader(images, 8, 0)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    """A training in two processes of the run rca, on the embedded preset with four small pictures."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=4, val=2, epochs=1, batch_size=2)
    params["train_cam"]["optimisation"].update(processes=2, freeze_batchnorm=True)
    params["resources"]["train_cam"]["gpu"] = 0
    write_params(params)
    run_stages(*PREPARE)
    return locate("rca")


def test_the_stage_trains_in_two_processes(paths: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_TENSORBOARD", "curves")
    assert run_stage("train_cam", run="rca", seed=0) == 0
    assert paths.network.is_file()
    assert len(paths.cam_history.read_text().splitlines()) == 2
    log = Path("logs/train_cam.rca-0.log").read_text()
    assert log.count("epoch 1/1: ") == log.count("4 images, ") == 1
    curves = Path("curves/shapes/rca/0/train_cam")
    assert len(list(curves.iterdir())) == 1  # rank 0 alone writes them
    (point,) = EventAccumulator(str(curves)).Reload().Scalars("loss/classification")
    (line,) = pd.read_csv(paths.cam_history).to_dict("records")
    assert (point.step, point.value) == (1, pytest.approx(line["loss_classification"], rel=1e-6))


def test_an_error_in_one_process_ends_all_with_its_sentence(
    paths: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    """One rank meets a broken photograph while the other waits for it in a collective."""
    photograph = sorted(Path("data/shapes/JPEGImages").iterdir())[0]
    photograph.write_bytes(photograph.read_bytes()[:200])
    capsys.readouterr()
    assert run_stage("train_cam", run="rca", seed=0) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: train_cam.rca-0: The photograph {photograph} is broken")
    assert error.count("\n") == 1
    assert not list(paths.network.parents[1].rglob("*.*"))
