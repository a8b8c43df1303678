"""Made-up snapshots of a memory, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rca.models.storage import save_tensors


def make_snapshot(
    classes: Sequence[str],
    images: Sequence[str],
    written: Sequence[int],
    size: int = 6,
    channels: int = 8,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A bank of random entries and its description; rows with more than 4 regions have two usable prototypes.

    Empty slots hold values that would show if they were used: large entries, and positions that no image has.
    """
    random = torch.Generator().manual_seed(seed)
    rows = len(classes)
    entries = functional.normalize(torch.randn(rows, size, channels, generator=random) + 0.5, dim=2)
    corner = torch.randint(0, 20, (rows, size, 2), generator=random) + torch.rand(rows, size, 2, generator=random)
    extent = torch.randint(3, 15, (rows, size, 2), generator=random)
    filled = torch.arange(size) < torch.tensor(written)[:, None]
    tensors = {
        "memory.entries": torch.where(filled[..., None], entries, torch.tensor(100.0)),
        "memory.written": torch.tensor(written),
        "memory.image": torch.randint(0, len(images), (rows, size), generator=random).where(filled, torch.tensor(-1)),
        "memory.epoch": torch.randint(0, 5, (rows, size), generator=random).where(filled, torch.tensor(-1)),
        "memory.confidence": torch.rand(rows, size, generator=random),
        "memory.box": torch.cat([corner, corner + extent], 2),
        "memory.region": torch.randint(0, 256, (rows, size, 16, 16), generator=random, dtype=torch.uint8),
        "prototypes": torch.randn(rows, 3, channels, generator=random),
        "prototypes_usable": (torch.tensor(written) > 4)[:, None] & torch.tensor([True, False, True]),
    }
    about = {
        "method": "rca",
        "classes": list(classes),
        "images": list(images),
        "run": "rca",
        "seed": 0,
        "epochs": 5,
        "network_sha256": "0" * 64,
    }
    return tensors, about


def write_snapshot(path: Path, *arguments: Any, **options: Any) -> Path:
    """Write the result of `make_snapshot`."""
    save_tensors(path, *make_snapshot(*arguments, **options))
    return path
