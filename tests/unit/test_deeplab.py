from pathlib import Path

import numpy as np
import pytest
import torch
from segmenters import MEAN, PROVENANCE, STD, build
from torch import nn

from rca.errors import UserError
from rca.models.deeplab import HeadName, load_segmenter, save_segmenter
from rca.models.storage import save_tensors
from rca.segmentation import PredictionSettings, predict_mask

HEADS = ["linear", "deeplab_v2", "deeplab_v3plus"]


def draw_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (45, 58, 3)).astype(np.uint8)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stride", [8, 16])
@torch.no_grad()
def test_every_pixel_gets_a_score_for_background_and_each_class(head: HeadName, stride: int) -> None:
    images = torch.randn(2, 3, 45, 58, generator=torch.Generator().manual_seed(0))
    scores = build(head, stride)(images)
    assert scores.shape == (2, 4, 45, 58)
    assert scores.isfinite().all()
    assert scores.std() > 0


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_segmenter_is_loaded_as_it_was_saved(tmp_path: Path, head: HeadName) -> None:
    network = build(head, provenance=PROVENANCE)
    save_segmenter(tmp_path / "s", network)
    loaded = load_segmenter(tmp_path / "s")
    assert loaded.description == network.description
    images = torch.randn(2, 3, 45, 58, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), network(images))


def test_a_missing_segmenter_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone does not exist: run train_seg first"):
        load_segmenter(tmp_path / "gone")


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"enabled": False}, "no segmentation network of this version (train_seg was switched off): name"),
        ({"method": "cam", "classes": ["a"], "mean": [0], "std": [1]}, "no segmentation network of this version: name"),
    ],
)
def test_a_file_of_something_else_is_told(tmp_path: Path, about: dict, told: str) -> None:
    save_tensors(tmp_path / "s", {}, about)
    with pytest.raises(UserError) as caught:
        load_segmenter(tmp_path / "s")
    assert told in str(caught.value)


@pytest.mark.parametrize(("stride", "expected"), [(8, [6, 12, 18, 24]), (16, [3, 6, 9, 12])])
def test_the_rates_of_v2_reach_as_far_at_either_stride(stride: int, expected: list[int]) -> None:
    branches = build("deeplab_v2", stride).head.branches
    assert [branch.dilation[0] for branch in branches] == expected
    assert all(branch.padding == branch.dilation for branch in branches)


@pytest.mark.parametrize(("stride", "expected"), [(8, [12, 24, 36]), (16, [6, 12, 18])])
def test_the_rates_of_v3plus_reach_as_far_at_either_stride(stride: int, expected: list[int]) -> None:
    layers = [layer for layer in build("deeplab_v3plus", stride).head.pyramid.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation[0] for layer in layers if layer.kernel_size == (3, 3)] == expected


@torch.no_grad()
def test_v2_is_the_sum_of_its_branches() -> None:
    head = build("deeplab_v2").head
    features = torch.randn(1, 128, 7, 9, generator=torch.Generator().manual_seed(0))
    expected = sum(branch(features) for branch in head.branches)
    torch.testing.assert_close(head(None, features), expected)


@torch.no_grad()
def test_a_prediction_without_flip_at_one_scale_is_the_networks_best_label() -> None:
    network, image = build(), draw_image()
    pixels = (image / 255 - np.array(MEAN)) / np.array(STD)
    expected = network(torch.from_numpy(pixels.transpose(2, 0, 1)).float()[None])[0].argmax(0)
    found = predict_mask(network, image, PredictionSettings(flip=False))
    assert found.dtype == np.uint8
    assert (found == expected.numpy()).mean() > 0.999
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.5)])
def test_a_mirrored_image_has_a_mirrored_prediction(scales: tuple[float, ...]) -> None:
    network, image = build(), draw_image()
    settings = PredictionSettings(scales=scales, flip=True)
    found, mirrored = predict_mask(network, image, settings), predict_mask(network, image[:, ::-1], settings)
    assert (found == mirrored[:, ::-1]).mean() > 0.999
    assert (found != found[:, ::-1]).mean() > 0.05


def test_a_crf_only_uses_labels_that_the_network_found_or_background() -> None:
    network, image = build(), draw_image()
    plain = predict_mask(network, image, PredictionSettings())
    refined = predict_mask(network, image, PredictionSettings.model_validate({"crf": {}}))
    assert set(np.unique(refined)) <= {0, *np.unique(plain)}
    assert (refined != plain).any()
