"""The output of a network for a batch: what host, method and inference hand to each other."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from torch import Tensor

Value = TypeVar("Value")


class Output(NamedTuple):
    """The output of a network for a batch.

    Attributes:
        maps: (B, C, h, w), the method's class activation maps, before ReLU.
        features: (B, D, h, w), the features that the maps were computed from.
        valid: (B, 1, h, w), the share of each feature's field that lies on the image, 0..1.
        refined: (B, C, h, w), at least 0, the host's refinement of the maps; None if the host refines nothing.
        background: (B, 1, h, w), the background's share if the maps are shares that sum to 1 with it; None if the maps
            are raw scores.
        second: The output for the second view of the batch; None if neither host nor method needs one.
        copies: The outputs for the method's further views of the images (`Method.views`), without partners and without
            the host's refinement; None if the method needs none.
        extras: Tensors that a host or a method passes on to itself, by name. Nobody else reads them.
    """

    maps: Tensor
    features: Tensor
    valid: Tensor
    refined: Tensor | None = None
    background: Tensor | None = None
    second: "Output | None" = None
    copies: "tuple[Output, ...] | None" = None
    extras: Mapping[str, Tensor] = MappingProxyType({})

    @property
    def scores(self) -> Tensor:
        """The maps that inference uses (B, C, h, w): the refined ones if there are any."""
        return self.maps if self.refined is None else self.refined

    def mirror(self) -> "Output":
        """The output of one view with left and right of every map exchanged; without `extras`."""
        maps, features, valid = (tensor.flip(3) for tensor in (self.maps, self.features, self.valid))
        refined, background = (None if tensor is None else tensor.flip(3) for tensor in (self.refined, self.background))
        return Output(maps, features, valid, refined, background)


def require(value: Value | None, flag: str) -> Value:
    """A value that a host or a method gets only if its class sets a flag, e.g. `Output.second`.

    Args:
        value: The value; None if nobody set the flag.
        flag: The class attribute that asks for it, e.g. "needs_second_view".

    Raises:
        RuntimeError: the value is missing.
    """
    if value is None:
        raise RuntimeError(f"A host or method uses what {flag} provides: set {flag} on its class.")
    return value
