"""Weakly supervised semantic segmentation: image-level tags in, pixel masks and a segmentation model out."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rca.prediction.cam import ScoredImage
    from rca.prediction.inputs import ImageLike
    from rca.prediction.model import Model
    from rca.stages.base.results import Results


def load(model: str | Path, device: str = "auto") -> "Model":
    """Load a segmentation model, as `rca.prediction.model.load_model` does.

    A process that has predicted must not be forked to predict in the child: PyTorch's threads do not survive a fork,
    and the child waits for them for ever. Start workers afresh and load the model in each:
    `multiprocessing.get_context("spawn").Pool(...)`, `DataLoader(..., multiprocessing_context="spawn")`. Processes that
    were forked before the first prediction are safe.

    Args:
        model: A file `segmenter.safetensors` of the stage train_seg, or a folder of `rca export hub`.
        device: "auto" for a GPU if there is one, or torch's name, e.g. "cpu" or "cuda:1".

    Returns:
        The model; its `predict` takes a photograph, or a list of them.

    Raises:
        UserError: the file is missing or holds no segmentation network, or there is no such device.
    """
    loaded: Model = _find("rca.prediction.model", "load_model")(model, device)
    return loaded


def cam(
    network: str | Path, image: "ImageLike", tags: Sequence[str], device: str = "auto", **options: object
) -> "ScoredImage":
    """Score a tagged image with a classification network, as `rca.prediction.cam.score_image` does."""
    scored: ScoredImage = _find("rca.prediction.cam", "score_image")(network, image, tags, device, **options)
    return scored


def results(project: str | Path = ".") -> "Results":
    """The results of a project as frames of pandas, as `rca.stages.base.results.read_results` reads them."""
    read: Results = _find("rca.stages.base.results", "read_results")(project)
    return read


def _find(module: str, name: str) -> Any:
    # By name and late: each stage imports this file, and none should wait for, or depend on, what predicts.
    return getattr(importlib.import_module(module), name)
