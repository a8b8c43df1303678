"""Tensors with a description, in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rca.core.errors import UserError, quote
from rca.core.files import write_file
from rca.core.settings import Plain
from rca.core.tensors import explain_failure, read_about

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
KNOWN = _FLOATS | {torch.int32, torch.int64, torch.uint8, torch.bool}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write tensors and their description (JSON data), whole or not at all."""
    with write_file(path) as temporary:
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, {"about": json.dumps(about, sort_keys=True)})


def load_tensors(path: Path, stage: str) -> tuple[dict[str, Tensor], Plain]:
    """Read the tensors and the description that `save_tensors` wrote, on the CPU.

    Args:
        path: The file.
        stage: The stage that writes it, for the message.

    Raises:
        UserError: the file is missing or broken, or holds NaN or infinities.
    """
    about = read_about(path, stage)
    with explain_failure(path, stage):
        tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.dtype not in KNOWN:
            raise UserError(f"{path} holds {quote(name)} as {tensor.dtype}, which {stage} never writes: name another.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{path} holds values in {quote(name)} that are not finite: delete it and run {stage} again."
            )
    return tensors, about
