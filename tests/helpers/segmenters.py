"""A segmentation network with random weights, for tests."""

from pathlib import Path

import torch
from torch import nn

from rca.segmentation.heads import HeadName
from rca.segmentation.network import Provenance, Segmenter, SegmenterDescription, save_segmenter

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
PROVENANCE = Provenance("pets", "train", 7, 60, "refined, best threshold", "ab" * 32, "rca", 3, "0.1", "cd" * 32)


def build(
    head: HeadName = "linear",
    stride: int = 8,
    classes: tuple[str, ...] = ("a", "b", "c"),
    provenance: Provenance | None = None,
) -> Segmenter:
    torch.manual_seed(0)
    about = SegmenterDescription("small", stride, head, classes, MEAN, STD, "from scratch", provenance)
    network = Segmenter(about)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    return network.eval()


def write_model(path: Path, network: Segmenter | None = None) -> Path:
    save_segmenter(path, network or build(provenance=PROVENANCE))
    return path
