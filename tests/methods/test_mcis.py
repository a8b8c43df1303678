import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rca.classifier.losses import compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription
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
    settings = McisOptions.model_validate({"affinity": {"form": "scaled"}, **options})
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


def classify_slowly(weight: Tensor, features: Tensor, valid: Tensor, tags: Tensor) -> float:
    """Binary cross-entropy of one image (D, h, w), a mean over classes."""
    total = 0.0
    for label in range(CLASSES):
        inside = valid[0] > 0
        score = torch.stack([weight[label] @ features[:, y, x] for y, x in inside.nonzero().tolist()]).mean()
        total += float(functional.softplus(-score if tags[label] else score))
    return total / CLASSES


def attend_slowly(method: Mcis, queries: Tensor, keys: Tensor, valid: Tensor, backwards: bool = False) -> Tensor:
    """The co-attention of one image (D, h, w) to another; `backwards` for the second image of a pair."""
    found = torch.zeros_like(queries)
    weight = method.affinity.weight
    inside = (valid[0] > 0).nonzero().tolist()
    for y in range(queries.shape[1]):
        for x in range(queries.shape[2]):
            query = queries[:, y, x]
            projected = weight @ query if backwards else query @ weight
            logits = torch.stack([projected @ keys[:, b, a] for b, a in inside]) / CHANNELS**0.5
            found[:, y, x] = sum(s * keys[:, b, a] for s, (b, a) in zip(logits.softmax(0), inside, strict=True))
    return found


def expect_losses(method: Mcis, weights: Tensor) -> dict[str, float]:
    """The terms of the loss image by image, by the paper's equations."""
    features, valid = draw_features()
    own = getattr(method, "own_host", method.host).classifier.weight[..., 0, 0]
    plain = method.host.classifier.weight[..., 0, 0]
    terms: dict[str, list[float]] = {name: [] for name in ALL}
    for image in range(2 * PAIRS):
        partner, second = (image + PAIRS) % (2 * PAIRS), image >= PAIRS
        one, other, tags = features[image], features[partner], TAGS[image]
        common, alone = tags * TAGS[partner], tags * (1 - TAGS[partner])
        sure = float(min(weights[image], weights[partner]))
        terms["classification"].append(float(weights[image]) * classify_slowly(plain, one, valid[image], tags))
        found = attend_slowly(method, one, other, valid[partner], second)
        terms["co_attention"].append(sure * classify_slowly(own, found, valid[image], common))
        itself = attend_slowly(method, one, one, valid[image])
        terms["self_pairs"].append(float(weights[image]) * classify_slowly(own, itself, valid[image], tags))
        if method.options.contrastive.mask == "learned":
            shared = (found * method.shared.weight[0]).sum(0).sigmoid()
        else:
            maps = torch.einsum("cd,dyx->cyx", own, found)
            peaks = [float(one[valid[image, 0] > 0].max()) for one in maps]
            shared = sum(torch.zeros_like(one) for one in maps[:1])
            for label in common.nonzero()[:, 0].tolist():
                shared = torch.maximum(shared, maps[label] / max(peaks[label], 1e-5))
            shared = shared.clamp(max=1)
        remaining = classify_slowly(own, one * (1 - shared), valid[image], alone)
        terms["contrastive"].append(sure * remaining if alone.any() else 0.0)
    return {name: sum(values) / len(values) for name, values in terms.items()}


@pytest.mark.parametrize("classifier", ["shared", "own"])
@pytest.mark.parametrize("mask", ["learned", "maps"])
@torch.no_grad()
def test_the_losses_equal_a_slow_reference(mask: str, classifier: str) -> None:
    method = build(contrastive={"mask": mask}, classifier=classifier)
    for weights in (torch.ones(6), torch.tensor([1, 0.5, 1, 0.25, 1, 1])):
        expected = expect_losses(method, weights)
        losses = find_losses(method, weight=weights)
        assert losses.keys() == expected.keys() == ALL
        for name, loss in losses.items():
            assert loss == pytest.approx(expected[name], abs=1e-9), name


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


@pytest.mark.parametrize("host", ["cam", "seam"])
def test_any_host_trains_on_pairs(host: str) -> None:
    torch.manual_seed(0)
    about = NetworkDescription("small", 8, 9, host, "mcis", {}, tuple("abcd"), (0.5,) * 3, (0.2,) * 3, "from scratch")
    network = CamNetwork(about).train()
    images = torch.randn(2 * PAIRS, 3, 41, 53, generator=torch.Generator().manual_seed(0))
    batch = make_batch()
    batch = batch._replace(image=images, valid=torch.ones(2 * PAIRS, 1, 41, 53), tags=batch.tags.float())
    losses = compute_losses(network, batch, 2)
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
