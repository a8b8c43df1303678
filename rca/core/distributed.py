"""Sums, gathers and means over the processes of one training, on torch.distributed.

Without a process group, the functions neither copy, scale nor send anything.
"""

from collections.abc import Callable

import torch
from torch import Tensor, distributed
from torch.autograd.function import BackwardCFunction


def world_size() -> int:
    """The number of processes that train together."""
    return distributed.get_world_size() if _is_grouped() else 1


def rank() -> int:
    """This process's rank, counted from 0."""
    return distributed.get_rank() if _is_grouped() else 0


def _is_grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor of the same shape on each rank over the ranks, without gradients."""
    total = values.detach()
    if world_size() > 1:
        total = total.clone()
        distributed.all_reduce(total)
    return total


def count_rows(tensor: Tensor) -> int:
    """The number of rows (dimension 0) of a tensor on all ranks together."""
    if world_size() == 1:
        return len(tensor)
    return int(sum_over_ranks(torch.tensor(len(tensor), device=tensor.device)))


def find_first_row(tensor: Tensor) -> int:
    """The place of this rank's first row (dimension 0) among the rows of all ranks, in rank order."""
    if world_size() == 1:
        return 0
    (ranks,) = gather_rows(torch.full((len(tensor),), rank(), device=tensor.device))
    return int((ranks < rank()).sum())


def draw_once(draw: Callable[[], Tensor]) -> Tensor:
    """What rank 0 draws, on each rank: draws for the whole batch are then those of one process.

    Args:
        draw: Draws a tensor, of the same shape on each rank.
    """
    drawn = draw().contiguous()  # a collective reads plain memory
    if world_size() > 1:
        distributed.broadcast(drawn, 0)
    return drawn


@torch.no_grad()
def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Gather the rows of all ranks, in rank order, without gradients.

    Args:
        tensors: (R, ...); R is the same for all tensors of a rank, but may differ between ranks, down to 0.

    Returns:
        The tensors with the rows of all ranks, equal on each rank.
    """
    if world_size() == 1:
        return tuple(tensor.detach() for tensor in tensors)
    rows = torch.tensor([len(tensors[0])], device=tensors[0].device)
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(gathered, rows)
    counts = [int(count) for count in gathered]
    return tuple(_gather(tensor.detach(), counts) for tensor in tensors)


def _gather(tensor: Tensor, counts: list[int]) -> Tensor:
    """Gather one tensor, padded on the way, since a collective sends equally many rows from each rank."""
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def mean_of_rows(values: Tensor) -> Tensor:
    """This rank's share of the mean over the rows of all ranks.

    DistributedDataParallel averages the ranks' gradients, and the Trainer their losses. So each rank returns the sum of
    its rows times the number of ranks, divided by the number of all rows: averaged over ranks, that is the mean over
    all rows, however they are spread.

    Args:
        values: (R,), a loss for each row; R may be 0 where another rank has rows.
    """
    if world_size() == 1:
        return values.mean()
    return divide_by_count(values.sum(), torch.tensor(len(values), device=values.device))


def divide_by_count(total: Tensor, count: Tensor) -> Tensor:
    """`mean_of_rows` for losses that are already summed.

    Args:
        total: (), the sum of this rank's losses.
        count: (), int64, their number.

    Returns:
        (); 0 where no rank has any.
    """
    return total * world_size() / sum_over_ranks(count).clamp(min=1)


class _GatherWithGradient(torch.autograd.Function):
    """Gathers the rows of all ranks; backwards, sums over the ranks the gradients of each rank's rows."""

    @staticmethod
    def forward(ctx: BackwardCFunction, rows: Tensor) -> Tensor:
        ranks = torch.full((len(rows),), rank(), device=rows.device)
        gathered, origins = gather_rows(rows, ranks)
        ctx.save_for_backward(origins == rank())
        return gathered

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> Tensor:
        (is_local,) = ctx.saved_tensors
        return sum_over_ranks(gradients[0].contiguous())[is_local]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """`gather_rows` of one tensor, with gradients, for a loss that every rank computes on the whole batch.

    The backward pass sums the gradients that all ranks have for a row. DistributedDataParallel then averages over the
    ranks, which gives the gradient of a single process.

    Args:
        rows: (R, ...); R may differ between ranks.
    """
    return rows if world_size() == 1 else _GatherWithGradient.apply(rows)
