from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rca.classifier.losses import compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.core.errors import UserError
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import EpochSampler, Sample, TrainingImages, make_loader
from rca.data.manifest import Manifest
from rca.training.averaging import build_average
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer, check_archive, derive_seed

EPOCHS = 4
OPTIONS = {
    "memory": {"size": 5, "gate": 0.0},
    "contrast": {"weight": 0.3, "start_epoch": 1},
    "aggregation": {"prototypes": 2},
    "head": {"channels": 4},
}
SETTINGS = OptimisationSettings(
    epochs=EPOCHS, batch_size=2, learning_rate=1e-2, backbone_learning_rate=1e-3, freeze_batchnorm=False
)


class StoppedError(Exception):
    """What a power cut does."""


def build(seed: int = 0) -> CamNetwork:
    torch.manual_seed(seed)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    about = NetworkDescription("small", 16, 9, "cam", "rca", OPTIONS, ("cat", "dog", "cow"), mean, std, "from scratch")
    return CamNetwork(about)


def train(
    manifest: Manifest,
    checkpoint: Path | None = None,
    stop_in: int | None = None,
    seed: int = 0,
    trainable: bool = True,
    **changes: object,
) -> tuple[CamNetwork, list[dict[str, float]]]:
    """Train RCA on four small images."""
    network, settings = build(seed), SETTINGS.model_copy(update=changes)
    network.backbone.requires_grad_(trainable)
    augmentation = AugmentationSettings(scale=(0.8, 1.2), crop=36, jitter=0.2)
    images = TrainingImages(manifest, manifest.images, augmentation, (0.5,) * 3, (0.25,) * 3, seed)

    def start_epoch(epoch: int) -> None:
        if epoch == stop_in:
            raise StoppedError
        network.method.start_epoch(epoch, seed)

    device = torch.device("cpu")
    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=settings,
        seed=seed,
        device=device,
        compute_losses=compute_losses,
        start_epoch=start_epoch,
        checkpoint=checkpoint,
    )
    return network, trainer.fit(*make_loader(images, settings.batch_size, 0))


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("stop_in", [1, 3])
def test_a_resumed_training_ends_with_the_same_weights(
    manifest: Manifest, tmp_path: Path, optimiser: str, stop_in: int
) -> None:
    whole, history = train(manifest, optimiser=optimiser)
    checkpoint = tmp_path / "state.pt"
    with pytest.raises(StoppedError):
        train(manifest, checkpoint, stop_in, optimiser=optimiser)
    torch.manual_seed(12345)
    resumed, resumed_history = train(manifest, checkpoint, optimiser=optimiser)
    assert same_weights(whole, resumed)
    assert resumed_history == history
    assert len(history) == EPOCHS
    assert history[-1].keys() >= {"loss_classification", "loss_auxiliary", "loss_contrast"}
    assert whole.method.prototypes_usable.any()


def test_a_wrong_byte_in_a_checkpoint_is_named_or_changes_nothing(tmp_path: Path) -> None:
    path, state = tmp_path / "state.pt", {"network": {"weight": torch.arange(40.0)}, "history": [{"loss": 1.5}]}
    torch.save(state, path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            check_archive(path)
        except UserError:
            refused += 1
        else:
            try:
                found = torch.load(path, weights_only=True)
            except Exception:  # the trainer turns it into a sentence as well
                refused += 1
                continue
            assert found["history"] == state["history"]
            assert torch.equal(found["network"]["weight"], state["network"]["weight"]), place
    assert refused > 10
    for text in (whole[:-30], b"", b"text"):
        path.write_bytes(text)
        with pytest.raises(UserError, match=r"The checkpoint .*state\.pt is broken \(.*\): delete it\.$"):
            check_archive(path)


def test_a_finished_training_is_not_repeated(manifest: Manifest, tmp_path: Path) -> None:
    done, history = train(manifest, tmp_path / "state.pt")
    again, its_history = train(manifest, tmp_path / "state.pt", stop_in=0)
    assert same_weights(done, again)
    assert its_history == history


def test_the_seed_decides_everything(manifest: Manifest) -> None:
    one, two, other = (train(manifest, seed=seed, epochs=2)[0] for seed in (0, 0, 1))
    assert same_weights(one, two)
    assert not same_weights(one, other)


@pytest.mark.parametrize("freeze_batchnorm", [True, False])
def test_a_frozen_backbone_does_not_change(manifest: Manifest, freeze_batchnorm: bool) -> None:
    trained, _ = train(manifest, trainable=False, freeze_batchnorm=freeze_batchnorm, epochs=2)
    fresh = build()
    assert same_weights(trained.backbone, fresh.backbone)
    assert not any(module.training for module in trained.backbone.modules())
    assert all(parameter.grad is None for parameter in trained.backbone.parameters())
    assert not same_weights(trained.method.host, fresh.method.host)


@pytest.mark.parametrize("rate", [0.0, -1e-3])
def test_no_rate_freezes_a_backbone(rate: float) -> None:
    with pytest.raises(ValueError, match="must be above 0; a backbone is frozen by"):
        OptimisationSettings(epochs=1, batch_size=1, learning_rate=1.0, backbone_learning_rate=rate)


@pytest.mark.parametrize("frozen", [True, False])
def test_batchnorm_is_frozen_where_it_should_be(manifest: Manifest, frozen: bool) -> None:
    trained, _ = train(manifest, freeze_batchnorm=frozen, epochs=2)
    before, after = build().backbone.state_dict(), trained.backbone.state_dict()
    norms = [name for name in before if name.split(".")[-2] == "1"]  # each block is convolution, norm, ReLU
    assert norms
    assert all(torch.equal(before[name], after[name]) == frozen for name in norms)
    assert not any(torch.equal(before[name], after[name]) for name in before if name not in norms)


class Line(nn.Module):
    """A linear model whose first layer stands for the backbone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))


class Batches:
    """Twelve fixed samples in batches of one size."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs, self.tags = (torch.randn(12, width, generator=generator) for width in (5, 2))
        self.size = size

    def __len__(self) -> int:
        return 12 // self.size

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, 12, self.size):
            part = slice(start, start + self.size)
            image = self.inputs[part, :, None, None]
            yield Sample(image, torch.ones(self.size), self.tags[part], torch.zeros(1), torch.zeros(1), torch.zeros(1))


