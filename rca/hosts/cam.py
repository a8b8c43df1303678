"""The plain host: a 1x1 classifier on the features, trained on image-level tags.

The maps are the classifier applied at every position (Zhou et al., Learning Deep Features for Discriminative
Localization, CVPR 2016), so a mean over positions gives the image's scores.
"""

from torch import Tensor, nn
from torch.nn import functional

from rca.distributed import mean_of_rows
from rca.models.pooling import pool_mean


class CamHost(nn.Module):
    """How the base network turns features into class activation maps and learns from tags.

    Args:
        channels: Of the features.
        classes: How many object classes there are.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, classes, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Class activation maps (B, C, h, w), before ReLU, of features (B, D, h, w)."""
        return self.classifier(features)

    def classification_loss(self, maps: Tensor, valid: Tensor, tags: Tensor) -> Tensor:
        """Multi-label soft margin: binary cross-entropy of the pooled maps, a mean over images and classes.

        Args:
            maps: (B, C, h, w).
            valid: (B, 1, h, w), 1 on the image and 0 on padding.
            tags: (B, C) of 0 and 1.
        """
        return mean_of_rows(functional.multilabel_soft_margin_loss(pool_mean(maps, valid), tags, reduction="none"))


HOST = CamHost
