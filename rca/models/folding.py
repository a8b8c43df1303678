"""Fold BatchNorm into the convolutions before it, for a network that no longer learns."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rca.models.backbones import SequentialBackbone


def fold_batchnorm(backbone: nn.Module) -> None:
    """Fold each BatchNorm of a convolutional backbone into its convolution, in place: the same features in less time.

    In the backbones of `rca.models.backbones`, a BatchNorm that follows a convolution among a module's children takes
    that convolution's output alone. Nothing is known of a model of timm, which stays as it is.

    Args:
        backbone: In evaluation mode; its weights need no gradients any more.
    """
    if not isinstance(backbone, SequentialBackbone):
        return
    with torch.no_grad():
        for module in list(backbone.modules()):
            children = list(module.named_children())
            for (name, first), (next_name, second) in pairwise(children):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(first, second))
                    setattr(module, next_name, nn.Identity())
