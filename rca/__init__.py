"""Weakly supervised semantic segmentation: image-level tags in, pixel masks and a segmentation model out."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rca.prediction.model import Model


def load(model: str | Path, device: str = "auto") -> "Model":
    """Load a segmentation model, as `rca.prediction.model.load_model` does."""
    # By name and late: each stage imports this file, and none should wait for, or depend on, what predicts.
    load_model: Callable[[str | Path, str], Model] = importlib.import_module("rca.prediction.model").load_model
    return load_model(model, device)
