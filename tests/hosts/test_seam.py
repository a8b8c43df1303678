from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.classifier.inference import score_batch
from rca.classifier.losses import compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.views import InferenceSettings
from rca.core.normalisation import normalise_maps
from rca.data.loading.images import Sample
from rca.hosts.cam import CamHost
from rca.hosts.seam import (
    SeamHost,
    SeamOptions,
    add_background,
    find_difference,
    find_hardest,
    keep_strongest,
    pool_lowest,
    scale_maps,
)
from rca.models.output import Output

SEAM = NetworkDescription(
    "small", 8, 0, "seam", "cam", {}, ("a", "b", "c"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "from scratch"
)
TERMS = {"classification", "equivariance", "cross", "min_pooling"}


def draw_maps(seed: int, channels: int = 4) -> tuple[Tensor, Tensor]:
    """Maps of three images of 5x7 positions, the second and the third padded."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(3, 1, 5, 7, dtype=torch.float64)
    valid[1, :, 3:], valid[2, :, :, 4:] = 0, 0
    return torch.randn(3, channels, 5, 7, generator=generator, dtype=torch.float64), valid


def list_inside(maps: Tensor, valid: Tensor, image: int) -> np.ndarray:
    """The values (K, N) of an image that lie on it."""
    return maps[image].detach().numpy()[:, valid[image, 0].numpy() > 0]


def draw_batch(number: int = 3) -> Sample:
    """Images of 73x90 pixels, the second padded on the right."""
    generator = torch.Generator().manual_seed(0)
    images, valid = torch.randn(number, 3, 73, 90, generator=generator), torch.ones(number, 1, 73, 90)
    images[1, :, :, 60:], valid[1, :, :, 60:] = 0, 0
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1]])[:number]
    frame = torch.tensor([1.0, 0, 1, 0]).repeat(number, 1)
    return Sample(images, valid, tags, torch.zeros(number, 73, 90).long(), torch.arange(number), frame)


def build(**options: float) -> CamNetwork:
    torch.manual_seed(0)
    network = CamNetwork(replace(SEAM, host_options=options))
    for module in network.modules():  # statistics as a training would leave them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    return network.eval()


def scale(maps: Tensor, valid: Tensor) -> Tensor:
    return normalise_maps(maps.relu(), valid, "min_max")


def test_each_map_is_spread_over_0_to_1_after_relu() -> None:
    maps, valid = draw_maps(0)
    maps[0, 1] = maps[0, 1].abs() + 2  # nowhere 0
    maps[0, 2] = -maps[0, 2].abs()  # nowhere above 0
    found = scale_maps(maps, valid, (maps.shape[2], maps.shape[3]))
    for image in range(3):
        before, after = list_inside(maps, valid, image), list_inside(found, valid, image)
        for one, two in zip(np.maximum(before, 0), after, strict=True):
            np.testing.assert_allclose(two, (one - one.min()) / (one.max() - one.min() + 1e-5))
    assert not found[(valid == 0).expand_as(found)].any()


def test_equivariance_is_the_mean_difference_on_the_image() -> None:
    (one, valid), (two, _) = draw_maps(0), draw_maps(1)
    found = find_difference(one, two, valid)
    for image in range(3):
        assert found[image] == pytest.approx(np.abs(list_inside(one - two, valid, image)).mean())
    assert not find_difference(one, one, valid).any()


@pytest.mark.parametrize("share", [0.2, 0.37, 1.0])
def test_the_hardest_values_equal_the_end_of_a_sorted_list(share: float) -> None:
    (one, valid), (two, _) = draw_maps(0), draw_maps(1)
    found = find_hardest(one, two, valid, share)
    for image in range(3):
        ordered = sorted(np.abs(list_inside(one - two, valid, image)).ravel(), reverse=True)
        count = int(share * len(ordered))
        assert found[image] == pytest.approx(np.mean(ordered[:count]))


def test_min_pooling_takes_the_lowest_quarter() -> None:
    maps, valid = draw_maps(0)
    maps = maps.abs().amax(1)
    found = pool_lowest(maps, valid[:, 0])
    for image in range(3):
        ordered = sorted(list_inside(maps[:, None], valid, image)[0])
        assert found[image] == pytest.approx(np.mean(ordered[: len(ordered) // 4]))


def test_targets_keep_the_strongest_class_and_leave_the_rest_to_the_background() -> None:
    maps = torch.tensor([0.3, 0.8, 0.1])[None, :, None, None]
    torch.testing.assert_close(keep_strongest(maps).flatten(), torch.tensor([0, 0.8, 0, 0.2]))
    torch.testing.assert_close(add_background(maps / 2).flatten(), torch.tensor([0.15, 0.4, 0.05, 0.4]))


@pytest.mark.parametrize("function", [find_difference, lambda *parts: find_hardest(*parts, 0.3)])
def test_gradients_agree_with_finite_differences(function) -> None:
    (one, valid), (two, _) = draw_maps(0, 2), draw_maps(1, 2)
    assert torch.autograd.gradcheck(function, (one.requires_grad_(), two.requires_grad_(), valid))


def test_every_term_equals_a_computation_by_hand() -> None:
    network, batch = build(), draw_batch()
    losses = compute_losses(network, batch, 0, 0.5)
    small = functional.interpolate(batch.image, (36, 45), mode="bilinear", antialias=True)
    first, second = (network(images, batch.valid, batch.tags) for images in (batch.image, small))
    assert first.maps.shape[2:] != second.maps.shape[2:]
    tags, size, valid = batch.tags[..., None, None], second.maps.shape[2:], second.valid
    scaled, made = [], []
    for view in (first, second):
        both = [scale(view.maps, view.valid), scale(add_background(view.refined), view.valid)]
        one, two = (functional.interpolate(maps, size, mode="bilinear") for maps in both)
        scaled.append(one * tags)
        made.append(torch.cat([two[:, :3] * tags, two[:, 3:]], 1))
    torch.testing.assert_close(losses["equivariance"], find_difference(*scaled, valid).mean())
    crossed = find_hardest(made[0], keep_strongest(scaled[1]), valid, 0.2)
    crossed += find_hardest(made[1], keep_strongest(scaled[0]), valid, 0.2)
    torch.testing.assert_close(losses["cross"], crossed.mean())
    lowest = [pool_lowest((view.refined * tags).amax(1), view.valid[:, 0]) for view in (first, second)]
    torch.testing.assert_close(losses["min_pooling"], (lowest[0] + lowest[1]).mean() / 2)
    assert losses.keys() == TERMS
    assert all(term > 0 for term in losses.values())


def test_views_of_one_scale_do_not_differ() -> None:
    losses = compute_losses(build(), draw_batch(), 0, second_view=1.0)
    assert losses["equivariance"] == 0
    assert losses["cross"] > 0  # the refined maps are still not the maps


def test_weights_scale_the_terms_and_0_leaves_them_out() -> None:
    batch = draw_batch()
    plain = compute_losses(build(), batch, 0)
    weighted = compute_losses(build(equivariance_weight=3, cross_weight=0, min_pooling_weight=0.5), batch, 0)
    assert weighted.keys() == TERMS - {"cross"}
    torch.testing.assert_close(weighted["equivariance"], 3 * plain["equivariance"])
    torch.testing.assert_close(weighted["min_pooling"], plain["min_pooling"] / 2)


def test_regularisation_trains_the_maps_and_cross_regularisation_the_correlation() -> None:
    network, batch = build(), draw_batch()
    for term, trains_maps in (("equivariance", True), ("cross", False), ("min_pooling", False)):
        network.zero_grad()
        compute_losses(network, batch, 0)[term].backward()
        assert (network.host.classifier.weight.grad is not None) == trains_maps
        assert (network.backbone.low[0][0].weight.grad is not None) == trains_maps
        assert all((one.grad is None) == trains_maps for one in network.host.correlation.parameters())


def test_padding_changes_no_term() -> None:
    (one, valid), (two, _) = draw_maps(0), draw_maps(1)

    def pad(maps: Tensor, value: float) -> Tensor:
        return functional.pad(maps, (0, 6, 0, 4), value=value)

    wide = pad(valid, 0)
    torch.testing.assert_close(scale(pad(one, 9), wide)[..., :5, :7], scale(one, valid))
    torch.testing.assert_close(find_difference(pad(one, 9), pad(two, 3), wide), find_difference(one, two, valid))
    torch.testing.assert_close(find_hardest(pad(one, 9), pad(two, 3), wide, 0.2), find_hardest(one, two, valid, 0.2))
    lowest = pool_lowest(one.abs()[:, 0], valid[:, 0])
    torch.testing.assert_close(pool_lowest(pad(one.abs(), 0)[:, 0], wide[:, 0]), lowest)


def test_refined_maps_are_spread_and_sum_to_1_with_the_background() -> None:
    host = SeamHost(5, 3, SeamOptions(), (4, 6))
    generator = torch.Generator().manual_seed(0)
    maps, valid = torch.randn(2, 3, 5, 7, generator=generator), torch.ones(2, 1, 5, 7)
    valid[1, :, :, 5:] = 0
    levels = tuple(torch.randn(2, channels, 9, 13, generator=generator) for channels in (3, 4, 6))
    tags = torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    refined = host.refine(Output(maps, maps, valid), levels, tags).refined
    peaks = maps.masked_fill(valid == 0, -1).amax((2, 3), keepdim=True)
    shares = (maps * valid).relu() / (peaks + 1e-5) * tags[..., None, None]
    kept = torch.where(shares == shares.amax(1, keepdim=True), shares, 0)
    background = 1 - shares.amax(1, keepdim=True)
    expected = host.correlation(torch.cat([kept, background], 1), levels, valid)
    inside = (valid > 0).expand_as(maps)
    torch.testing.assert_close(refined, expected[:, :3])
    torch.testing.assert_close(add_background(refined)[:, 3:][inside[:, :1]], expected[:, 3:][inside[:, :1]])
    assert not refined[0, 2].any()  # not tagged
    assert host.refine(Output(maps, maps, valid), levels, None).refined[0, 2].any()


def test_of_two_classes_with_their_peaks_at_one_position_one_is_spread() -> None:
    host = SeamHost(5, 2, SeamOptions(), (4, 6))
    maps = torch.tensor([[[[3.0, 1, 0]], [[5.0, 0, 1]]]])
    levels = tuple(torch.ones(1, channels, 1, 3) for channels in (3, 4, 6))  # all positions alike
    refined = host.refine(Output(maps, maps, torch.ones(1, 1, 1, 3)), levels, None).refined
    torch.testing.assert_close(refined[0, :, 0, 0], torch.tensor([1 / 3, 1 + 1 / 5]) / 3)


def test_shares_are_spread_as_they_are_and_still_sum_to_1_with_their_background() -> None:
    host = SeamHost(5, 3, SeamOptions(), (4, 6)).double()
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(2, 4, 5, 7, generator=generator).double().softmax(1)
    valid = torch.ones(2, 1, 5, 7).double()
    valid[1, :, :, 5:] = 0
    levels = tuple(torch.randn(2, channels, 9, 13, generator=generator).double() for channels in (3, 4, 6))
    output = Output(shares[:, :3], shares, valid, background=shares[:, 3:])
    found = host.refine(output, levels, torch.tensor([[1.0, 1, 0], [0, 0, 1]]))
    spread = torch.cat([found.refined, host.correlation(output.background, levels, valid)], 1)
    torch.testing.assert_close(spread, host.correlation(shares, levels, valid))
    torch.testing.assert_close(spread.sum(1, keepdim=True), valid)
    # Each share stays between the smallest and the largest share of its image, and is not brought to a peak of 1.
    for image in range(2):
        inside = valid[image, 0] > 0
        before, after = shares[image][:, inside], spread[image][:, inside]
        assert (after.amax(1) < before.amax(1)).all()
        assert (after.amin(1) > before.amin(1)).all()
    assert found.background is output.background


def test_inference_takes_the_refined_maps() -> None:
    network = build()
    image = np.random.default_rng(0).integers(0, 256, (1, 73, 90, 3)).astype(np.uint8)
    tags = torch.tensor([[1.0, 0, 1]])
    maps, _ = score_batch(network, image, InferenceSettings(scales=(1.0,), flip=False), 8, tags)
    pixels = (torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / (
        torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    )
    with torch.no_grad():
        output = network(pixels, torch.ones(1, 1, 73, 90), tags)
    torch.testing.assert_close(maps, functional.interpolate(output.refined, maps.shape[2:], mode="bilinear"))
    assert not maps[0, 1].any()
    assert network.host.normalisation == "min_max"
    assert build(normalisation="max").host.normalisation == "max"


def test_the_classifier_equals_the_plain_cam() -> None:
    seam, plain = SeamHost(5, 3, None, (4, 6)).state_dict(), CamHost(5, 3).state_dict()
    assert {name for name in seam if not name.startswith("correlation.")} == plain.keys()
