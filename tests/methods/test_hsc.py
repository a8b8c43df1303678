from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.cam import CamHost
from rca.methods.base import Method
from rca.methods.hsc import EmbeddedView, Hsc, HscOptions
from rca.methods.parts.pixel_refinement import refine_by_pixels
from rca.methods.parts.view_contrast import contrast_prototypes, pool_strongest
from rca.models.output import Output

CHANNELS, CLASSES, IMAGES = 6, 4, 5
SMALL = (3, 4)  # the maps of the second view; those of the first are 5x7
LEVELS = {"roi", "class", "pixel"}


def build(**options: Any) -> Hsc:
    torch.manual_seed(0)
    narrow = {"region_channels": 7, "pixel_channels": 9, "prototype_positions": 4, **options}
    return Hsc(HscOptions.model_validate(narrow), CHANNELS, CLASSES, CamHost)


def draw_batch(seed: int = 0) -> tuple[list[Tensor], list[Tensor], Sample]:
    """Features and valid of both views, and the batch; one image is padded, another has no tag."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(IMAGES, CHANNELS, *size, generator=generator) for size in ((5, 7), SMALL)]
    valid = [torch.ones(IMAGES, 1, 5, 7), torch.ones(IMAGES, 1, *SMALL)]
    valid[0][1, :, :, 4:], valid[1][1, :, :, 2:] = 0, 0
    tags = (torch.rand(IMAGES, CLASSES, generator=generator) < 0.6).float()
    tags[0], tags[2], tags[:, 3] = torch.tensor([1, 0, 1, 0.0]), 0, 0  # the last class is nowhere
    image, frame = torch.randn(IMAGES, 3, 40, 56, generator=generator), torch.tensor([1.0, 0, 1, 0]).repeat(IMAGES, 1)
    batch = Sample(
        image, torch.ones(IMAGES, 1, 40, 56), tags, torch.zeros(IMAGES, 40, 56).long(), torch.arange(5), frame
    )
    return features, valid, batch


def forward(hsc: Method, features: list[Tensor], valid: list[Tensor]) -> Output:
    first, second = (hsc(one, inside) for one, inside in zip(features, valid, strict=True))
    return first._replace(second=second)


def find_losses(hsc: Method, epoch: int = 0, seed: int = 0) -> dict[str, Tensor]:
    features, valid, batch = draw_batch(seed)
    return hsc.compute_losses(forward(hsc, features, valid), batch, epoch)


def look(hsc: Hsc, seed: int = 0) -> tuple[tuple[EmbeddedView, EmbeddedView], Output, Sample]:
    features, valid, batch = draw_batch(seed)
    output = forward(hsc, features, valid)
    first, second = (hsc._embed(view, valid[1], batch) for view in (output, output.second))
    return (first, second), output, batch


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_maps_are_normalised_as_the_options_say() -> None:
    found = []
    for normalisation in ("max", "min_max"):
        hsc = build(normalisation=normalisation)
        hsc.host.classifier.weight.data.abs_()
        features, valid, batch = draw_batch()
        output = hsc(features[1].abs() + 1, valid[1])  # maps that are nowhere 0
        found.append(hsc._embed(output, valid[1], batch).weights)
    by_maximum, by_range = found
    (tag,), row = batch.tags[0].nonzero()[0].tolist(), slice(0, SMALL[0] * SMALL[1])
    assert by_maximum[row, tag].min() > 0.2
    assert by_range[row, tag].min() == 0
    assert float(by_range[row, tag].max()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("view", [0, 1])
def test_a_view_equals_a_computation_image_by_image(view: int) -> None:
    hsc = build(background=0.3, normalisation="max")
    views, output, batch = look(hsc)
    found, output = views[view], (output, output.second)[view]
    inside = draw_batch()[1][1][:, 0].numpy()
    row = 0
    for image in range(IMAGES):
        shares = np.zeros((CLASSES, *SMALL))
        for number in batch.tags[image].nonzero()[:, 0].tolist():
            one = output.maps[image, number].detach().relu() * (output.valid[image, 0] > 0)
            one = functional.interpolate(one[None, None], SMALL, mode="bilinear")[0, 0].numpy()
            there = inside[image] > 0
            shares[number] = np.where(there, one / (one[there].max() + 1e-5), 0)
        embedding = functional.interpolate(hsc.project_regions(output.features)[[image]], SMALL, mode="bilinear")[0]
        pixels = functional.interpolate(hsc.project_pixels(output.features)[[image]], SMALL, mode="bilinear")[0]
        labels = np.full(SMALL, -1)
        members: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for y in range(SMALL[0]):
            for x in range(SMALL[1]):
                weights = np.zeros(CLASSES + 1)
                if inside[image, y, x]:
                    best = shares[:, y, x].argmax()
                    is_object = shares[best, y, x] > 0.3
                    labels[y, x] = best if is_object else CLASSES
                    weights[:-1] = shares[:, y, x]
                    weights[-1] = 0 if is_object else 1 - shares[best, y, x]
                    members[is_object].append(embedding[:, y, x].detach().numpy())
                np.testing.assert_allclose(found.weights[row], weights, atol=1e-5)
                assert found.labels[row] == labels[y, x]
                np.testing.assert_allclose(found.regions[row].detach(), embedding[:, y, x].detach(), atol=1e-5)
                np.testing.assert_allclose(found.pixels[row].detach(), pixels[:, y, x].detach(), atol=1e-5)
                row += 1
        for number, (rows, is_object) in enumerate(((found.objects, True), (found.backgrounds, False))):
            assert found.present[image, number] == bool(members[is_object])
            if members[is_object]:
                np.testing.assert_allclose(rows[image].detach(), unit(np.mean(members[is_object], 0)), atol=1e-5)
    assert row == len(found.labels)


def test_refinement_changes_pseudo_labels_by_the_images_colours() -> None:
    _, _, batch = look(build())
    shares = torch.rand(IMAGES, CLASSES, *SMALL, generator=torch.Generator().manual_seed(1))
    valid = draw_batch()[1][1]
    plain, refined = (
        build(background=0.4, refinement={"iterations": number, "dilations": (1,)})._label(shares, valid, batch.image)
        for number in (0, 2)
    )
    small = functional.adaptive_avg_pool2d(batch.image, SMALL)
    scores = torch.cat([shares, torch.full((IMAGES, 1, *SMALL), 0.4)], 1)
    expected = refine_by_pixels(scores, small, valid, (1,), 2).argmax(1)
    assert torch.equal(refined[valid[:, 0] > 0], expected[valid[:, 0] > 0])
    assert not torch.equal(refined, plain)
    for labels in (plain, refined):
        assert torch.equal(labels == -1, valid[:, 0] == 0)


def test_terms_begin_when_they_should_and_come_on_top_of_the_hosts() -> None:
    hsc = build(start_epoch=2)
    plain = Method(Settings(), CHANNELS, CLASSES, CamHost)
    plain.host.load_state_dict(hsc.host.state_dict())
    for epoch in range(3):
        losses = find_losses(hsc, epoch)
        assert losses.keys() == {"classification"} | (LEVELS if epoch == 2 else set())
        assert torch.equal(losses["classification"], find_losses(plain)["classification"])
    assert losses["class"] == 0  # no prototype is known yet
    assert all(loss > 0 for loss in find_losses(hsc, 3).values())


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_each_level_has_its_own_switch_and_weight(level: str) -> None:
    plain, off, heavy = (
        build(),
        build(**{f"{level}_level": {"weight": 0}}),
        build(**{f"{level}_level": {"weight": 0.3}}),
    )
    for seed in (1, 0):  # the prototypes are known from the second batch on
        losses, without, more = (find_losses(hsc, 0, seed) for hsc in (plain, off, heavy))
    assert without.keys() == losses.keys() - {level}
    assert all(torch.equal(without[name], losses[name]) for name in without)
    torch.testing.assert_close(more[level], 3 * losses[level])
    assert losses[level] > 0


def test_views_that_are_equal_supervise_each_other_as_themselves() -> None:
    view = look(build())[0][0]
    alone, crossed = (build(cross_supervision=cross) for cross in (False, True))
    for hsc, factor in ((alone, 1), (crossed, 2)):
        hsc._contrast_classes((view, view))
        hsc._contrast_pixels((view, view))
        own = pool_strongest(view.pixels.detach(), view.weights, 4)
        pixels = functional.normalize(view.pixels, dim=1)
        intra = torch.div(*contrast_prototypes(pixels, view.labels, *own, 0.1))
        # With equal views the batch's prototypes are the moving ones too, after the first batch.
        torch.testing.assert_close(hsc._contrast_pixels((view, view)), (1 + 1 if factor == 1 else 3 + 1) * intra)
    torch.testing.assert_close(crossed._contrast_classes((view, view)), 2 * alone._contrast_classes((view, view)))


def test_gradients_reach_the_features_and_no_prototype() -> None:
    hsc = build()
    find_losses(hsc, seed=1)
    features, valid, batch = draw_batch()
    for one in features:
        one.requires_grad_()
    losses = hsc.compute_losses(forward(hsc, features, valid), batch, 0)
    for level in LEVELS:
        gradients = torch.autograd.grad(losses[level], features, retain_graph=True)
        assert all(gradient.isfinite().all() and gradient.norm() > 0 for gradient in gradients)
        # Pseudo labels have no gradient either.
        (host,) = torch.autograd.grad(losses[level], hsc.host.classifier.weight, retain_graph=True, allow_unused=True)
        assert host is None
    buffers = dict(hsc.named_buffers())
    assert {"roi_prototypes.vectors", "class_prototypes.known", "pixel_prototypes.vectors"} < buffers.keys()
    assert not any(tensor.requires_grad for tensor in buffers.values())


def test_a_batch_without_any_tag_gives_a_loss() -> None:
    hsc = build()
    features, valid, batch = draw_batch()
    features[0].requires_grad_()
    batch = batch._replace(tags=torch.zeros(IMAGES, CLASSES))
    for _ in range(2):
        losses = hsc.compute_losses(forward(hsc, features, valid), batch, 0)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
    assert losses["class"] == 0
    assert hsc.class_prototypes.known.nonzero().tolist() == [[0, CLASSES], [1, CLASSES]]
    assert features[0].grad.isfinite().all()


def test_one_image_alone_gives_a_loss() -> None:
    hsc = build()
    features, valid, batch = draw_batch()
    output = forward(hsc, [one[:1] for one in features], [one[:1] for one in valid])
    losses = hsc.compute_losses(output, Sample(*(part[:1] if part.ndim else part for part in batch)), 0)
    assert losses.keys() == {"classification", *LEVELS}
    assert all(loss.isfinite() for loss in losses.values())


def test_inference_is_the_hosts() -> None:
    hsc, plain = build(), Method(Settings(), CHANNELS, CLASSES, CamHost)
    plain.host.load_state_dict(hsc.host.state_dict())
    features, valid, _ = draw_batch()
    assert torch.equal(hsc(features[0], valid[0]).maps, plain(features[0], valid[0]).maps)
    assert not hsc.keeps_memory
    assert hsc.memory_state() == {}
