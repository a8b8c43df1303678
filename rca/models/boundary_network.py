"""A light network on the features of a trained backbone that finds boundaries between objects of any class.

It is IRN's boundary branch (Ahn et al., CVPR 2019). It is not shown boundaries: it learns that there is none between
cells of the same label, and one between cells of different labels.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.core.distributed import divide_by_count
from rca.core.files import IGNORE
from rca.labels.affinity import list_windows
from rca.models.backbone import Backbone
from rca.models.backbones import build_backbone
from rca.models.storage import load_tensors, save_tensors

CHANNELS, GROUPS = 32, 4  # of each level


class BoundaryNetwork(nn.Module):
    """A frozen backbone with a branch on each of its levels.

    Args:
        backbone: A trained backbone; it is frozen here.
        mean: Mean of the images' normalisation, per channel, for pixels in 0..1.
        std: Standard deviation of the images' normalisation, per channel, for pixels in 0..1.
    """

    __call__: Callable[..., Tensor]  # nn.Module leaves it untyped

    def __init__(self, backbone: Backbone, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.backbone = backbone.requires_grad_(False).eval()
        inputs = (backbone.low_channels, *backbone.level_channels, backbone.channels)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, CHANNELS, 1, bias=False), nn.GroupNorm(GROUPS, CHANNELS), nn.ReLU())
            for channels in inputs
        )
        self.last = nn.Conv2d(CHANNELS * len(inputs), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of each cell being a boundary.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, ~H/4, ~W/4).
        """
        with torch.no_grad():
            levels = self.backbone.extract_levels(images)
        size = levels[0].shape[2:]
        branches = [branch(level) for branch, level in zip(self.branches, levels, strict=True)]
        resized = [functional.interpolate(features, size, mode="bilinear") for features in branches]
        logits: Tensor = self.last(torch.cat(resized, 1))
        return logits[:, 0]

    @torch.no_grad()
    def find_boundaries(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """The boundaries of images, averaged with those of the mirrored images.

        Args:
            images: (B, 3, H, W), normalised.
            size: Height and width of the result.

        Returns:
            (B, *size), 0..1.
        """
        logits = (self(images) + self(images.flip(3)).flip(2)) / 2
        return functional.interpolate(logits[:, None], size, mode="bilinear")[:, 0].sigmoid()


def compute_boundary_losses(logits: Tensor, labels: Tensor, radius: int) -> dict[str, Tensor]:
    """Cross-entropy of the affinities of neighbouring cells, with the weights of IRN.

    The affinity of two cells is 1 minus the highest boundary on the line between them. It should be 1 for cells of the
    same label and 0 for cells of different labels. The loss is 1/4 of the mean over pairs of the same object class, 1/4
    of the mean over pairs of background, and 1/2 of the mean over pairs of different labels.

    Args:
        logits: (B, h, w), of boundaries.
        labels: (B, h, w), int64, 255 if unknown.
        radius: Cells less than this many cells apart are neighbours.
    """
    kinds = ("object", "background", "boundary")
    totals = logits.new_zeros(len(kinds))
    counts = torch.zeros(len(kinds), dtype=torch.int64, device=logits.device)
    known = labels != IGNORE
    for windows in list_windows(logits.shape[1], logits.shape[2], radius):
        paths = torch.stack([logits[:, rows, columns] for rows, columns in windows])
        highest = paths.amax(0)
        (rows, columns), (other_rows, other_columns) = windows[0], windows[-1]
        label, other_label = labels[:, rows, columns], labels[:, other_rows, other_columns]
        both = known[:, rows, columns] & known[:, other_rows, other_columns]
        same = both & (label == other_label)
        chosen = torch.stack([same & (label != 0), same & (label == 0), both & (label != other_label)])
        # -log of the affinity sigmoid(-highest), and -log of 1 minus the affinity.
        together, apart = functional.softplus(highest), functional.softplus(-highest)
        totals = totals + (torch.stack([together, together, apart]) * chosen).sum((1, 2, 3))
        counts += chosen.sum((1, 2, 3))
    weights = (0.25, 0.25, 0.5)
    return {
        kind: weight * divide_by_count(total, count)
        for kind, weight, total, count in zip(kinds, weights, totals, counts, strict=True)
    }


def load_frozen_backbone(path: Path) -> tuple[Backbone, tuple[float, ...], tuple[float, ...]]:
    """The backbone of a classification network, and the mean and standard deviation of its images.

    Args:
        path: The network's file.

    Raises:
        UserError: the file is missing or broken.
    """
    tensors, about = load_tensors(path, "train_cam")
    backbone = build_backbone(about["backbone"], about["output_stride"])
    prefix = "backbone."
    backbone.load_state_dict({name[len(prefix) :]: tensors[name] for name in tensors if name.startswith(prefix)})
    return backbone, tuple(about["mean"]), tuple(about["std"])


def save_branches(path: Path, network: BoundaryNetwork) -> None:
    """Write the trained part, everything but the backbone, whole or not at all."""
    state = network.state_dict()
    save_tensors(path, {name: state[name] for name in state if not name.startswith("backbone.")}, {})


def load_boundary_network(path: Path, branches: Path) -> BoundaryNetwork:
    """Load a trained network, on the CPU and in evaluation mode.

    Args:
        path: The file of the classification network, which holds the backbone.
        branches: The file that `save_branches` wrote.

    Raises:
        UserError: a file is missing or broken.
    """
    network = BoundaryNetwork(*load_frozen_backbone(path))
    tensors, _ = load_tensors(branches, "train_affinity")
    network.load_state_dict({**network.state_dict(), **tensors})
    return network.eval()
