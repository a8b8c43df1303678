"""The training loop of every network: optimiser, schedule, precision, checkpoint and resume.

Order, augmentation and torch's own generator are seeded by (seed, epoch) alone. So a checkpoint holds no generator
state, and a training that was stopped between two epochs ends with the same weights as one that was not.

Several processes (`rca.core.launch`) share each batch and reach the weights and the memory of one process, up to
rounding: tests/training/test_processes.py compares their losses step by step. Only dropout, which the segmentation head
deeplab_v1 has, is drawn by each process for its own rows.
"""

import math
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from rca.core.distributed import rank, sum_over_ranks, world_size
from rca.core.errors import UserError
from rca.core.files import write_file
from rca.core.precision import choose_precision
from rca.core.progress import track
from rca.data.loading.images import EpochSampler, Sample
from rca.training.averaging import build_average
from rca.training.curves import Curves, record_curves
from rca.training.optimisation import OptimisationSettings

SEED_STRIDE, RANK_STRIDE = 1_000_003, 10_007
"""Distance between the seeds of two runs and of two ranks, prime."""
Network = TypeVar("Network", bound=nn.Module)
Losses = dict[str, Tensor]
"""The weighted terms of a loss, by name; their sum is minimised."""
Loader = DataLoader[Sample]


class _Step(nn.Module, Generic[Network]):
    """The loss of a batch as a module, so that DistributedDataParallel sees everything between weights and loss.

    Args:
        network: The network to train.
        compute_losses: As for `Trainer`.
    """

    def __init__(self, network: Network, compute_losses: Callable[[Network, Sample, int], Losses]) -> None:
        super().__init__()
        self.network, self.compute_losses = network, compute_losses

    def forward(self, batch: Sample, epoch: int) -> Losses:
        return self.compute_losses(self.network, batch, epoch)


