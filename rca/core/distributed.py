"""What the processes of one training tell each other, on torch.distributed.

Without a process group every function is that of one process: nothing is copied, scaled or sent.
"""

import torch
from torch import Tensor, distributed
from torch.autograd.function import BackwardCFunction


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _is_grouped() else 1


def rank() -> int:
    """The number of this process among them, counted from 0."""
    return distributed.get_rank() if _is_grouped() else 0


def _is_grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over ranks of a tensor that has the same shape on each; no gradient flows."""
    total = values.detach()
    if world_size() > 1:
        total = total.clone()
        distributed.all_reduce(total)
    return total


def count_rows(tensor: Tensor) -> int:
    """How many rows (dimension 0) a tensor has on all ranks together."""
    if world_size() == 1:
        return len(tensor)
    return int(sum_over_ranks(torch.tensor(len(tensor), device=tensor.device)))


@torch.no_grad()
def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all ranks, in the order of the ranks; no gradient flows.

    Args:
        tensors: (R, ...); R is the same for all tensors of a rank and may differ from rank to rank, down to 0.

    Returns:
        The same tensors with the sum of all R as their number of rows, equal on all ranks.
    """
    if world_size() == 1:
        return tuple(tensor.detach() for tensor in tensors)
    own = torch.tensor([len(tensors[0])], device=tensors[0].device)
    every = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(every, own)
    counts = [int(count) for count in every]
    return tuple(_gather(tensor.detach(), counts) for tensor in tensors)


def _gather(tensor: Tensor, counts: list[int]) -> Tensor:
    """Gather one tensor, padded on the way: a collective sends the same number of rows from each rank."""
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def mean_of_rows(values: Tensor) -> Tensor:
    """The mean over the rows of all ranks, as this rank's share of it.

    DistributedDataParallel takes the plain mean of the ranks' gradients, and the Trainer that of their losses. So each
    rank gives the sum of its rows times the number of ranks over the number of all rows: the mean of that over ranks is
    the mean over all rows, however they are spread.

    Args:
        values: (R,), one loss for each row; R may be 0 where another rank has rows.
    """
    if world_size() == 1:
        return values.mean()
    return divide_by_count(values.sum(), torch.tensor(len(values), device=values.device))


def divide_by_count(total: Tensor, count: Tensor) -> Tensor:
    """`mean_of_rows` of what was already added up.

    Args:
        total: (), the sum of this rank's losses.
        count: (), int64, how many those are.

    Returns:
        (); 0 where no rank has any.
    """
    return total * world_size() / sum_over_ranks(count).clamp(min=1)


class _GatherWithGradient(torch.autograd.Function):
    """The rows of all ranks; backwards, each rank's rows take the sum of the gradients that all ranks have for them."""

    @staticmethod
    def forward(ctx: BackwardCFunction, rows: Tensor) -> Tensor:
        owner = torch.full((len(rows),), rank(), device=rows.device)
        every, owners = gather_rows(rows, owner)
        ctx.save_for_backward(owners == rank())
        return every

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> Tensor:
        (own,) = ctx.saved_tensors
        return sum_over_ranks(gradients[0].contiguous())[own]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """`gather_rows` of one tensor, for a loss that every rank computes of the whole batch.

    With DistributedDataParallel, which takes the mean of the ranks' gradients, the sum of the gradients that all ranks
    have for a row is what one process would have.

    Args:
        rows: (R, ...), R may differ from rank to rank.
    """
    return rows if world_size() == 1 else _GatherWithGradient.apply(rows)
