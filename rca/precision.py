"""What a network computes with: its backbone in bfloat16 on a GPU, where that was asked for; all else in float32."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def choose_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a backbone's forward pass: bfloat16 on a GPU where that was asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and precision == "bfloat16")


def keep_digits(device: torch.device) -> torch.autocast:
    """The context of what comes after a backbone, whatever that one computes with.

    Similarities that are divided by a temperature, shares of a map's peak and losses ask for more digits than bfloat16
    has, and cost little beside the backbone.
    """
    return torch.autocast(device.type, enabled=False)
