"""Image models of timm as backbones, e.g. `timm/convnext_atto`, `timm/pvt_v2_b0`, `timm/vit_tiny_patch16_224`.

timm is the optional extra `timm`. It takes seconds to import, so it is imported only to build a backbone.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.core.errors import UserError
from rca.models.backbone import Backbone

PREFIX = "timm/"
PROBE = (96, 128)
"""The size of a test image: no model's default, and a multiple of all usual strides but 14."""


class TimmBackbone(Backbone):
    """A model of timm without its classifier.

    Images are resized bilinearly to the next multiple of the model's coarsest stride (for a plain transformer: of its
    patch size), so that the features cover exactly the image; position embeddings are resampled accordingly.

    Args:
        name: The model, with or without `timm/`.
        output_stride: The stride of the last features. Models that can be dilated are dilated; others must have this
            stride already.

    Raises:
        UserError: timm is not installed, there is no such model, or the model gives no feature maps, accepts images of
            one size only, or has another stride.
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
                f"backbone.output_stride to {strides[-1]}, or choose another backbone."
            )
        channels = self.net.feature_info.channels()
        # The features for the decoder of DeepLab-V3+: at stride 4, or the earliest ones of a plain transformer.
        self._low = strides.index(4) if 4 in strides else 0
        self.low_channels, self.channels = channels[self._low], channels[-1]
        self.level_channels = (channels[-3], channels[-2])
        self._multiple = max(strides)
        self._channels_last = _probe(self.net, name, self._multiple)

    def list_last_stage(self) -> list[nn.Module]:
        """The module of the last features: the last stage of a pyramid, or the last block of a plain transformer."""
        last = unify(self.net.feature_info.module_name()[-1])
        return [module for name, module in self.net.named_modules() if unify(name) == last]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract features, see `Backbone.forward`."""
        features = self._extract(images)
        return features[self._low], features[-1]

    def extract_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of all four levels; for a plain transformer, its earliest features and its last three blocks."""
        features = self._extract(images)
        return features[self._low], *features[-3:]

    def _extract(self, images: Tensor) -> list[Tensor]:
        multiple = self._multiple
        # Written with positive numbers only, since ONNX rounds quotients towards 0.
        size = [(side + multiple - 1) // multiple * multiple for side in images.shape[2:]]
        # Without a test whether the size is a multiple already: an export would keep one branch for all sizes.
        features = self.net(functional.interpolate(images, size, mode="bilinear"))
        return [level.permute(0, 3, 1, 2) for level in features] if self._channels_last else list(features)


def find_problem(name: str) -> str:
    """The reason why a backbone `timm/<model>` cannot be built, as part of a sentence; empty if it can."""
    if find_spec("timm") is None:
        return "timm is not installed, so install it with `pip install timm`"
    import timm

    model = name.removeprefix(PREFIX)
    if timm.is_model(model):
        return ""
    similar = timm.list_models(f"*{model.partition('_')[0]}*")[:3]
    return f"timm {timm.__version__} has no model {model}" + (f", but {', '.join(similar)}, ..." if similar else "")


def unify(name: str) -> str:
    """A layer's name, equal for a model and for its feature extractor, which joins parts by "_" or adds "model."."""
    return name.removeprefix("net.").removeprefix("model.").replace(".", "_")


def _create(name: str, output_stride: int) -> Any:  # timm's models have no common type
    """The model with random weights: dilated if possible, else made for images of any size if that is an option."""
    import timm

    reasons = []
    choices: tuple[dict[str, Any], ...] = ({"output_stride": output_stride}, {"dynamic_img_size": True}, {})
    for options in choices:
        try:
            with torch.device("cpu"):  # timm computes while it builds, which the device "meta" does not support
                return timm.create_model(name, pretrained=False, features_only=True, **options)
        except (TypeError, AssertionError, NotImplementedError, RuntimeError) as error:  # each model has its own
            reasons.append(" ".join(str(error).split()))
    raise UserError(f"The backbone {PREFIX}{name} gives no feature maps ({reasons[-1]}): choose another.")


@torch.no_grad()
def _probe(net: Any, name: str, multiple: int) -> bool:
    """Check that a model accepts images of any size; whether the channels of its features come last."""
    sides = [-(-side // multiple) * multiple for side in PROBE]
    training = net.training
    try:
        with torch.device("cpu"):
            features = net.eval()(torch.zeros(1, 3, *sides))
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"The backbone {PREFIX}{name} accepts images of one size only ({reason}): choose another."
        ) from None
    net.train(training)
    return bool(features[-1].shape[1] != net.feature_info.channels()[-1])
