"""The behaviour that all hosts share, and the inputs that a network gives them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.classifier.losses import compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.data.loading.images import Sample
from rca.hosts.base import Host
from rca.hosts.cam import CamHost
from rca.methods.base import Method
from rca.models.output import Output
from rca.models.resizing import rescale

CHANNELS, CLASSES = 5, 3
PLAIN = NetworkDescription(
    "small", 8, 0, "cam", "cam", {}, ("a", "b", "c"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "from scratch"
)


def draw_batch() -> Sample:
    """Three images of 41x53 pixels, the second padded on the right."""
    generator = torch.Generator().manual_seed(0)
    images, valid = torch.randn(3, 3, 41, 53, generator=generator), torch.ones(3, 1, 41, 53)
    images[1, :, :, 37:], valid[1, :, :, 37:] = 0, 0
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1]])
    frame = torch.tensor([1.0, 0, 1, 0]).repeat(3, 1)
    return Sample(images, valid, tags, torch.zeros(3, 41, 53).long(), torch.arange(3), frame)


def test_classification_is_the_mean_over_the_views() -> None:
    host, batch = CamHost(CHANNELS, CLASSES), draw_batch()
    one, two = torch.randn(2, 3, CLASSES, 5, 7, generator=torch.Generator().manual_seed(1)).double()
    valid = torch.rand(3, 1, 5, 7).double()
    first = Output(one, one, valid)
    losses = [host.compute_losses(Output(maps, maps, valid), batch, 0)["classification"] for maps in (one, two)]
    both = host.compute_losses(first._replace(second=Output(two, two, valid)), batch, 0)
    assert both.keys() == {"classification"}
    torch.testing.assert_close(both["classification"], (losses[0] + losses[1]) / 2)
    pooled = (one * valid).sum((2, 3)) / valid.sum((2, 3))
    expected = functional.binary_cross_entropy_with_logits(pooled, batch.tags.double())
    torch.testing.assert_close(losses[0], expected)


@pytest.mark.parametrize("part", [Host, Method])
@pytest.mark.parametrize("scale", [0.3, 0.5])
def test_a_second_view_is_computed_if_host_or_method_needs_it(
    part: type[Host | Method], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    network = CamNetwork(PLAIN).eval()
    network.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    batch = draw_batch()
    alone = compute_losses(network, batch, 0, scale)["classification"]
    assert len(seen) == 1
    monkeypatch.setattr(part, "needs_second_view", True)
    both = compute_losses(network, batch, 0, scale)["classification"]
    size = (round(41 * scale), round(53 * scale))
    assert [tuple(images.shape) for images in seen[1:]] == [(3, 3, 41, 53), (3, 3, *size)]
    small = functional.interpolate(batch.image, size, mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[2], small)
    output = network(small, batch.valid)
    second = network.host.classification_loss(output.maps, output.valid, batch.tags, batch.weight)
    torch.testing.assert_close(both, (alone + second) / 2)


def test_scale_1_returns_the_images_unchanged() -> None:
    images = draw_batch().image
    assert rescale(images, 1) is images


class Probe(Host):
    """Doubles the maps of tagged classes and stores its arguments."""

    needs_levels = True

    def refine(self, output: Output, levels: tuple[Tensor, ...] | None, tags: Tensor | None) -> Output:
        self.levels = levels
        refined = 2 * output.maps.relu()
        return output._replace(refined=refined if tags is None else refined * tags[..., None, None])


def test_a_host_sees_the_images_and_earlier_levels_and_refines_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rca.hosts.cam.HOST", Probe)
    network, batch = CamNetwork(replace(PLAIN, neck=4)).eval(), draw_batch()
    output = network(batch.image, batch.valid, batch.tags)
    image, *levels = network.host.levels
    assert image is batch.image
    for level, expected in zip(levels, network.backbone.extract_levels(batch.image)[1:3], strict=True):
        torch.testing.assert_close(level, expected)
    assert torch.equal(output.scores, output.refined)
    assert not output.refined[1, [0, 2]].any()
    assert torch.equal(network(batch.image, batch.valid).scores, 2 * output.maps.relu())
    plain = output._replace(refined=None)
    assert plain.scores is plain.maps
