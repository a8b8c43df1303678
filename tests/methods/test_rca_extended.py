"""The memory of positions: what it locates, against a literal loop, and what it stores, against its rules."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from slow_maps import Maps, resize, softmax, unit
from torch import Tensor
from torch.nn import functional

from rca.hosts.cam import CamHost
from rca.methods.base import WholeImages
from rca.methods.rca_extended import RcaExtended, RcaExtendedOptions
from rca.models.output import Output

CHANNELS, CLASSES, IMAGES = 6, 3, 9
SIZES = ((4, 5), (6, 8), (6, 8))  # of the views' maps; the last view is a mirrored one
FINEST = 1
PHOTOGRAPH = (60, 80)
NAMES = ("a", "b", "c")


def build(**options: object) -> RcaExtended:
    """The method in double precision, without a memory."""
    torch.manual_seed(0)
    memory = {"size": 20, "prototypes": 3, "object": 0.6, "context": 0.3, "area": None}
    given = {**options, "memory": {**memory, **options.get("memory", {})}}
    return RcaExtended(RcaExtendedOptions.model_validate(given), CHANNELS, CLASSES, CamHost).double().eval()


def draw_prototypes(method: RcaExtended) -> None:
    """Random prototypes: all three of the first class, none of the last one, some of the others and of contexts."""
    generator = torch.Generator().manual_seed(5)
    method.prototypes = torch.randn(method.prototypes.shape, generator=generator, dtype=torch.float64)
    method.prototypes_usable = torch.tensor(
        [[True] * 3, [True, False, True], [False] * 3, [True] * 3, [False, True, False], [True, True, False]]
    )


def draw_views(method: RcaExtended, seed: int = 0, number: int = 4) -> list[Output]:
    """The outputs for three views of some images."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return [
            method(
                torch.randn(number, CHANNELS, *size, generator=generator, dtype=torch.float64),
                torch.ones(number, 1, *size, dtype=torch.float64),
            )
            for size in SIZES
        ]


