"""What is computed with how many digits.

On a GPU, where that was asked for, a backbone and what makes a pixel's scores of it (the head of a segmentation
network, the branches of a boundary network) compute in bfloat16. Hosts, methods and losses compute in float32 in any
case.
"""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def choose_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass: bfloat16 on a GPU where that was asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and precision == "bfloat16")


def keep_digits(device: torch.device) -> torch.autocast:
    """The context of hosts, methods and losses, within that of a forward pass.

    Similarities that are divided by a temperature, shares of a map's peak and losses ask for more digits than bfloat16
    has, and cost little beside the backbone.
    """
    return torch.autocast(device.type, enabled=False)
