"""The terms of EPS, and of SEAM and EPS together, against their published formulas, position by position."""

import numpy as np
import pytest
import torch
from slow_maps import list_places, mean, softmax

from rca.data.loading.images import Sample
from rca.hosts.eps import EpsHost
from rca.hosts.seam_eps import SeamEpsHost
from rca.models.output import Output
from tests.hosts.test_seam_parity import (
    CLASSES,
    IMAGES,
    SIZES,
    TAGS,
    View,
    build,
    draw_views,
    find_refined,
    find_seam_terms,
    look,
    make_batch,
)

CELLS = (15, 28)
"""Height and width of the images: 3x4 and 5x7 cells have whole pixels."""


def draw_saliency(seed: int, padded: bool) -> Sample:
    """A batch with saliency maps, padded as the views of `draw_views`: the second below, the third on the right."""
    generator = torch.Generator().manual_seed(seed)
    saliency = torch.rand(IMAGES, 1, *CELLS, generator=generator).double() ** 0.5
    valid = torch.ones(IMAGES, 1, *CELLS).double()
    if padded:  # beyond this edge lie the positions that `draw_views` leaves out, at both sizes
        valid[1, :, 10:], valid[2, :, :, 14:] = 0, 0
    return make_batch(image=valid.expand(-1, 3, -1, -1), valid=valid, saliency=saliency * valid)


def pad_views(views: list[View], batch: Sample) -> list[View]:
    """The views with a field that lies on the image or not as the batch says."""
    return [
        view._replace(valid=torch.nn.functional.adaptive_avg_pool2d(batch.valid, size))
        for view, size in zip(views, SIZES, strict=True)
    ]


def shrink(batch: Sample, image: int, size: tuple[int, int]) -> np.ndarray:
    """The mean saliency of the part of each position's field that lies on the image."""
    salient = np.zeros(size)
    down, across = CELLS[0] // size[0], CELLS[1] // size[1]
    for y in range(size[0]):
        for x in range(size[1]):
            pixels = [
                float(batch.saliency[image, 0, row, column])
                for row in range(down * y, down * (y + 1))
                for column in range(across * x, across * (x + 1))
                if batch.valid[image, 0, row, column]
            ]
            salient[y, x] = mean(pixels) if pixels else 0.0
    return salient


def find_saliency_loss(
    probabilities: np.ndarray, inside: np.ndarray, batch: Sample, image: int, overlap: float, share: float = 0.5
) -> float:
    """EPS: the mean of (lambda M_fg + (1 - lambda) (1 - M_bg) - saliency)^2, with a class in M_fg or else in M_bg."""
    salient = shrink(batch, image, (probabilities.shape[1], probabilities.shape[2]))
    places = list(list_places(inside))
    foreground, rejected = [], []
    for label in range(CLASSES):
        if TAGS[image, label]:
            covered = [place for place in places if round(probabilities[(label, *place)]) == 1]
            shared = [place for place in covered if round(salient[place]) == 1]
            is_object = bool(covered) and len(shared) / len(covered) > overlap
            (foreground if is_object else rejected).append(label)
    total = weight = 0.0
    for place in places:
        front = sum(probabilities[(label, *place)] for label in foreground)
        back = probabilities[(CLASSES, *place)] + sum(probabilities[(label, *place)] for label in rejected)
        estimate = share * front + (1 - share) * (1 - back)
        total += inside[place] * (estimate - salient[place]) ** 2
        weight += inside[place]
    return total / weight


def find_probabilities(host: EpsHost, view: View, image: int) -> np.ndarray:
    """The softmax over the classes and the background at each position (C + 1, h, w)."""
    features = view.features[[image]]
    return take_softmax(torch.cat([host(features), host.background(features)], 1)[0].detach().numpy())


def take_softmax(logits: np.ndarray) -> np.ndarray:
    """The softmax at each position of (C + 1, h, w)."""
    found = np.zeros_like(logits)
    for y in range(logits.shape[1]):
        for x in range(logits.shape[2]):
            found[:, y, x] = softmax(logits[:, y, x].tolist())
    return found


def strengthen(views: list[View]) -> list[View]:
    """Features that let some class exceed a probability of 0.5 at some positions."""
    return [view._replace(features=8 * view.features) for view in views]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("options", [{}, {"overlap": 0.7, "foreground_share": 0.9}])
def test_the_saliency_loss_of_eps_is_the_published_formula(options: dict[str, float], padded: bool) -> None:
    for seed in range(3):
        host, batch = build(EpsHost, **options), draw_saliency(seed, padded)
        views = pad_views(strengthen(draw_views(seed, False)), batch)
        losses, terms = host.compute_losses(look(host, views), batch, 0), []
        overlap, share = options.get("overlap", 0.4), options.get("foreground_share", 0.5)
        for image in range(IMAGES):
            for view in views:
                probabilities, inside = find_probabilities(host, view, image), view.valid[image, 0].numpy()
                terms.append(find_saliency_loss(probabilities, inside, batch, image, overlap, share))
        assert losses.keys() == {"classification", "saliency"}
        assert float(losses["saliency"].detach()) == pytest.approx(mean(terms), abs=1e-9)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("reading", ["softmax", "shares"])
def test_every_term_of_seam_eps_is_the_published_formula(reading: str, padded: bool) -> None:
    for seed in range(2):
        host, batch = build(SeamEpsHost, refined_saliency=reading), draw_saliency(seed, False)
        views = strengthen(draw_views(seed, padded))
        losses, expected, salient = host.compute_losses(look(host, views), batch, 0), find_seam_terms(host, views), 0.0
        for image in range(IMAGES):
            for view in views:
                refined = find_refined(host, view, image)
                if reading == "softmax":
                    refined = take_softmax(refined)
                for probabilities in (find_probabilities(host, view, image), refined):
                    inside = view.valid[image, 0].numpy()
                    salient += find_saliency_loss(probabilities, inside, batch, image, 0.5) / IMAGES / len(views)
        assert losses.keys() == {*expected, "saliency"}
        for name, value in {**expected, "saliency": salient}.items():
            assert float(losses[name].detach()) == pytest.approx(value, abs=1e-9), name


def test_the_saliency_loss_reaches_the_classifier_the_background_and_the_correlation() -> None:
    host, batch = build(SeamEpsHost), draw_saliency(0, False)
    host.compute_losses(look(host, draw_views(0, False)), batch, 0)["saliency"].backward()
    for layer in (host.classifier, host.background, host.correlation.embedding):
        assert layer.weight.grad.norm() > 0


def test_seam_eps_infers_as_eps_and_spreads_the_probabilities_as_an_option() -> None:
    plain, spread = build(SeamEpsHost).eval(), build(SeamEpsHost, inference="spread").eval()
    view = draw_views(0, True)[0]
    output = Output(plain(view.features), view.features, view.valid)
    probabilities = torch.cat([output.maps, plain.background(view.features)], 1).softmax(1)
    found = plain.refine(output, view.levels, TAGS).refined
    torch.testing.assert_close(found, probabilities[:, :-1] * view.valid)
    wide = spread.refine(output, view.levels, TAGS).refined
    torch.testing.assert_close(wide, spread.correlation(probabilities, view.levels, view.valid)[:, :-1])
    shares = output._replace(maps=probabilities[:, :-1], background=probabilities[:, -1:])
    assert plain.refine(shares, view.levels, TAGS) is shares
    torch.testing.assert_close(spread.refine(shares, view.levels, TAGS).refined, wide)
    assert plain.normalisation == "max"
