"""Co-attention: attend from each position of one image to the positions of another.

Source: Sun, Wang, Dai and Van Gool, Mining Cross-Image Semantics for Weakly Supervised Semantic Segmentation, ECCV 2020
(the affinity matrix P and the co-attention summaries).
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rca.core.settings import Settings


class AffinityOptions(Settings):
    """How the positions of two images are compared.

    Attributes:
        form: "dot" is F_m^T W F_n (the paper); "scaled" divides it by the square root of the channels; "cosine" is the
            cosine. With "dot" the softmax over positions soon gives all its weight to one of them.
        projection: "free" for any W; "symmetric" for W = V^T V, one projection for both images; "none" for the
            identity, at which W and V start.
        temperature: The affinity is divided by it; null means 1, or 0.05 for the cosine.
    """

    form: Literal["dot", "scaled", "cosine"] = "dot"
    projection: Literal["free", "symmetric", "none"] = "free"
    temperature: float | None = Field(default=None, gt=0)


class Affinity(nn.Module):
    """The similarity of each position of one image to each position of another.

    Args:
        options: How positions are compared.
        channels: Number of feature channels, D.
    """

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    def __init__(self, options: AffinityOptions, channels: int) -> None:
        super().__init__()
        self.options = options
        temperature = options.temperature or (0.05 if options.form == "cosine" else 1.0)
        self.scale = 1 / temperature / (channels**0.5 if options.form == "scaled" else 1)
        if options.projection != "none":
            self.weight = nn.Parameter(torch.eye(channels))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare features (B, D, h, w) and (B, D, h', w').

        Returns:
            P, the logits of the attention, (B, h w, h' w').
        """
        first, second = first.flatten(2), second.flatten(2)
        if self.options.projection != "none":
            first = self.weight.T @ first
        if self.options.projection == "symmetric":
            second = self.weight.T @ second
        if self.options.form == "cosine":
            first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
        return first.transpose(1, 2) @ second * self.scale


def summarise(affinity: Tensor, features: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
    """The co-attention summary: for each position of an image, the attention-weighted mean of another's features.

    Args:
        affinity: (B, h w, h' w'), logits.
        features: (B, D, h', w'), of the other image.
        valid: (B, 1, h', w'), 0 on padding of the other image, which gets no attention.
        size: h and w.

    Returns:
        (B, D, h, w).
    """
    shares = affinity.masked_fill(valid.flatten(2) == 0, -torch.inf).softmax(2)
    return torch.unflatten(features.flatten(2) @ shares.transpose(1, 2), 2, size)