def squared_error(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
    return {"error": (network(batch.image[..., 0, 0]) - batch.tags).square().mean()}


def fit_line(
    size: int, accumulate: int, compute: object = squared_error, **changes: object
) -> tuple[Line, list[dict[str, float]]]:
    given = {"epochs": 3, "batch_size": size, "accumulate": accumulate, "learning_rate": 0.05}
    settings = OptimisationSettings(**{**given, "backbone_learning_rate": 0.02, "optimiser": "sgd", **changes})
    network = Line()
    return network, train_line(network, settings, compute)


def train_line(
    network: Line, settings: OptimisationSettings, compute: object, **further: object
) -> list[dict[str, float]]:
    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=settings,
        seed=0,
        device=torch.device("cpu"),
        compute_losses=compute,
        **further,
    )
    return trainer.fit(Batches(settings.batch_size), EpochSampler(12, settings.batch_size, 0))


@pytest.mark.parametrize(("size", "accumulate"), [(2, 2), (1, 4)])
def test_accumulated_small_batches_equal_one_large_batch(size: int, accumulate: int) -> None:
    (small, _), (large, _) = fit_line(size, accumulate), fit_line(4, 1)
    for one, two in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert not same_weights(large, Line())


def test_each_part_is_trained_with_its_own_rate() -> None:
    """One step of SGD with Nesterov momentum 0.9 moves by 1.9 times the rate and the gradient."""
    network, _ = fit_line(12, 1, epochs=1, weight_decay=0.0)
    start = Line()
    squared_error(start, next(iter(Batches(12))), 0)["error"].backward()
    for name, rate in (("head", 0.05), ("backbone", 0.02)):
        before, after = getattr(start, name), getattr(network, name)
        for one, two in zip(before.parameters(), after.parameters(), strict=True):
            torch.testing.assert_close(two, one - 1.9 * rate * one.grad)


@pytest.mark.parametrize("power", [0.0, 0.9, 2.0])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_rate_falls_as_a_power_of_the_steps_left(power: float, accumulate: int) -> None:
    _, history = fit_line(2, accumulate, poly_power=power, epochs=5)
    found = [line["learning_rate"] for line in history]
    assert found == pytest.approx([0.05 * (1 - epoch / 5) ** power for epoch in range(5)])


