"""The moving average of a network's weights over the steps of its training."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def build_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights (Tarvainen & Valpola, Mean teachers, NIPS 2017, section 2).

    After step t, counted from 1, it is a_t * average + (1 - a_t) * weights, with a_t = min(1 - 1 / t, decay): at first
    the plain mean of all steps, so that the random weights of the start do not stay in it. Statistics of BatchNorm are
    averaged alike.

    Args:
        network: The network, whose weights the average starts from.
        decay: Share of the average that remains in a step, 0..1.

    Returns:
        The average, to be updated with `update_parameters` after each step; `module` holds its weights.
    """

    def blend(
        averages: tuple[Tensor, ...] | list[Tensor], weights: tuple[Tensor, ...] | list[Tensor], done: Tensor | int
    ) -> None:
        share = max(1 / (int(done) + 1), 1 - decay)
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, share)
            else:  # a count of batches
                average.copy_(weight)

    return AveragedModel(network, multi_avg_fn=torch.no_grad()(blend), use_buffers=True)
