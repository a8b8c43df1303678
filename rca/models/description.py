"""The description that a network's file holds, checked before anything is built from it."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from rca.core.settings import Plain
from rca.models.backbones import OutputStride, find_problem

# A mask of 8 bits holds no more labels, beside the background and 255.
MOST_CLASSES = 254


class Description(Protocol):
    """What all networks' descriptions hold."""

    @property
    def backbone(self) -> str:
        """The backbone's name."""

    @property
    def output_stride(self) -> OutputStride:
        """Pixels per feature."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the images' normalisation, per channel."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the images' normalisation, per channel."""


DescriptionType = TypeVar("DescriptionType", bound=Description)


def read_description(kind: type[DescriptionType], data: Plain) -> DescriptionType:
    """Turn a file's plain data into the description of a network.

    Args:
        kind: The description's class, a dataclass.
        data: The plain data.

    Raises:
        ValueError: a field is missing, unknown, of the wrong type or out of range; the message says which.
    """
    for key in data.keys() - {field.name for field in fields(kind)}:  # type: ignore[arg-type]  # a dataclass
        raise ValueError(f"it has an unknown field {key[:50]!r}")
    try:
        about = TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"its {'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:120].lower()}") from None
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if problem := find_problem(about.backbone, about.output_stride):
        raise ValueError(problem)
    if not 0 < len(about.classes) <= MOST_CLASSES or len(set(about.classes)) < len(about.classes):
        raise ValueError(f"its classes are not 1 to {MOST_CLASSES} different names")
    if not all(len(values) == 3 for values in (about.mean, about.std)):
        raise ValueError("its mean and std do not have 3 channels")
    if not all(abs(value) <= 10 for value in about.mean) or not all(1e-4 <= value <= 10 for value in about.std):
        raise ValueError("its mean and std are not those of pixels in 0..1")
    return about


def check_shapes(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors are a network's state.

    Args:
        network: The network; it may be on the device "meta", which takes no memory.
        tensors: The tensors by name.

    Raises:
        ValueError: one is missing, unknown or of another shape; the message says which, in a few words.
    """
    state = network.state_dict()
    for name in (*(state.keys() - tensors.keys()), *(tensors.keys() - state.keys())):
        raise ValueError(f"it {'lacks' if name in state else 'has an unknown tensor'} {name[:80]}")
    for name, tensor in state.items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(f"its {name} is {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}")
