import pytest
import torch
from torch import Tensor

from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.cam import CamHost
from rca.methods.base import Method
from rca.methods.rca import AggregationOptions, ContrastOptions, HeadOptions, MemoryOptions, Rca, RcaOptions

CHANNELS, CLASSES, IMAGES = 6, 4, 5
OFF = RcaOptions(
    contrast=ContrastOptions(weight=0), aggregation=AggregationOptions(form="none"), head=HeadOptions(convolutions=0)
)


def build(
    contrast: dict | None = None,
    aggregation: dict | None = None,
    memory: dict | None = None,
    head: dict | None = None,
    **rest: object,
) -> Rca:
    torch.manual_seed(0)
    options = RcaOptions(
        contrast=ContrastOptions(**{"weight": 0.3, "start_epoch": 2, **(contrast or {})}),
        aggregation=AggregationOptions(**{"prototypes": 3, "start_epoch": 1, **(aggregation or {})}),
        memory=MemoryOptions(**{"size": 7, "gate": 0.0, **(memory or {})}),
        head=HeadOptions(**{"channels": 5, **(head or {})}),
        **rest,
    )
    return Rca(options, CHANNELS, CLASSES, CamHost)


def draw_batch(seed: int = 0) -> tuple[Tensor, Tensor, Sample]:
    """Features of images of 40x56 pixels, valid, and the batch; one image has no tag."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(IMAGES, CHANNELS, 5, 7, generator=generator).relu()
    valid = torch.ones(IMAGES, 1, 5, 7)
    valid[1, :, :, 4:] = 0
    tags = (torch.rand(IMAGES, CLASSES, generator=generator) < 0.5).float()
    tags[0], tags[1] = torch.tensor([1, 0, 0, 1.0]), 0
    return features, valid, make_batch(tags)


def make_batch(tags: Tensor) -> Sample:
    """A batch of those tags at the manifest's positions 40 and on."""
    blank, frame = torch.zeros(IMAGES, 1, 40, 56), torch.tensor([1.0, 0, 1, 0]).repeat(IMAGES, 1)
    return Sample(blank, blank, tags, blank[:, 0].long(), torch.arange(IMAGES) + 40, frame)


def find_losses(method: Method, epoch: int, seed: int = 0) -> dict[str, Tensor]:
    features, valid, batch = draw_batch(seed)
    return method.compute_losses(method(features, valid), batch, epoch)


def test_with_all_parts_off_rca_is_the_plain_cam() -> None:
    plain, rca = Method(Settings(), CHANNELS, CLASSES, CamHost), Rca(OFF, CHANNELS, CLASSES, CamHost)
    rca.load_state_dict(plain.state_dict(), strict=False)
    assert dict(plain.named_parameters()).keys() == dict(rca.named_parameters()).keys()
    for epoch in range(3):
        rca.start_epoch(epoch, seed=0)
        ours, theirs = find_losses(rca, epoch, epoch), find_losses(plain, epoch, epoch)
        assert ours.keys() == theirs.keys() == {"classification"}
        assert torch.equal(ours["classification"], theirs["classification"])


@pytest.mark.parametrize("mixup", [None, 8.0])
def test_terms_of_the_loss_begin_when_they_should(mixup: float | None) -> None:
    rca = build(contrast={"mixup": mixup})
    for epoch in range(4):
        losses = find_losses(rca, epoch)
        assert losses.keys() == {"classification", "auxiliary"} | ({"contrast"} if epoch >= 2 else set())
    assert losses["contrast"] > 0
    assert find_losses(build(aggregation={"form": "none"}), 0).keys() == {"classification"}
    assert find_losses(build(contrast={"weight": 0}), 9).keys() == {"classification", "auxiliary"}


def test_the_weights_scale_their_terms() -> None:
    losses = {}
    for factor in (1, 3):
        rca = build(
            contrast={"weight": 0.1 * factor, "start_epoch": 0, "mixup": None},
            aggregation={"auxiliary_weight": 0.2 * factor},
        )
        find_losses(rca, 0, seed=1)
        losses[factor] = find_losses(rca, 0)
    for name in ("auxiliary", "contrast"):
        torch.testing.assert_close(losses[3][name], 3 * losses[1][name])
    torch.testing.assert_close(losses[3]["classification"], losses[1]["classification"])


