"""The contrasts of HSC: between object and background, between classes, and between positions.

Source: Wu, Li, Dai, Li, Liu and Xie, Hierarchical Semantic Contrast for Weakly Supervised Semantic Segmentation, IJCAI
2023. If several processes share a batch, every function counts the rows of all ranks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.core.distributed import gather_rows, gather_with_gradient

NEVER = -1e4
"""The similarity that excludes a prototype from a softmax; finite, so that no gradient becomes NaN."""


class MovingPrototypes(nn.Module):
    """Exponential moving averages of embeddings.

    A prototype starts as the first embedding of its class, and is not used before. (In the released code it starts as
    noise, and stays noise for a class that never occurs.)

    Args:
        shape: Shape of the prototypes, channels last.
        momentum: Share of a prototype that remains in an update, 0..1.
        normalised: Whether a prototype is L2-normalised after each update.
    """

    vectors: Tensor
    known: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float, normalised: bool = True) -> None:
        super().__init__()
        self.momentum, self.normalised = momentum, normalised
        self.register_buffer("vectors", torch.zeros(shape))
        self.register_buffer("known", torch.zeros(shape[:-1], dtype=torch.bool))

    @torch.no_grad()
    def update(self, embeddings: Tensor, present: Tensor) -> None:
        """Move the prototypes towards embeddings.

        Args:
            embeddings: Of the prototypes' shape, equal on all ranks.
            present: Of that shape without the channels, bool: which embeddings exist.
        """
        mixed = self.momentum * self.vectors + (1 - self.momentum) * embeddings
        moved = torch.where(self.known[..., None], mixed, embeddings)
        if self.normalised:
            moved = functional.normalize(moved, dim=-1)
        self.vectors.copy_(torch.where(present[..., None], moved, self.vectors))
        self.known.logical_or_(present)


def pool_strongest(rows: Tensor, weights: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """For each class the weighted mean of its heaviest rows, over the whole batch.

    Args:
        rows: (N, D), embeddings; gradients reach the rows of all ranks.
        weights: (N, K), at least 0.
        number: Number of rows per class. If several rows are as heavy as the last one, they share its place, so that
            neither their order nor the ranks matter: each enters with the same part of its weight.

    Returns:
        The means (K, D), L2-normalised, and which classes have a row with a weight above 0 (K,), bool.
    """
    (values,) = gather_rows(weights.topk(min(number, len(weights)), dim=0).values)
    heaviest = values.topk(min(number, len(values)), dim=0).values
    threshold = heaviest[-1]
    (equal,) = gather_rows((weights == threshold).sum(0)[None])
    part = (heaviest == threshold).sum(0) / equal.sum(0).clamp(min=1)
    chosen = weights * ((weights > threshold) + (weights == threshold) * part)
    sums = gather_with_gradient((chosen.T @ rows)[None]).sum(0)
    (totals,) = gather_rows(chosen.sum(0)[None])
    return functional.normalize(sums, dim=1), totals.sum(0) > 0


def repel(rows: Tensor, others: Tensor, present: Tensor, others_present: Tensor) -> Tensor:
    """SimMin: the mean over all pairs of -log(1 - cosine), with the cosine clamped to 0.0005..0.9995.

    Args:
        rows: (N, D), L2-normalised.
        others: (M, D), L2-normalised.
        present: (N,), bool: which rows exist.
        others_present: (M,), bool: which of the others exist.

    Returns:
        (), 0 without a pair.
    """
    terms = -torch.log1p(-(rows @ others.T).clamp(0.0005, 0.9995))
    pairs = present[:, None] & others_present
    return (terms * pairs).sum() / pairs.sum().clamp(min=1)


def attract(rows: Tensor, present: Tensor, prototype: Tensor) -> Tensor:
    """The mean absolute difference of rows from a prototype.

    Args:
        rows: (N, D), L2-normalised.
        present: (N,), bool: which rows exist.
        prototype: (D,).

    Returns:
        (), 0 without a row.
    """
    return ((rows - prototype).abs().mean(1) * present).sum() / present.sum().clamp(min=1)


def contrast_prototypes(
    queries: Tensor, labels: Tensor, prototypes: Tensor, known: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE against one prototype per class: -log(e(q.p_label) / sum of e(q.p) over the known prototypes p).

    e(x) is exp(x / temperature). No gradient reaches the prototypes.

    Args:
        queries: (N, D), L2-normalised.
        labels: (N,), int64; below 0 for a query that does not count.
        prototypes: (K, D).
        known: (K,), bool: which prototypes exist.
        temperature: Above 0.

    Returns:
        The sum of the losses (), and the number of queries whose prototype exists ().
    """
    similarity = (queries @ prototypes.detach().T / temperature).masked_fill(~known, NEVER)
    usable = (labels >= 0) & known[labels.clamp(min=0)]
    losses = functional.cross_entropy(similarity, labels.clamp(min=0), reduction="none")
    return losses.where(usable, 0).sum(), usable.sum()
