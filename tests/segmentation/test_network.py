from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from segmenters import MEAN, PROVENANCE, STD, build
from torch import nn

from rca.core.errors import UserError
from rca.models.storage import save_tensors
from rca.segmentation.heads import HeadName, pool_grid
from rca.segmentation.network import load_segmenter, save_segmenter
from rca.segmentation.predict import PredictionSettings, predict_mask

HEADS = get_args(HeadName)


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
        ({"method": "cam", "classes": ["a"], "mean": [0], "std": [1]}, "no segmentation network of this version"),
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


@pytest.mark.parametrize("head", ["deeplab_v3", "deeplab_v3plus"])
@pytest.mark.parametrize(("stride", "expected"), [(8, [12, 24, 36]), (16, [6, 12, 18])])
def test_the_rates_of_v3_reach_as_far_at_either_stride(head: HeadName, stride: int, expected: list[int]) -> None:
    layers = [layer for layer in build(head, stride).head.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation[0] for layer in layers if layer.dilation != (1, 1)] == expected


@pytest.mark.parametrize(("stride", "reach"), [(8, 12), (16, 6)])
def test_v1_looks_at_nine_positions(stride: int, reach: int) -> None:
    head, middle = build("deeplab_v1", stride).head, 14
    features = torch.rand(1, 128, 29, 29, generator=torch.Generator().manual_seed(0), requires_grad=True)
    head(None, features)[0, :, middle, middle].sum().backward()
    assert features.grad is not None
    found = {(int(row) - middle, int(column) - middle) for _, _, row, column in features.grad.nonzero()}
    assert found == {(row, column) for row in (-reach, 0, reach) for column in (-reach, 0, reach)}
    assert [layer.out_channels for layer in head.layers if isinstance(layer, nn.Conv2d)] == [1024, 1024, 4]


@torch.no_grad()
def test_v3_sees_the_mean_of_the_whole_image() -> None:
    """A change that no convolution reaches changes the score by way of the pooled features alone."""
    head = build("deeplab_v3").head
    features = torch.rand(1, 128, 3, 90, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[..., 0] += 9  # 90 positions away: rates end at 36
    assert not torch.equal(head(None, changed)[..., -1], head(None, features)[..., -1])
    v2 = build("deeplab_v2").head
    assert torch.equal(v2(None, changed)[..., -1], v2(None, features)[..., -1])


@torch.no_grad()
def test_the_simple_pyramid_scores_at_a_quarter_of_the_stride() -> None:
    head = build("simple_pyramid").head
    features = torch.rand(1, 128, 3, 5, generator=torch.Generator().manual_seed(0))
    scores = head(None, features)
    assert scores.shape == (1, 4, 12, 20)
    for level in head.levels:  # each of the four takes part
        weight = level[3].weight.clone()
        level[3].weight.zero_()
        assert not torch.allclose(head(None, features), scores)
        level[3].weight.copy_(weight)


@torch.no_grad()
def test_segformer_scores_each_position_by_the_features_of_all_levels_there() -> None:
    """At the finest level's positions; where all levels have its size, position by position."""
    network = build("segformer")
    head, widths = network.head.eval(), [layer.in_channels for layer in network.head.levels]
    random = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, width, 5, 7, generator=random) for width in widths]
    found = head(*levels)
    for row, column in ((0, 0), (4, 6), (2, 3)):
        joined = torch.cat(
            [layer(level)[:, :, row, column] for layer, level in zip(head.levels, levels, strict=True)], 1
        )
        norm = head.fusion[1]
        hidden = joined @ head.fusion[0].weight[:, :, 0, 0].T - norm.running_mean
        expected = (hidden / (norm.running_var + norm.eps).sqrt()).relu() @ head.classifier.weight[
            :, :, 0, 0
        ].T + head.classifier.bias
        torch.testing.assert_close(found[:, :, row, column], expected)
    images = torch.randn(1, 3, 48, 64, generator=random)
    scores = head(*network.backbone.extract_levels(images))
    assert scores.shape == (1, 4, 12, 16)
    for number, level in enumerate(levels):  # each takes part
        changed = [*levels]
        changed[number] = level + 1
        assert not torch.allclose(head(*changed), found)


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (5, 7), (6, 6), (13, 29)])
@pytest.mark.parametrize("grid", [1, 2, 3, 6])
def test_the_means_of_a_grid_are_those_of_torch(size: tuple[int, int], grid: int) -> None:
    features = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_grid(features, grid), nn.functional.adaptive_avg_pool2d(features, grid))


@torch.no_grad()
def test_upernet_sees_all_levels_and_the_whole_image() -> None:
    network = build("upernet")
    head, random = network.head.eval(), torch.Generator().manual_seed(0)
    levels = [*network.backbone.extract_levels(torch.randn(1, 3, 64, 960, generator=random))]
    found = head(*levels)
    assert found.shape == (1, 4, *levels[0].shape[2:])
    for number, level in enumerate(levels):  # each takes part
        changed = [*levels]
        changed[number] = level + 1
        assert not torch.allclose(head(*changed), found)
    levels[-1][..., 0] += 9  # out of the reach of every convolution
    assert not torch.equal(head(*levels)[..., -1], found[..., -1])
    network.train()
    assert network(torch.randn(1, 3, 48, 64, generator=random)).isfinite().all()  # a batch of one image has statistics


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
