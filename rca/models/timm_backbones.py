"""Any image model of timm as a backbone: `timm/convnext_atto`, `timm/pvt_v2_b0`, `timm/vit_tiny_patch16_224`.

timm is the extra `timm`: only those who name such a backbone need it, and it takes seconds to import.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.core.errors import UserError
from rca.models.backbones import Backbone

PREFIX = "timm/"
# Of no model's usual size, and a multiple of every stride but those of 14.
PROBE = (96, 128)


class TimmBackbone(Backbone):
    """A model of timm without its classifier.

    Images are resized, bilinearly, to the next multiple of the model's coarsest stride (of a plain transformer: of its
    patches), so that features cover the whole image and nothing else; position embeddings are resampled with them.

    Args:
        name: The model, with or without `timm/`.
        output_stride: That of its last features. Models that can be dilated are; others must have it by themselves.

    Raises:
        UserError: timm is not installed or has no such model, or the model gives no maps of features, takes images of
            one size alone or has another stride.
    """

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__()
        name = name.removeprefix(PREFIX)
        problem = find_problem(PREFIX + name)
        if problem:
            raise UserError(f"The backbone {PREFIX}{name} cannot be built: {problem}.")
        self.net = _create(name, output_stride)
        strides = self.net.feature_info.reduction()
        if strides[-1] != output_stride:
            raise UserError(
                f"The backbone {PREFIX}{name} gives features at stride {strides[-1]}, not {output_stride}: set "
                "backbone.output_stride to that, or choose another backbone."
            )
        channels = self.net.feature_info.channels()
        # The features that DeepLab-V3+ decodes with: at stride 4, or the earliest that a plain transformer gives.
        self._low = strides.index(4) if 4 in strides else 0
        self.low_channels, self.channels = channels[self._low], channels[-1]
        self.level_channels = (channels[-3], channels[-2])
        self._multiple = max(strides)
        self._channels_last = _probe(self.net, name, self._multiple)

    def list_last_stage(self) -> list[nn.Module]:
        """The module that the last features come from: a stage of a pyramid, a plain transformer's last block."""
        last = unify(self.net.feature_info.module_name()[-1])
        return [module for name, module in self.net.named_modules() if unify(name) == last]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract features, as every backbone does."""
        features = self._extract(images)
        return features[self._low], features[-1]

    def extract_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of all four levels, as every backbone gives them; of a plain transformer, its last three blocks'."""
        features = self._extract(images)
        return features[self._low], *features[-3:]

    def _extract(self, images: Tensor) -> list[Tensor]:
        multiple = self._multiple
        # Of positive numbers alone: ONNX rounds a quotient towards 0.
        size = [(side + multiple - 1) // multiple * multiple for side in images.shape[2:]]
        # Whether or not the size is one already: an export would keep either branch for all sizes.
        features = self.net(functional.interpolate(images, size, mode="bilinear"))
        return [one.permute(0, 3, 1, 2) for one in features] if self._channels_last else list(features)


def find_problem(name: str) -> str:
    """Why a backbone `timm/<model>` cannot be had, as part of a sentence; empty where it can."""
    if find_spec("timm") is None:
        return "timm is not installed, so install it with `pip install timm`"
    import timm

    model = name.removeprefix(PREFIX)
    if timm.is_model(model):
        return ""
    similar = timm.list_models(f"*{model.partition('_')[0]}*")[:3]
    return f"timm {timm.__version__} has no model {model}" + (f", but {', '.join(similar)}, ..." if similar else "")


def unify(name: str) -> str:
    """A layer's name without what tells a model from its features: timm joins parts by "_" there, or adds "model."."""
    return name.removeprefix("net.").removeprefix("model.").replace(".", "_")


def _create(name: str, output_stride: int) -> Any:
    """The model with random weights: dilated where it can be, else for images of any size where it must be told so."""
    import timm

    reasons = []
    choices: tuple[dict[str, Any], ...] = ({"output_stride": output_stride}, {"dynamic_img_size": True}, {})
    for options in choices:
        try:
            with torch.device("cpu"):  # timm computes with what it makes, which the device "meta" cannot
                return timm.create_model(name, pretrained=False, features_only=True, **options)
        except (TypeError, AssertionError, NotImplementedError, RuntimeError) as error:  # each refuses in its own way
            reasons.append(" ".join(str(error).split()))
    raise UserError(f"The backbone {PREFIX}{name} gives no maps of features ({reasons[-1]}): choose another.")


@torch.no_grad()
def _probe(net: Any, name: str, multiple: int) -> bool:
    """Whether a model has the channels of its features last; and whether it takes images of another than its size."""
    sides = [-(-side // multiple) * multiple for side in PROBE]
    training = net.training
    try:
        with torch.device("cpu"):
            features = net.eval()(torch.zeros(1, 3, *sides))
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"The backbone {PREFIX}{name} takes images of one size alone ({reason}): choose another."
        ) from None
    net.train(training)
    return features[-1].shape[1] != net.feature_info.channels()[-1]