def draw_tags(number: int = 4) -> Tensor:
    """The last image has no tag; no class is without an image."""
    tags = (torch.rand(number, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.6).double()
    tags[0], tags[1] = 1, torch.tensor([0, 1, 0])
    tags[-1] = 0
    return tags


def score_set(position: NDArray[np.float64], prototypes: list[Tensor], temperature: float) -> float:
    terms = [math.exp(float(unit(position) @ unit(one.numpy())) / temperature) for one in prototypes]
    return math.log(math.fsum(terms) / len(terms)) if terms else -math.inf


def locate_slowly(method: RcaExtended, features: Sequence[Maps], tags: Sequence[float] | None) -> Maps:
    """The shares of the classes and, last, of the context, of one image."""
    options, size = method.options, features[FINEST].shape[1:]
    sets = [
        [one for one, counts in zip(method.prototypes[row], method.prototypes_usable[row], strict=True) if counts]
        for row in range(2 * CLASSES)
    ]
    sets = [*sets[:CLASSES], [one for row in sets[CLASSES:] for one in row]]
    possible = [row for row in range(CLASSES + 1) if row == CLASSES or (sets[row] and (tags is None or tags[row]))]
    logits = np.zeros((len(possible), *size))
    for one in features:
        found = np.zeros((len(possible), *one.shape[1:]))
        for y, x in np.ndindex(one.shape[1:]):
            found[:, y, x] = [score_set(one[:, y, x], sets[row], options.temperature) for row in possible]
        logits += resize(found, size) / len(features)
    shares = np.zeros((CLASSES + 1, *size))
    for y, x in np.ndindex(size):
        shares[possible, y, x] = softmax(logits[:, y, x].tolist())
    if options.image_temperature is None:
        return shares
    mixed = np.zeros_like(shares)
    for one in features:
        places, values = list(np.ndindex(one.shape[1:])), resize(shares, one.shape[1:])
        vectors = {place: unit(one[:, place[0], place[1]]) for place in places}
        spread = np.zeros_like(values)
        for y, x in places:
            cosines = [float(vectors[y, x] @ vectors[other]) for other in places]
            weights = softmax([cosine / options.image_temperature for cosine in cosines])
            spread[:, y, x] = sum(weight * values[:, v, u] for weight, (v, u) in zip(weights, places, strict=True))
        mixed += resize(spread, size) / len(features)
    return mixed


@pytest.mark.parametrize("image_temperature", [0.2, None])
@pytest.mark.parametrize("tagged", [True, False])
def test_classes_are_located_as_by_a_literal_loop(tagged: bool, image_temperature: float | None) -> None:
    method = build(temperature=0.15, image_temperature=image_temperature)
    draw_prototypes(method)
    views, tags = draw_views(method), draw_tags()
    found = method.locate(views, FINEST, tags if tagged else None)
    assert found.maps.shape == (4, CLASSES, *SIZES[FINEST])
    for image in range(4):
        features = [view.features[image].numpy() for view in views]
        expected = locate_slowly(method, features, tags[image].tolist() if tagged else None)
        np.testing.assert_allclose(found.maps[image], expected[:-1], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.background[image, 0], expected[-1], rtol=1e-9, atol=1e-12)
    assert found.maps.max() > 0.5
    assert torch.equal(found.features, views[FINEST].features)
    assert found.refined is None


def test_shares_sum_to_1_and_an_absent_class_has_none() -> None:
    method = build()
    draw_prototypes(method)
    views, tags = draw_views(method), draw_tags()
    found = method.locate(views, FINEST, tags)
    sums = found.maps.sum(1, keepdim=True) + found.background
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert (found.maps >= 0).all()
    assert not found.maps[tags == 0].any()
    torch.testing.assert_close(found.background[-1], torch.ones_like(found.background[-1]))  # no tag


def test_a_class_without_prototypes_is_never_located() -> None:
    method = build()
    draw_prototypes(method)
    views, tags = draw_views(method), torch.ones(4, CLASSES)
    for given in (tags, None):
        found = method.locate(views, FINEST, given)
        assert found.maps.isfinite().all()
        assert found.maps[:, :2].any()
        assert not found.maps[:, 2].any()
    # Neither where the contexts have none: an empty memory locates nothing.
    method.prototypes_usable[CLASSES:] = False
    found = method.locate(views, FINEST, torch.tensor([0.0, 0, 1]).expand(4, -1))
    assert not found.maps.any()
    torch.testing.assert_close(found.background, torch.ones_like(found.background))


def test_the_step_within_the_image_can_be_left_out() -> None:
    plain, mixed = build(image_temperature=None), build()
    draw_prototypes(plain)
    draw_prototypes(mixed)
    views, tags = draw_views(plain), draw_tags()
    assert not torch.allclose(plain.locate(views, FINEST, tags).maps, mixed.locate(views, FINEST, tags).maps, atol=1e-3)


def fill(method: RcaExtended, tags: Tensor, views: list[Output], number: int = 0) -> None:
    """A pass over all images, in batches of 4, 4 and 1."""
    assert method.start_pass(number, tags) >= len(tags)
    for batch in torch.arange(len(tags)).split(4):
        part = [
            view._replace(maps=view.maps[batch], features=view.features[batch], valid=view.valid[batch])
            for view in views
        ]
        method.memorise(part, FINEST, WholeImages(tags[batch], batch, PHOTOGRAPH), epoch=6)
    method.finish_pass(seed=3)


def find_rules(
    method: RcaExtended, views: list[Output], tags: Tensor, image: int, located: Tensor | None
) -> list[Maps]:
    """Where the rules hold in each view of an image: for each class, and then for its context."""
    labels, options = tags[image].nonzero()[:, 0].tolist(), method.options.memory
    total = sum(resize(view.maps[image].clamp(min=0).numpy(), SIZES[FINEST]) for view in views)
    shares = np.zeros_like(total)
    for label in labels:
        shares[label] = total[label] / max(total[label].max(), 1e-5)
        if located is not None:
            shares[label] = (shares[label] + located[image, label].numpy()) / 2
    rules = []
    for size in SIZES:
        small = resize(shares, size)
        rule = np.zeros((2 * CLASSES, *size), bool)
        for label in labels:
            for y, x in np.ndindex(size):
                value = small[label, y, x]
                rule[label, y, x] = value > options.object and value >= small[:, y, x].max()
                rule[CLASSES + label, y, x] = all(small[other, y, x] < options.context for other in labels)
        rules.append(rule)
    return rules


def check_memory(method: RcaExtended, views: list[Output], tags: Tensor, located: Tensor | None = None) -> None:
    """Compare each slot with the positions of its image that may fill it."""
    memory, slots = method.memory, method.memory.size
    filled = memory.filled()
    for image in range(len(tags)):
        rules = find_rules(method, views, tags, image, located)
        for row in range(2 * CLASSES):
            label = row % CLASSES
            own = (filled[row] & (memory.image[row] == image)).nonzero()[:, 0].tolist()
            allowed = [
                unit(view.features[image, :, y, x].numpy())
                for view, rule in zip(views, rules, strict=True)
                for y, x in np.argwhere(rule[row])
            ]
            with_class = tags[:, label].nonzero()[:, 0].tolist()
            rank = with_class.index(image) if image in with_class else None
            allotted = 0 if rank is None else (rank + 1) * slots // len(with_class) - rank * slots // len(with_class)
            assert len(own) == min(allotted, len(allowed))
            stored = [memory.entries[row, slot].numpy() for slot in own]
            nearest = [int(np.argmax([one @ entry for one in allowed])) for entry in stored]
            for entry, number in zip(stored, nearest, strict=True):
                np.testing.assert_allclose(entry, allowed[number], atol=1e-9)
            assert len(set(nearest)) == len(nearest)  # no position twice
            assert nearest == sorted(nearest)


@pytest.mark.parametrize("size", [4, 20, 300])
def test_positions_that_satisfy_the_rules_are_stored(size: int) -> None:
    method = build(memory={"size": size})
    views, tags = draw_views(method, number=IMAGES), draw_tags(IMAGES)
    fill(method, tags, views)
    check_memory(method, views, tags)
    memory, filled = method.memory, method.memory.filled()
    assert filled[:CLASSES].any(1).all()
    assert filled[CLASSES:].any(1).all()
    assert (memory.written <= size).all()
    assert (memory.epoch[filled] == 6).all()
    box = memory.box[filled]
    assert (box >= 0).all()
    assert (box[:, 2] <= PHOTOGRAPH[1]).all()
    assert (box[:, 3] <= PHOTOGRAPH[0]).all()
    assert (box[:, :2] < box[:, 2:]).all()
    assert memory.region[filled].flatten(1).any(1).all()
    pooled = torch.stack([view.maps.mean((2, 3)) for view in views]).mean(0).sigmoid()
    for row, slot in filled.nonzero().tolist():
        image, label = int(memory.image[row, slot]), row % CLASSES
        expected = pooled[image, label] if row < CLASSES else torch.tensor(1.0)
        assert float(memory.confidence[row, slot]) == pytest.approx(float(expected), rel=1e-9)


def test_a_second_pass_takes_what_the_first_one_locates_into_account() -> None:
    method = build(memory={"passes": 2})
    assert method.passes == 2
    views, tags = draw_views(method, number=IMAGES), draw_tags(IMAGES)
    fill(method, tags, views)
    first = {name: tensor.clone() for name, tensor in method.memory_state().items()}
    located = method.locate(views, FINEST, tags).maps
    fill(method, tags, views, 1)
    check_memory(method, views, tags, located)
    assert not torch.equal(method.memory.entries, first["memory.entries"])
    assert method.memory.written.sum() > 0


def test_with_its_prior_objects_cover_as_much_as_the_plain_maps() -> None:
    plain, method = build(), build(memory={"area": 0.35})
    assert method.passes == plain.passes + 1 == 2
    views, tags = draw_views(plain, number=IMAGES), draw_tags(IMAGES)
    for one in (plain, method):
        fill(one, tags, views)
    fill(method, tags, views, 1)
    covered, wanted = [], []
    for image in range(IMAGES):
        peaks = [
            sum(
                functional.interpolate(
                    view.maps[image : image + 1, label : label + 1].relu(), SIZES[FINEST], mode="bilinear"
                )
                for view in views
            )
            for label in tags[image].nonzero()[:, 0].tolist()
        ]
        high = [(one / one.max() > 0.35)[0, 0] for one in peaks]
        wanted.append(float(torch.stack(high).any(0).double().mean()) if high else 0.0)
        located = method.locate(views, FINEST, tags)
        covered.append(float((located.maps[image].amax(0) > 0.5).double().mean()))
    cells = SIZES[FINEST][0] * SIZES[FINEST][1]
    assert np.mean(covered) == pytest.approx(np.mean(wanted), abs=1.5 / cells)
    # The prior changes the background against all classes alike.
    before, after = (one.locate(views, FINEST, tags) for one in (plain, method))
    torch.testing.assert_close(
        after.maps * before.maps.flip(1), after.maps.flip(1) * before.maps, rtol=1e-9, atol=1e-12
    )
    odds = after.background * before.maps.sum(1, keepdim=True) / (before.background * after.maps.sum(1, keepdim=True))
    usual = tags.any(1)
    torch.testing.assert_close(odds[usual], method.prior.expand_as(odds[usual]), rtol=1e-6, atol=0)
    assert float(method.prior) != 1


def test_a_new_fill_starts_without_the_prior_and_the_prototypes_of_the_last() -> None:
    method = build(memory={"area": 0.35})
    views, tags = draw_views(method, number=IMAGES), draw_tags(IMAGES)
    states = []
    for _ in range(2):
        fill(method, tags, views)
        fill(method, tags, views, 1)
        states.append({name: tensor.clone() for name, tensor in method.memory_state().items()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_prototypes_are_means_of_stored_positions() -> None:
    method = build(memory={"size": 30, "prototypes": 1})
    views, tags = draw_views(method, number=IMAGES), draw_tags(IMAGES)
    fill(method, tags, views)
    for row in range(2 * CLASSES):
        entries = method.memory.entries[row][method.memory.filled()[row]]
        torch.testing.assert_close(method.prototypes[row, 0], entries.mean(0), rtol=1e-9, atol=1e-12)
    assert method.prototypes_usable.all()


def test_the_memory_is_deterministic() -> None:
    states = []
    for _ in range(2):
        method = build(memory={"passes": 2})
        views, tags = draw_views(method, number=IMAGES), draw_tags(IMAGES)
        fill(method, tags, views)
        fill(method, tags, views, 1)
        states.append(method.memory_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert {"memory.entries", "memory.box", "prototypes", "prototypes_usable"} <= states[0].keys()


def test_each_class_has_a_row_and_its_context_another() -> None:
    method = build()
    assert method.name_rows(NAMES) == (*NAMES, "context of a", "context of b", "context of c")
    assert len(method.memory.entries) == 2 * CLASSES
