import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.classifier.losses import compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.registry import check_pair
from rca.core.errors import UserError
from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.cam import CamHost
from rca.methods.base import Method
from rca.methods.mcis import Mcis, McisOptions

CHANNELS, CLASSES, PAIRS = 6, 4, 3
OFF = {"co_attention_weight": 0, "self_pair_weight": 0, "contrastive": {"weight": 0}}
ALL = {"co_attention", "contrastive", "self_pairs", "classification"}
# Three pairs, images 0 and 3 and so on: each shares a class, and only the first has others.
TAGS = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1.0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])


def build(double: bool = True, **options: object) -> Mcis:
    torch.manual_seed(0)
    settings = McisOptions.model_validate({"affinity": {"form": "scaled"}, "self_pairs": "itself", **options})
    method = Mcis(settings, CHANNELS, CLASSES, CamHost)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter)
    return method.double() if double else method


def draw_features(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of six images and where they lie, two of them with padding."""
    features = torch.randn(2 * PAIRS, CHANNELS, 3, 5, generator=torch.Generator().manual_seed(seed)).relu().double()
    valid = torch.ones(2 * PAIRS, 1, 3, 5).double()
    valid[1, :, :, 4:], valid[3, :, 2:] = 0, 0
    return features, valid


def make_batch(tags: Tensor = TAGS, weight: Tensor | None = None) -> Sample:
    number = len(tags)
    blank, frame = torch.zeros(number, 1, 40, 56), torch.tensor([1.0, 0, 1, 0]).repeat(number, 1)
    sample = Sample(blank, blank, tags.double(), blank[:, 0].long(), torch.arange(number), frame)
    return sample if weight is None else sample._replace(weight=weight)


def find_losses(method: Method, epoch: int = 2, **given: Tensor) -> dict[str, Tensor]:
    features, valid = draw_features()
    return method.compute_losses(method(features, valid), make_batch(**given), epoch)


def test_with_all_parts_off_mcis_is_the_plain_cam() -> None:
    plain, mcis = Method(Settings(), CHANNELS, CLASSES, CamHost).double(), build(**OFF)
    mcis.host.load_state_dict(plain.host.state_dict())
    ours, theirs = find_losses(mcis), find_losses(plain)
    assert ours.keys() == theirs.keys() == {"classification"}
    assert torch.equal(ours["classification"], theirs["classification"])
    assert torch.equal(mcis(*draw_features()).maps, plain(*draw_features()).maps)


def test_each_part_has_its_switch_its_weight_and_its_time() -> None:
    assert find_losses(build(), epoch=1).keys() == ALL - {"contrastive"}
    assert find_losses(build(contrastive={"weight": 1, "start_epoch": 0}), epoch=0).keys() == ALL
    switches = {"co_attention": {"co_attention_weight": 0}, "self_pairs": {"self_pair_weight": 0}}
    switches["contrastive"] = {"contrastive": {"weight": 0}}
    doubled = {"co_attention": {"co_attention_weight": 2}, "self_pairs": {"self_pair_weight": 2}}
    doubled["contrastive"] = {"contrastive": {"weight": 2}}
    usual = find_losses(build())
    for name, off in switches.items():
        assert find_losses(build(**off)).keys() == ALL - {name}
        found = find_losses(build(**doubled[name]))
        for other in ALL:
            torch.testing.assert_close(found[other], (2 if other == name else 1) * usual[other])


def build_network(host: str, **options: object) -> CamNetwork:
    torch.manual_seed(0)
    about = ("small", 8, 9, host, "mcis", options, tuple("abcd"), (0.5,) * 3, (0.2,) * 3, "from scratch")
    return CamNetwork(NetworkDescription(*about))


def draw_images() -> Sample:
    """Images of 41x53 pixels, the second padded on the right."""
    images = torch.randn(2 * PAIRS, 3, 41, 53, generator=torch.Generator().manual_seed(0))
    batch, valid = make_batch(), torch.ones(2 * PAIRS, 1, 41, 53)
    images[1, :, :, 30:], valid[1, :, :, 30:] = 0, 0
    return batch._replace(image=images, valid=valid, tags=batch.tags.float())


def test_the_copies_are_other_views_of_the_images_without_their_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch, seen = build_network("cam").eval(), draw_images(), []
    compare = network.method.compute_losses
    monkeypatch.setattr(
        network.method, "compute_losses", lambda output, *rest: seen.append(output) or compare(output, *rest)
    )
    compute_losses(network, batch, 2)
    first, valid = batch.image[:PAIRS], batch.valid[:PAIRS]
    expected = [network(first.flip(3), valid.flip(3))]
    for scale in (0.75, 2.0):
        size = (round(41 * scale), round(53 * scale))
        expected.append(network(functional.interpolate(first, size, mode="bilinear", antialias=True), valid))
    (output,) = seen
    assert len(output.copies) == len(expected) == 3
    for copy, one in zip(output.copies, expected, strict=True):
        torch.testing.assert_close(copy.maps, one.maps)
        torch.testing.assert_close(copy.valid, one.valid)


@pytest.mark.parametrize("options", [{"self_pairs": "itself"}, {"self_pair_weight": 0}])
def test_without_copies_each_image_runs_through_the_network_once(options: dict[str, object]) -> None:
    network, seen = build_network("cam", **options).train(), []
    network.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    compute_losses(network, draw_images(), 2)
    assert seen == [(2 * PAIRS, 3, 41, 53)]


def test_copies_need_images_and_not_their_features() -> None:
    settings = McisOptions()
    check_pair("cam", "mcis", "here", cached=False, options=settings)
    with pytest.raises(UserError, match=r"here: the options of the method mcis need further views .* is none: set it"):
        check_pair("cam", "mcis", "here", cached=True, options=settings)
    check_pair("cam", "mcis", "here", cached=True, options=McisOptions(self_pairs="itself"))
    with pytest.raises(RuntimeError, match="list_views"):
        find_losses(build(self_pairs="copies"))


@pytest.mark.parametrize("host", ["cam", "seam"])
def test_any_host_trains_on_pairs(host: str) -> None:
    network, batch = build_network(host), draw_images()
    losses = compute_losses(network.train(), batch, 2)
    assert losses.keys() >= ALL
    sum(losses.values()).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in network.method.parameters())


def test_padding_changes_nothing() -> None:
    method, (features, valid) = build(contrastive={"mask": "maps"}), draw_features()
    losses = method.compute_losses(method(features, valid), make_batch(), 2)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).double() * 9
    other = torch.where(valid > 0, features, noise)
    for name, loss in method.compute_losses(method(other, valid), make_batch(), 2).items():
        torch.testing.assert_close(loss, losses[name])


def test_the_order_of_a_pair_does_not_matter() -> None:
    method, (features, valid) = build(), draw_features()
    losses = method.compute_losses(method(features, valid), make_batch(), 2)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    shuffled = method.compute_losses(method(features[order], valid[order]), make_batch(TAGS[order]), 2)
    for name, loss in losses.items():
        torch.testing.assert_close(shuffled[name], loss)


@pytest.mark.parametrize("mask", ["learned", "maps"])
def test_the_contrastive_mask_removes_the_shared_objects(mask: str) -> None:
    """Class 0 lies in both images, class 1 in the first, class 2 in the second: each is a direction of its own."""
    options = {"affinity": {"form": "cosine", "temperature": 0.02, "projection": "none"}}
    method = build(contrastive={"mask": mask}, **options)
    directions = torch.eye(CHANNELS).double()
    method.host.classifier.weight.data = 8 * directions[:CLASSES, :, None, None]
    if mask == "learned":  # what a training has to find: how much of the shared class a position shows
        method.shared.weight.data = (16 * directions[0] - 8)[None, :, None, None]
    features = torch.zeros(2, CHANNELS, 3, 5).double()
    features[:, 5] = 1  # the background of both
    for image, label, place in ((0, 0, (0, 1)), (0, 1, (2, 3)), (1, 0, (1, 4)), (1, 2, (0, 0))):
        features[(image, slice(None), *place)] = directions[label]
    tags, valid = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]), torch.ones(2, 1, 3, 5).double()
    co_attention = method._co_attend(features, valid)
    maps = method.host(co_attention)
    shared = method._find_shared(co_attention, maps, valid, tags * tags.flip(0))
    remaining = features * (1 - shared)
    before, after = method.host(features), method.host(remaining)
    assert torch.equal(before.amax((2, 3)) > 4, tags.bool())
    assert after[:, 0].max() < 0.1
    # What has no like in the partner finds a mean of it, in which one position of fifteen shows the shared class.
    torch.testing.assert_close(after[:, 1:], before[:, 1:], atol=8.1 / 15, rtol=0)
    assert torch.equal(shared[:, 0] > 0.95, features[:, 0] > 0)
    assert torch.equal(shared[:, 0] < 0.1, features[:, 0] == 0)


def test_pairs_with_the_same_classes_have_no_contrastive_loss() -> None:
    method, (features, valid) = build(**{**OFF, "contrastive": {"weight": 1}}), draw_features()
    features.requires_grad_()
    losses = method.compute_losses(method(features, valid), make_batch(), 2)
    (gradient,) = torch.autograd.grad(losses["contrastive"], features)
    assert gradient[[0, 3]].flatten(1).norm(dim=1).gt(0).all()
    assert gradient[[1, 2, 4, 5]].eq(0).all()
    same = torch.tensor([1.0, 0, 1, 0]).repeat(2 * PAIRS, 1)
    assert method.compute_losses(method(features, valid), make_batch(same), 2)["contrastive"] == 0


def test_an_image_counts_alike_however_many_pairs_have_no_other_classes() -> None:
    """Of three pairs only the first has other classes; the mean of each half is over those that have."""
    method, (features, valid) = build(**{**OFF, "contrastive": {"weight": 1}}), draw_features()
    losses = method.compute_losses(method(features, valid), make_batch(), 2)
    chosen = torch.tensor([0, 3])
    alone = method.compute_losses(method(features[chosen], valid[chosen]), make_batch(TAGS[chosen]), 2)
    torch.testing.assert_close(losses["contrastive"], alone["contrastive"])


@pytest.mark.parametrize("form", ["dot", "scaled", "cosine"])
@pytest.mark.parametrize("mask", ["learned", "maps"])
def test_gradients_are_right(form: str, mask: str) -> None:
    method = build(affinity={"form": form, "temperature": 0.8}, contrastive={"mask": mask})
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, CHANNELS, 2, 3, generator=generator).double().requires_grad_()
    valid = torch.ones(2, 1, 2, 3).double()

    def add_losses(features: Tensor) -> Tensor:
        return sum(method.compute_losses(method(features, valid), make_batch(TAGS[[0, 3]]), 2).values())

    assert torch.autograd.gradcheck(add_losses, (features,))
    add_losses(features).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.norm() > 0, name


def test_an_image_beside_a_reference_is_the_first_of_a_pair() -> None:
    method, (features, valid) = build(), draw_features()
    maps = method.score_beside(features[:PAIRS], features[PAIRS:], valid[PAIRS:])
    expected = method.host(method._co_attend(features, valid))[:PAIRS]
    torch.testing.assert_close(maps, expected)


def test_an_image_whose_tags_are_unknown_gives_a_loss() -> None:
    for name, loss in find_losses(build(), tags=torch.zeros(2 * PAIRS, CLASSES)).items():
        assert loss.isfinite(), name