@dataclass(kw_only=True)
class Trainer(Generic[Network]):
    """One training, resumable between epochs, in one process or in each process of a group.

    Args:
        network: The network to train, on `device`.
        backbone: The part of the network that uses `backbone_learning_rate`. It stays in evaluation mode if none of its
            parameters requires a gradient.
        settings: Optimiser, schedule and precision.
        seed: The run's seed.
        device: The device to train on.
        compute_losses: Computes the loss terms of a batch from the network, the batch and the epoch. It is called in
            the precision of the settings; what needs float32 leaves it itself (`rca.core.precision.keep_digits`).
        start_epoch: Called before each epoch with its number, counted from 0.
        checkpoint: The file that holds the state after each epoch; None keeps no state.
        curves: The trackers that get the history while it grows; by default none.
        remembered: What a training keeps between epochs beside its network, in buffers; None if nothing.
        decay: The network ends with the moving average of its weights, of this decay (`rca.training.averaging`); None
            for its last weights.
        history: The lines of the epochs done so far; `fit` extends and returns it.
    """

    network: Network
    backbone: nn.Module
    settings: OptimisationSettings
    seed: int
    device: torch.device
    compute_losses: Callable[[Network, Sample, int], Losses]
    start_epoch: Callable[[int], None] = lambda epoch: None
    checkpoint: Path | None = None
    curves: Curves = field(default_factory=dict)
    remembered: nn.Module | None = None
    decay: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def fit(self, loader: Loader, sampler: EpochSampler) -> list[dict[str, float]]:
        """Train for the set number of epochs, from the checkpoint if there is one.

        Args:
            loader: The batches of an epoch.
            sampler: The loader's sampler, which is told the epoch.

        Returns:
            A line per epoch: `epoch` from 1, `learning_rate` at its start, and `loss_<name>`, the mean of each term.

        Raises:
            UserError: a loss is not finite, the checkpoint is broken, several processes would train BatchNorm on a
                CPU, or curves cannot be recorded.
        """
        self._share_batchnorm()
        self.network.to(memory_format=torch.channels_last)
        average = None if self.decay is None else build_average(self.network, self.decay)
        optimiser = self._make_optimiser()
        steps = self.settings.epochs * -(-len(loader) // self.settings.accumulate)
        schedule = PolynomialLR(optimiser, steps, self.settings.poly_power)
        first = self._resume(optimiser, schedule, average)
        step: nn.Module = _Step(self.network, self.compute_losses)
        if world_size() > 1:
            # Wrapped only now: the wrapper waits for all ranks, so each has resumed before one replaces the checkpoint.
            # Some parameters of a method get no gradient until there are prototypes.
            step = DistributedDataParallel(step, find_unused_parameters=True)
            # The buffers need no broadcast, since they are equal on all ranks: each rank adds the regions of all in the
            # same order and clusters them from the same seed, and BatchNorm is frozen or synchronised. Set here, since
            # torch has renamed the argument.
            step.broadcast_buffers = False
        with record_curves(self.curves if rank() == 0 else {}) as record:
            for line in self.history:
                record(line)
            for epoch in range(first, self.settings.epochs):
                start = time.monotonic()
                self._fit_epoch(step, loader, sampler, optimiser, schedule, average, epoch)
                self._report(time.monotonic() - start)
                self._save(optimiser, schedule, average)
                record(self.history[-1])
        if average is not None:
            self.network.load_state_dict(average.module.state_dict())
        return self.history

    def _fit_epoch(
        self,
        step: nn.Module,
        loader: Loader,
        sampler: EpochSampler,
        optimiser: torch.optim.Optimizer,
        schedule: LRScheduler,
        average: AveragedModel | None,
        epoch: int,
    ) -> None:
        torch.manual_seed(derive_seed(self.seed, epoch, rank()))  # each rank draws for its own rows
        sampler.epoch = epoch
        self.start_epoch(epoch)
        self.network.train()
        for module in self._list_frozen():
            module.eval()
        learning_rate = optimiser.param_groups[0]["lr"]
        totals: dict[str, float] = {}
        share = self.settings.accumulate
        for number, batch in enumerate(
            track(loader, f"epoch {epoch + 1}", len(loader), (epoch, self.settings.epochs)), 1
        ):
            batch = _move(batch, self.device)
            with choose_precision(self.device, self.settings.precision):
                losses = step(batch, epoch)
            terms = torch.stack(list(losses.values()))
            # Equal on all ranks, so either all continue or all stop.
            means = (sum_over_ranks(terms) / world_size()).tolist()
            if not math.isfinite(sum(means)):
                raise UserError(f"The loss became {sum(means)} in epoch {epoch + 1}: lower the learning rate.")
            group = min(share, len(loader) - (number - 1) // share * share)  # the last group may be smaller
            torch.autograd.backward(terms.sum() / group)
            for name, value in zip(losses, means, strict=True):
                totals[name] = totals.get(name, 0.0) + value
            if number % share == 0 or number == len(loader):
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                schedule.step()
                if average is not None:
                    average.update_parameters(self.network)
        terms_of_epoch = {f"loss_{name}": total / len(loader) for name, total in totals.items()}
        self.history.append({"epoch": epoch + 1, "learning_rate": learning_rate, **terms_of_epoch})

    def _report(self, seconds: float) -> None:
        epoch, *figures = self.history[-1].items()
        line = ", ".join(f"{name} {value:.4g}" for name, value in figures)
        print(f"epoch {epoch[1]}/{self.settings.epochs}: {line} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def _list_frozen(self) -> list[nn.Module]:
        """The modules that stay in evaluation mode: a frozen backbone, or its frozen BatchNorm layers."""
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            return list(self.backbone.modules())
        frozen = self.settings.freeze_batchnorm
        norms = [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        return [norm for norm in norms if frozen or not any(weight.requires_grad for weight in norm.parameters())]

    def _share_batchnorm(self) -> None:
        """Let trained BatchNorm layers see the whole batch of all processes, which torch supports on GPUs only."""
        frozen = self._list_frozen()
        trained = [norm for norm in self.network.modules() if isinstance(norm, _BatchNorm) and norm not in frozen]
        if world_size() == 1 or not trained:
            return
        if self.device.type != "cuda":
            raise UserError(
                "Several processes cannot train BatchNorm on a CPU: set optimisation.processes to 1, or"
                " optimisation.freeze_batchnorm to true if only the backbone has BatchNorm."
            )
        self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]  # torch

    def _make_optimiser(self) -> torch.optim.Optimizer:
        settings = self.settings
        of_backbone = {id(parameter) for parameter in self.backbone.parameters()}
        new = [parameter for parameter in self.network.parameters() if id(parameter) not in of_backbone]
        groups: list[dict[str, object]] = [{"params": new, "lr": settings.learning_rate}]
        if settings.freeze_batchnorm:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        trained = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        if trained:
            groups.append({"params": trained, "lr": settings.backbone_learning_rate})
        if settings.optimiser == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)

    def _resume(self, optimiser: torch.optim.Optimizer, schedule: LRScheduler, average: AveragedModel | None) -> int:
        """Load the checkpoint, if there is one; the number of the first epoch to train."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return 0
        check_archive(self.checkpoint)
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # torch.load raises anything on a broken file
            reason = str(error).split("\n")[0]
            raise UserError(f"The checkpoint {self.checkpoint} is broken ({reason}): delete it.") from None
        self.network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        for name, module in (("average", average), ("remembered", self.remembered)):
            if module is not None:
                module.load_state_dict(state[name])
        self.history[:] = state["history"]
        print(f"resuming after epoch {len(self.history)}", file=sys.stderr, flush=True)
        return len(self.history)

    def _save(self, optimiser: torch.optim.Optimizer, schedule: LRScheduler, average: AveragedModel | None) -> None:
        if self.checkpoint is None or rank() > 0:
            return
        state = {
            "network": self.network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "history": self.history,
        }
        for name, module in (("average", average), ("remembered", self.remembered)):
            if module is not None:
                state[name] = module.state_dict()
        # To an open file: of a path, torch would not say why it cannot be written.
        with write_file(self.checkpoint) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)


def _move(batch: Sample, device: torch.device) -> Sample:
    """Move a batch to a device, its images or features with channels last.

    Convolutions run faster with channels last, on a CPU (by a quarter in one case) and on a GPU in bfloat16.
    """
    batch = Sample(*(tensor.to(device, non_blocking=True) for tensor in batch))
    if batch.features.numel():
        return batch._replace(features=batch.features.contiguous(memory_format=torch.channels_last))
    return batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))


def check_archive(path: Path) -> None:
    """Check the checksums in a file of torch.save, which torch.load ignores.

    Raises:
        UserError: one is wrong, or the file is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile raises anything on a broken file
        raise UserError(f"The checkpoint {path} is broken ({error}): delete it.") from None
    if broken is not None:
        raise UserError(f"The checkpoint {path} is broken (the checksum of {broken} is wrong): delete it.")


def derive_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed of its own for each epoch and rank of a run; distinct for up to 99 ranks of 10,000 epochs.

    Args:
        seed: The run's seed.
        epoch: Counted from 0.
        rank: The number of the process, counted from 0.
    """
    return seed * SEED_STRIDE + rank * RANK_STRIDE + epoch
