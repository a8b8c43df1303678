"""timm's models as backbones: a convolutional pyramid, a transformer's pyramid, and a plain transformer."""

import importlib.util
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from rca.classifier import losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import build_settings
from rca.data.loading.images import Sample
from rca.exporting.onnx import export_onnx
from rca.models.backbone import Backbone
from rca.models.backbones import OutputStride, build_backbone
from rca.models.probing import find_backbone, find_normalisation
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings, fetch_weights
from rca.prediction.model import load_model
from rca.segmentation.heads import HeadName
from rca.segmentation.loss import LossSettings
from rca.segmentation.network import Segmenter, SegmenterDescription, load_segmenter, save_segmenter
from rca.segmentation.predict import PredictionSettings, predict_mask
from rca.stages.train_seg import compute_losses
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer

CONVNEXT, VIT, PVT = "timm/convnext_atto", "timm/vit_tiny_patch16_224", "timm/pvt_v2_b0"
CHANNELS = {CONVNEXT: (40, 320), VIT: (192, 192), PVT: (32, 256)}
CASES: list[tuple[str, OutputStride]] = [(CONVNEXT, 8), (CONVNEXT, 16), (CONVNEXT, 32), (VIT, 16), (PVT, 32)]


@cache
def build(name: str, stride: OutputStride) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, stride).eval()


