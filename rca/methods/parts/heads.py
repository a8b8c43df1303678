"""Classifiers that turn features into maps: convolutions before the 1x1 classifier, shared or one branch a class.

Source: Zhou et al., Regional Semantic Contrast and Aggregation for Weakly Supervised Semantic Segmentation, CVPR 2022,
whose heads are those of OAA (Jiang et al., ICCV 2019).
"""

from torch import nn


def build_head(inputs: int, classes: int, convolutions: int, channels: int, branches: int = 1) -> nn.Sequential:
    """3x3 convolutions, each with a ReLU, then a 1x1 classifier.

    All branches see the same features and nothing of each other: they are the groups of one convolution, which computes
    them at once.

    Args:
        inputs: Channels of the features, D.
        classes: Number of classes, C; a multiple of `branches`.
        convolutions: Number of 3x3 convolutions; with 0 all branches together are one linear classifier.
        channels: Channels of each 3x3 convolution of each branch.
        branches: 1 for a head that all classes share, C for one of its own for each class.

    Returns:
        A module from features (B, D, h, w) to maps (B, C, h, w).
    """
    layers: list[nn.Module] = []
    width, groups = inputs, 1
    for _ in range(convolutions):
        layers += [nn.Conv2d(width, branches * channels, 3, padding=1, groups=groups), nn.ReLU()]
        width, groups = branches * channels, branches
    return nn.Sequential(*layers, nn.Conv2d(width, classes, 1, groups=groups))


def build_projection(channels: int, hidden: int) -> nn.Sequential:
    """The projection of features before the contrast: 3x3, BatchNorm, ReLU, 3x3.

    Args:
        channels: Channels of the features and of the result, D.
        hidden: Channels between the convolutions.

    Returns:
        A module from features (B, D, h, w) to features (B, D, h, w).
    """
    first, second = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, channels, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(hidden), nn.ReLU(), second)