def test_only_regions_of_confident_classes_enter_the_memory() -> None:
    features, valid, batch = draw_batch()
    everyone, gated = build(memory={"gate": 0.0, "size": 50}), build(memory={"gate": 0.5, "size": 50})
    for rca in (everyone, gated):
        output = rca(features, valid)
        rca.compute_losses(output, batch, epoch=0)
        weights = valid.expand_as(output.maps)
        confidence = ((output.maps * weights).sum((2, 3)) / weights.sum((2, 3))).sigmoid()
        expected = (batch.tags == 1) & (confidence > rca.options.memory.gate)
        assert rca.memory.written.tolist() == expected.sum(0).tolist()
        image, label = expected.nonzero(as_tuple=True)
        found = {
            (int(c), int(rca.memory.image[c, n]), round(float(rca.memory.confidence[c, n]), 5))
            for c, n in rca.memory.filled().nonzero().tolist()
        }
        wanted = zip(label.tolist(), batch.position[image].tolist(), confidence[image, label].tolist(), strict=True)
        assert found == {(c, i, round(one, 5)) for c, i, one in wanted}
    assert 0 < gated.memory.written.sum() < everyone.memory.written.sum()


def test_a_stored_region_is_the_mean_feature_where_its_map_is_high() -> None:
    features, valid, batch = draw_batch()
    rca = build()
    plain = rca(features, valid).extras["plain"]
    rca.compute_losses(rca(features, valid), batch, epoch=0)
    for label, slot in rca.memory.filled().nonzero().tolist():
        image = int(rca.memory.image[label, slot]) - 40
        one, on_image = plain[image].softmax(0)[label], valid[image, 0] == 1
        inside = (one > one[on_image].mean()) & on_image
        torch.testing.assert_close(rca.memory.entries[label, slot], features[image][:, inside].mean(1))


def test_an_empty_region_never_enters_the_memory() -> None:
    rca = build(contrast={"start_epoch": 0}, head={"convolutions": 0})
    features, valid, batch = draw_batch()
    features[0] = 0  # nowhere is a map above its mean
    output = rca(features, valid)
    losses = rca.compute_losses(output, batch, epoch=0)
    entries, _ = rca.memory.read()
    assert (entries.norm(dim=1) > 0).all()
    assert 40 not in rca.memory.image
    assert all(loss.isfinite() for loss in losses.values())


def test_images_without_a_tag_give_a_loss_and_leave_the_memory_alone() -> None:
    rca = build(contrast={"start_epoch": 0})
    features, valid, _ = draw_batch()
    losses = rca.compute_losses(rca(features, valid), make_batch(torch.zeros(IMAGES, CLASSES)), epoch=0)
    assert losses.keys() == {"classification", "auxiliary"}
    assert rca.memory.written.sum() == 0


def test_contrast_reaches_the_features_but_not_through_the_memory() -> None:
    rca = build(contrast={"start_epoch": 0, "mixup": None, "projection": "none"})
    find_losses(rca, 0, seed=1)
    features, valid, batch = draw_batch()
    features.requires_grad_()
    rca.compute_losses(rca(features, valid), batch, 0)["contrast"].backward()
    assert features.grad.isfinite().all()
    assert features.grad.norm() > 0
    assert features.grad[1].norm() == 0  # no tag, no region
    assert all(parameter.grad is None for parameter in rca.host.parameters())


def test_contrast_trains_the_projection_of_its_queries() -> None:
    rca = build(contrast={"start_epoch": 0})
    find_losses(rca, 0, seed=1)
    find_losses(rca, 0)["contrast"].backward()
    trained = {name.split(".")[0] for name, parameter in rca.named_parameters() if parameter.grad is not None}
    assert trained == {"projection"}
    assert all(parameter.grad.norm() > 0 for parameter in rca.projection[3].parameters())


@pytest.mark.parametrize("projection", ["queries", "none"])
def test_the_memory_holds_features_that_nothing_projected(projection: str) -> None:
    plain, other = build(contrast={"projection": projection}), build(contrast={"weight": 0})
    other.load_state_dict(plain.state_dict(), strict=False)
    for rca in (plain, other):
        find_losses(rca, 9)
    assert torch.equal(plain.memory.entries, other.memory.entries)
    assert plain.memory.written.sum() > 0


def test_prototypes_are_clustered_from_the_start_epoch_on() -> None:
    rca = build()
    find_losses(rca, 0)
    rca.start_epoch(0, seed=0)
    assert not rca.prototypes_usable.any()
    rca.start_epoch(1, seed=0)
    expected = rca.memory.written.clamp(max=3)
    assert rca.prototypes_usable.sum(1).tolist() == expected.tolist()


def test_the_memory_changes_the_maps_through_the_prototypes_alone() -> None:
    features, valid, *_ = draw_batch()
    rca = build()
    before = rca(features, valid)
    find_losses(rca, 0)
    assert torch.equal(rca(features, valid).maps, before.maps)
    rca.start_epoch(1, seed=0)
    after = rca(features, valid)
    assert not torch.allclose(after.maps, before.maps)
    assert torch.equal(after.extras["plain"], before.extras["plain"])


def test_memory_state_names_tensors_of_the_state_dict() -> None:
    rca = build()
    find_losses(rca, 0)
    state = rca.state_dict()
    assert {"memory.entries", "memory.written", "prototypes"} < rca.memory_state().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in rca.memory_state().items())