def draw_image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "stride"), CASES)
@torch.no_grad()
def test_features_have_the_requested_stride(name: str, stride: OutputStride) -> None:
    backbone = build(name, stride)
    assert (backbone.low_channels, backbone.channels) == CHANNELS[name]
    low, high = backbone(draw_image(70, 101))  # resized to a multiple of what the model needs
    multiple = 32 if name == PVT else 16 if name == VIT else stride
    height, width = (-(-side // multiple) * multiple for side in (70, 101))
    step = 16 if name == VIT else 4
    assert low.shape == (1, backbone.low_channels, height // step, width // step)
    assert high.shape == (1, backbone.channels, height // stride, width // stride)
    first, *levels, last = backbone.extract_levels(draw_image(70, 101))
    assert tuple(level.shape[1] for level in levels) == backbone.level_channels
    assert torch.equal(first, low)
    assert torch.equal(last, high)


@torch.no_grad()
def test_dilation_in_place_of_stride_starts_as_the_original() -> None:
    """Up to where the strides part, a dilated ConvNeXt computes what timm's own computes."""
    torch.manual_seed(0)
    original = timm.create_model("convnext_atto", features_only=True).eval()
    image = draw_image(64, 96)
    for mine, theirs in zip(build(CONVNEXT, 16).extract_levels(image)[:2], original(image)[:2], strict=True):
        torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_an_image_of_an_odd_size_is_seen_as_the_same_image_resized() -> None:
    image = draw_image(75, 97)
    resized = functional.interpolate(image, (80, 112), mode="bilinear")
    torch.testing.assert_close(build(VIT, 16)(image)[1], build(VIT, 16)(resized)[1])


@pytest.mark.parametrize(("name", "beginning"), [(CONVNEXT, "net.stages_3."), (VIT, "net.model.blocks.11.")])
def test_only_the_last_stage_is_trained(name: str, beginning: str) -> None:
    backbone = build_backbone(name, 16)
    backbone.train_parts("last_stage")
    trained = [key for key, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained
    assert trained == [key for key, _ in backbone.named_parameters() if key.startswith(beginning)]
    backbone.train_parts("none")
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "stride", "told"),
    [
        ("timm/no_such_net", 16, "has no model no_such_net"),
        ("timm/convnext_ato", 16, "but convnext_atto, "),
        (PVT, 16, "gives features at stride 32, not 16: set backbone.output_stride to 32"),
        (VIT, 8, "gives features at stride 16, not 8: set backbone.output_stride to 16"),
        ("timm/efficientformer_l1", 32, "accepts images of one size only"),
        ("timm/mixer_s32_224", 32, "The backbone timm/mixer_s32_224 "),
    ],
)
def test_an_unsupported_model_raises_a_clear_error(name: str, stride: OutputStride, told: str) -> None:
    with pytest.raises(UserError) as caught:
        build_backbone(name, stride)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_timm_raises_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("rca.models.timm_backbones.find_spec", lambda name: None if name == "timm" else find(name))
    for attempt in (lambda: build_backbone(VIT, 16), lambda: read_settings(VIT)):
        with pytest.raises(UserError, match="timm is not installed, so install it with `pip install timm`"):
            attempt()


@pytest.mark.parametrize("name", [CONVNEXT, VIT])
def test_a_classifier_learns_on_it(name: str) -> None:
    torch.manual_seed(0)
    about = NetworkDescription(name, 16, 8, "cam", "cam", {}, ("a", "b"), (0.5,) * 3, (0.5,) * 3, "from scratch")
    network = CamNetwork(about)
    images, valid, tags = draw_image(70, 101), torch.ones(1, 1, 70, 101), torch.tensor([[1.0, 0.0]])
    blank = torch.zeros(1)
    batch = Sample(images, valid, tags, blank, blank, blank, torch.ones(1))
    sum(losses.compute_losses(network, batch, 0).values()).backward()
    gradients = [parameter.grad for parameter in network.backbone.parameters() if parameter.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    with torch.no_grad():
        assert network.eval()(images, valid).maps.shape == (1, 2, 5, 7)


# --- weights


def read_settings(name: str, weights: dict | None = None) -> BackboneSettings:
    given = {"name": name, "weights": weights or {"source": "none"}}
    return build_settings(BackboneSettings, given, "train_seg.backbone", Path("params.yaml"))


@pytest.mark.parametrize(
    ("name", "module", "level"),
    [(CONVNEXT, "stages.2", 2), (VIT, "blocks.11", 3)],  # at stride 16 a ConvNeXt's last stage is another than timm's
)
@torch.no_grad()
def test_a_local_file_of_timms_names_fills_the_backbone(tmp_path: Path, name: str, module: str, level: int) -> None:
    torch.manual_seed(1)
    model = timm.create_model(name.removeprefix("timm/"), pretrained=False).eval()
    path = tmp_path / "w.safetensors"
    save_file(model.state_dict(), path)
    file = {"source": "file", "path": str(path), "sha256": hash_file(path), "trained_on": "ImageNet-1k"}
    fetch_weights(read_settings(name, file), tmp_path / "out.safetensors")
    tensors, about = load_tensors(tmp_path / "out.safetensors", "fetch_weights")
    assert about["initialisation"] == f"{name} (ImageNet-1k, w.safetensors {hash_file(path)[:8]})"
    backbone = build_backbone(name, 16).eval()
    backbone.load_state_dict(tensors)
    found: list[Tensor] = []
    model.get_submodule(module).register_forward_hook(lambda *given: found.append(given[2]))
    image = draw_image(224, 224)
    model(image)
    # A plain transformer has a class token, then a token for each patch.
    expected = found[0] if name == CONVNEXT else found[0][:, 1:].transpose(1, 2).reshape(1, -1, 14, 14)
    torch.testing.assert_close(backbone.extract_levels(image)[level], expected)


def rename_as_efficientnet_pytorch(name: str, depths: tuple[int, ...]) -> str:
    """The name that EfficientNet-PyTorch gives a layer of timm's: blocks are counted through all stages."""
    if not name.startswith("blocks."):
        fixed = {
            "conv_stem": "_conv_stem",
            "bn1": "_bn0",
            "conv_head": "_conv_head",
            "bn2": "_bn1",
            "classifier": "_fc",
        }
        layer, _, rest = name.partition(".")
        return f"{fixed[layer]}.{rest}"
    _, stage, block, layer, rest = name.split(".")
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    others |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    number = sum(depths[: int(stage)]) + int(block)
    return f"_blocks.{number}.{(first if stage == '0' else others)[layer]}.{rest}"


@torch.no_grad()
def test_a_file_of_efficientnet_pytorchs_names_tells_its_backbone_and_fills_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    depths = tuple(len(stage) for stage in model.blocks)
    state = {rename_as_efficientnet_pytorch(name, depths): value for name, value in model.state_dict().items()}
    path = tmp_path / "lite0.pth"
    torch.save(state, path)
    name, sha256 = find_backbone(path, "resnet50")
    assert (name, sha256) == ("timm/tf_efficientnet_lite0", hash_file(path))
    assert find_normalisation(name) == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    fetch_weights(
        read_settings(name, {"source": "file", "path": str(path), "sha256": sha256}), tmp_path / "out.safetensors"
    )
    backbone = build_backbone(name, 16).eval()
    backbone.load_state_dict(load_tensors(tmp_path / "out.safetensors", "fetch_weights")[0])
    found: list[Tensor] = []
    model.blocks[4].register_forward_hook(lambda *given: found.append(given[2]))
    image = draw_image(64, 96)
    model(image)
    torch.testing.assert_close(backbone.extract_levels(image)[2], found[0])


def test_a_file_of_a_named_model_of_timm_is_found(tmp_path: Path) -> None:
    path = tmp_path / "pvt.safetensors"
    save_file(timm.create_model("pvt_v2_b0", pretrained=False).state_dict(), path)
    assert find_backbone(path, PVT, 32) == (PVT, hash_file(path))
    with pytest.raises(UserError, match=r"pvt\.safetensors fits none of the backbones resnet50, .*name=timm/MODEL"):
        find_backbone(path, "resnet50")
    with pytest.raises(UserError, match=r"cannot be tried: timm .* has no model pvt_v9"):
        find_backbone(path, "timm/pvt_v9")


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"blocks.0.norm1.weight": torch.zeros(3)}, path)
    file = {"source": "file", "path": str(path), "sha256": hash_file(path)}
    with pytest.raises(UserError, match="does not fit timm/vit_tiny_patch16_224: it lacks"):
        fetch_weights(read_settings(VIT, file), tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "weights",
    [{"source": "torchvision", "name": "IMAGENET1K_V1"}],
)
def test_other_sources_are_refused(weights: dict) -> None:
    with pytest.raises(UserError, match=r"needs a local file or no weights"):
        read_settings(VIT, weights)


# --- as a segmentation network


@pytest.mark.parametrize(
    ("name", "stride", "head"), [(CONVNEXT, 16, "deeplab_v3plus"), (VIT, 16, "simple_pyramid"), (PVT, 32, "segformer")]
)
def test_a_network_trains_and_predicts(tmp_path: Path, name: str, stride: OutputStride, head: HeadName) -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterDescription(name, stride, head, ("a", "b"), (0.5,) * 3, (0.5,) * 3, "from scratch"))
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 70, 75, generator=random)
    mask = torch.randint(0, 3, (2, 70, 75), generator=random)
    blank = torch.zeros(2)
    sample = Sample(image, torch.ones(2, 1, 70, 75), blank, mask, blank, blank, blank)
    settings = OptimisationSettings(
        epochs=4, batch_size=2, learning_rate=1e-4, backbone_learning_rate=1e-5, freeze_batchnorm=False
    )
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    losses = partial(compute_losses, loss=LossSettings())
    trainer = Trainer(
        network=network,
        backbone=network.backbone,
        settings=settings,
        seed=0,
        device=torch.device("cpu"),
        compute_losses=losses,
    )
    history = trainer.fit([sample], SimpleNamespace(epoch=0))  # type: ignore[arg-type]
    assert history[-1]["loss_segmentation"] < history[0]["loss_segmentation"]
    changed = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    assert {key.partition(".")[0] for key in changed} == {"backbone", "head"}
    save_segmenter(tmp_path / "s", network)
    photograph = np.random.default_rng(0).integers(0, 256, (45, 58, 3)).astype(np.uint8)
    both = (network.eval(), load_segmenter(tmp_path / "s"))
    masks = [predict_mask(one, photograph, PredictionSettings()) for one in both]
    assert masks[0].shape == (45, 58)
    assert np.array_equal(*masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stride", "head"), [(CONVNEXT, 16, "deeplab_v3plus"), (VIT, 16, "simple_pyramid"), (PVT, 32, "segformer")]
)
def test_a_network_is_exported_for_images_of_any_size(
    tmp_path: Path, name: str, stride: OutputStride, head: HeadName
) -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterDescription(name, stride, head, ("a", "b"), (0.5,) * 3, (0.5,) * 3, "from scratch"))
    save_segmenter(tmp_path / "s", network.eval())
    # Compares both at sizes that are no multiple of anything, and raises where they differ.
    agreement = export_onnx(load_model(tmp_path / "s", "cpu"), tmp_path / "s.onnx")
    assert agreement.difference < 1e-4
