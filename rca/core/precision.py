"""Which parts run in bfloat16 and which in float32.

With precision bfloat16, on a GPU, the backbone and the layers that turn its features into scores (the head of a
segmentation network, the branches of a boundary network) run in bfloat16. Hosts, methods and losses always run in
float32.
"""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def choose_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass: bfloat16 on a GPU if `precision` says so, else float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and precision == "bfloat16")


def keep_digits(device: torch.device) -> torch.autocast:
    """The context of hosts, methods and losses within a forward pass: float32.

    Similarities divided by a temperature, shares of a map's peak and losses need more digits than bfloat16 has, and
    cost little beside the backbone.
    """
    return torch.autocast(device.type, enabled=False)