def test_chance_differs_between_epochs_and_not_between_trainings() -> None:
    drawn: list[list[float]] = []

    def draw(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
        drawn[-1].append(float(torch.rand(1)))
        return squared_error(network, batch, epoch)

    for seed in (1, 2):
        drawn.append([])
        torch.manual_seed(seed)
        fit_line(4, 1, draw)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 9


def test_the_history_holds_the_mean_of_each_term() -> None:
    def two_terms(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
        zero = network(batch.image[..., 0, 0]).sum() * 0
        return {"first": zero + batch.tags.sum(), "second": zero + epoch}

    _, history = fit_line(2, 1, two_terms)
    expected = float(Batches(2).tags.sum()) / 6
    assert [line["loss_first"] for line in history] == pytest.approx([expected] * 3, rel=1e-4)
    assert [line["loss_second"] for line in history] == [0, 1, 2]
    assert [line["epoch"] for line in history] == [1, 2, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training_with_a_clear_error(value: float) -> None:
    with pytest.raises(UserError, match=f"The loss became {value} in epoch 1: lower the learning rate"):
        fit_line(2, 1, lambda network, batch, epoch: {"bad": network(batch.image[..., 0, 0]).square().sum() * value})


def fit_average(decay: float | None, checkpoint: Path, compute: object = squared_error) -> Line:
    settings = OptimisationSettings(
        epochs=3, batch_size=3, learning_rate=0.05, backbone_learning_rate=0.02, optimiser="sgd"
    )
    network = Line().double()
    train_line(network, settings, compute, checkpoint=checkpoint, decay=decay)
    return network


@pytest.mark.parametrize("decay", [0.3, 0.8, 0.99])
@pytest.mark.parametrize("stop_at", [None, 4, 9])
def test_the_average_of_weights_is_that_of_its_formula(tmp_path: Path, decay: float, stop_at: int | None) -> None:
    """The weights before each of the twelve steps after the first, and after the last, one after another."""
    seen: list[list[Tensor]] = []
    stops = {stop_at}

    def watch(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
        seen.append([weight.detach().clone() for weight in network.parameters()])
        if len(seen) in stops:
            stops.clear()
            raise StoppedError
        return squared_error(network, batch._replace(image=batch.image.double(), tags=batch.tags.double()), epoch)

    if stop_at is not None:
        with pytest.raises(StoppedError):
            fit_average(decay, tmp_path / "state.pt", watch)
        del seen[stop_at - 1 - (stop_at - 1) % 4 :]  # of the epoch that is repeated
    network = fit_average(decay, tmp_path / "state.pt", watch)
    last = torch.load(tmp_path / "state.pt", weights_only=True)["network"]
    steps = [*seen[1:], list(last.values())]
    assert len(steps) == 12
    expected = steps[0]
    for number, weights in enumerate(steps[1:], 2):
        rate = min(1 - 1 / number, decay)
        expected = [rate * one + (1 - rate) * two for one, two in zip(expected, weights, strict=True)]
    for found, one, raw in zip(network.parameters(), expected, last.values(), strict=True):
        torch.testing.assert_close(found, one)
        assert not torch.allclose(found, raw, rtol=1e-3)


class Remembered(nn.Module):
    """Counts the batches of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros(3))


def test_what_a_training_remembers_outlives_a_stop(tmp_path: Path) -> None:
    def fit(stop: bool) -> Tensor:
        remembered, network = Remembered(), Line()

        def count(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
            remembered.batches[epoch] += 1
            if stop and epoch == 2:
                raise StoppedError
            return squared_error(network, batch, epoch)

        settings = OptimisationSettings(epochs=3, batch_size=3, learning_rate=0.1, backbone_learning_rate=0.1)
        Trainer(
            network=network,
            backbone=network.backbone,
            settings=settings,
            seed=0,
            device=torch.device("cpu"),
            compute_losses=count,
            checkpoint=tmp_path / "state.pt",
            remembered=remembered,
        ).fit(Batches(3), EpochSampler(12, 3, 0))
        return remembered.batches

    with pytest.raises(StoppedError):
        fit(stop=True)
    assert fit(stop=False).tolist() == [4, 4, 4]


def test_statistics_are_averaged_and_batches_counted() -> None:
    network = nn.BatchNorm1d(2)
    average = build_average(network, 0.5)
    means = []
    for value in (1.0, 4.0, -2.0):
        network(torch.full((3, 2), value) + torch.tensor([[1.0], [0.0], [-1.0]]))
        average.update_parameters(network)
        means.append(network.running_mean.clone())
    torch.testing.assert_close(average.module.running_mean, 0.5 * (means[0] + means[1]) / 2 + 0.5 * means[2])
    assert average.module.num_batches_tracked == 3


def test_each_epoch_and_rank_of_a_run_has_a_seed_of_its_own() -> None:
    assert derive_seed(3, 4) == 3 * 1_000_003 + 4
    assert derive_seed(3, 4, 2) == 3 * 1_000_003 + 2 * 10_007 + 4
    seeds = {derive_seed(seed, epoch, rank) for seed in range(3) for epoch in range(0, 10_000, 7) for rank in range(99)}
    assert len(seeds) == 3 * 1429 * 99
