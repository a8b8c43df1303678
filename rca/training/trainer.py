"""The training loop that every network shares: optimiser, schedule, precision, checkpoint and resume.

An epoch is a function of the state before it, the seed and its number: the order, the augmentation and torch's own
generator are all seeded by (seed, epoch). So a checkpoint holds no generator's state, and a training that was stopped
between two epochs ends with the same weights as one that was not.

Several processes (`rca.core.launch`) share each batch and come to the weights and the memory of one process, up to
rounding.
Only what a method draws for its own rows (the mixing of RCA's contrast) differs with their number.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from rca.core.distributed import rank, sum_over_ranks, world_size
from rca.core.errors import UserError
from rca.core.files import write_file
from rca.core.precision import Precision, choose_precision
from rca.core.progress import track
from rca.core.settings import Settings, Unpinned
from rca.data.loading.images import EpochSampler, Sample
from rca.training.curves import record_curves


class OptimisationSettings(Settings):
    """How a network is trained.

    Attributes:
        optimiser: SGD with Nesterov momentum 0.9, or AdamW.
        epochs: Passes over the images.
        batch_size: Images in a step of the loader, of all processes together.
        accumulate: Steps of the loader for each step of the optimiser.
        learning_rate: Of the new layers, at the start.
        backbone_learning_rate: Of the backbone.
        weight_decay: L2 penalty (AdamW: decoupled).
        poly_power: The rates fall as (1 - step / steps) ** poly_power.
        freeze_batchnorm: Keep the backbone's BatchNorm statistics and scales as they came.
        precision: "float32", or "bfloat16" on a GPU for what `rca.core.precision` says (a CPU always takes float32).
        workers: Processes that load images, for each process that trains; the result does not depend on it.
        processes: Processes that train together, each with a GPU of its own, or all on the CPU where there is none.
            They share a batch; whole images (no crop) are padded to the largest of a process's own part.
    """

    optimiser: Literal["sgd", "adamw"] = "adamw"
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(gt=0)
    backbone_learning_rate: float
    weight_decay: float = Field(default=1e-4, ge=0)
    poly_power: float = Field(default=0.9, ge=0)
    freeze_batchnorm: bool = True
    precision: Precision = "bfloat16"
    workers: Annotated[int, Unpinned()] = Field(default=0, ge=0)
    processes: int = Field(default=1, ge=1)

    @field_validator("backbone_learning_rate")
    @classmethod
    def _backbone_learns(cls, rate: float) -> float:
        if rate <= 0:
            raise ValueError("must be above 0; a backbone is frozen by backbone.trainable: none")
        return rate

    @model_validator(mode="after")
    def _each_process_has_an_image(self) -> "OptimisationSettings":
        if self.processes > self.batch_size:
            raise ValueError("processes must not exceed batch_size, which they share")
        return self


class _Step(nn.Module):
    """The loss of a batch as a module, so that DistributedDataParallel sees all that is done between weights and loss.

    Args:
        network: What is trained.
        compute_losses: As in `Trainer`.
    """

    def __init__(self, network: nn.Module, compute_losses: Callable[[Any, Sample, int], dict[str, Tensor]]) -> None:
        super().__init__()
        self.network, self.compute_losses = network, compute_losses

    def forward(self, batch: Sample, epoch: int) -> dict[str, Tensor]:
        return self.compute_losses(self.network, batch, epoch)


@dataclass
class Trainer:
    """One training, resumable between epochs, in this process or in all of a process group.

    Args:
        network: What is trained; it lies on `device`.
        backbone: The part of it that takes `backbone_learning_rate`; it is frozen where no parameter of it requires a
            gradient.
        settings: How.
        seed: Of the run.
        device: Where.
        compute_losses: From the network, a batch and the epoch to the weighted terms of the loss, by name. It is called
            in the precision of the settings and takes out of that what needs more digits (`rca.core.precision`).
        start_epoch: Called before each epoch with its number.
        checkpoint: Where the state is kept after each epoch; None keeps none.
        curves: Where TensorBoard finds the history as it grows; None records none.
    """

    network: nn.Module
    backbone: nn.Module
    settings: OptimisationSettings
    seed: int
    device: torch.device
    compute_losses: Callable[[Any, Sample, int], dict[str, Tensor]]
    start_epoch: Callable[[int], None] = lambda epoch: None
    checkpoint: Path | None = None
    curves: Path | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def fit(self, loader: DataLoader, sampler: EpochSampler) -> list[dict[str, float]]:
        """Train for the set number of epochs, from the checkpoint where there is one.

        Returns:
            A line for each epoch: `epoch`, `learning_rate` at its start, and the mean of each term of the loss.

        Raises:
            UserError: a loss is not finite, the checkpoint is broken, several processes are to train BatchNorm on a
                CPU, or curves cannot be recorded.
        """
        self._share_batchnorm()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = self._make_optimiser()
        steps = self.settings.epochs * -(-len(loader) // self.settings.accumulate)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, self.settings.poly_power)
        first = self._resume(optimiser, schedule)
        step: nn.Module = _Step(self.network, self.compute_losses)
        if world_size() > 1:
            # Made after every rank has resumed: it waits for all, so none can delete or replace the checkpoint before.
            # Parts of a method may lie idle until there are prototypes.
            step = DistributedDataParallel(step, find_unused_parameters=True)
            # No copying of buffers before each step, since they are the same on all ranks: each takes up the regions of
            # all in the same order and clusters them from the same seed, and BatchNorm is frozen or synchronised. Set
            # here and not in the call, where torch has renamed it.
            step.broadcast_buffers = False
        with record_curves(self.curves if rank() == 0 else None) as record:
            for line in self.history:
                record(line)
            for epoch in range(first, self.settings.epochs):
                start = time.monotonic()
                self._fit_epoch(step, loader, sampler, optimiser, schedule, epoch)
                self._say(time.monotonic() - start)
                self._keep(optimiser, schedule)
                record(self.history[-1])
        return self.history

    def _fit_epoch(
        self, step: nn.Module, loader: DataLoader, sampler: EpochSampler, optimiser: Any, schedule: Any, epoch: int
    ) -> None:
        # Each rank draws for its own rows.
        torch.manual_seed(self.seed * 1_000_003 + rank() * 10_007 + epoch)
        sampler.epoch = epoch
        self.start_epoch(epoch)
        self.network.train()
        for module in self._list_frozen():
            module.eval()
        learning_rate = optimiser.param_groups[0]["lr"]
        totals: dict[str, float] = {}
        share = self.settings.accumulate
        for number, batch in enumerate(track(loader, f"epoch {epoch + 1}", len(loader)), 1):
            batch = Sample(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
            # Convolutions run faster with channels last, on a CPU (a quarter was seen) and on a GPU in bfloat16.
            batch = batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))
            with choose_precision(self.device, self.settings.precision):
                losses = step(batch, epoch)
            terms = torch.stack(list(losses.values()))
            # The same on every rank, so that all go on or all stop.
            means = (sum_over_ranks(terms) / world_size()).tolist()
            if not math.isfinite(sum(means)):
                raise UserError(f"The loss became {sum(means)} in epoch {epoch + 1}: lower the learning rate.")
            group = min(share, len(loader) - (number - 1) // share * share)  # the last one may be smaller
            (terms.sum() / group).backward()
            for name, value in zip(losses, means, strict=True):
                totals[name] = totals.get(name, 0.0) + value
            if number % share == 0 or number == len(loader):
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                schedule.step()
        terms_of_epoch = {f"loss_{name}": total / len(loader) for name, total in totals.items()}
        self.history.append({"epoch": epoch + 1, "learning_rate": learning_rate, **terms_of_epoch})

    def _say(self, seconds: float) -> None:
        epoch, *figures = self.history[-1].items()
        line = ", ".join(f"{name} {value:.4g}" for name, value in figures)
        print(f"epoch {epoch[1]}/{self.settings.epochs}: {line} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def _list_frozen(self) -> list[nn.Module]:
        """What stays in evaluation mode: a backbone that is not trained, or its BatchNorm where that is frozen."""
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            return list(self.backbone.modules())
        norms: list[nn.Module] = [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        return (
            norms
            if self.settings.freeze_batchnorm
            else [one for one in norms if not any(part.requires_grad for part in one.parameters())]
        )

    def _share_batchnorm(self) -> None:
        """Let BatchNorm that several processes train see the whole batch; torch has that for GPUs alone."""
        frozen = self._list_frozen()
        trained = [one for one in self.network.modules() if isinstance(one, _BatchNorm) and one not in frozen]
        if world_size() == 1 or not trained:
            return
        if self.device.type != "cuda":
            raise UserError(
                "Several processes cannot train BatchNorm on a CPU: set optimisation.processes to 1, or"
                " optimisation.freeze_batchnorm to true where only the backbone has it."
            )
        self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)

    def _make_optimiser(self) -> torch.optim.Optimizer:
        settings = self.settings
        own = {id(parameter) for parameter in self.backbone.parameters()}
        new = [parameter for parameter in self.network.parameters() if id(parameter) not in own]
        groups: list[dict[str, Any]] = [{"params": new, "lr": settings.learning_rate}]
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

    def _resume(self, optimiser: Any, schedule: Any) -> int:
        """Take up the checkpoint, if there is one; the number of the first epoch that is still to do."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return 0
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # torch.load raises whatever the broken file makes it stumble over
            reason = str(error).split("\n")[0]
            raise UserError(f"The checkpoint {self.checkpoint} is broken ({reason}): delete it.") from None
        self.network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        self.history[:] = state["history"]
        print(f"resuming after epoch {len(self.history)}", file=sys.stderr, flush=True)
        return len(self.history)

    def _keep(self, optimiser: Any, schedule: Any) -> None:
        if self.checkpoint is None or rank() > 0:
            return
        state = {
            "network": self.network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "history": self.history,
        }
        with write_file(self.checkpoint) as temporary:
            torch.save(state, temporary)


def set_determinism(threads: int) -> None:
    """Make torch give the same bytes for the same input on the same machine.

    Args:
        threads: How many threads torch computes with; another number gives other last digits.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def choose_device() -> torch.device:
    """The first GPU that the job may see, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
