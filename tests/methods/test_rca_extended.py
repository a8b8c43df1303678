"""The extended RCA: a background row, scores of prototypes, the loss on positions."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from rca.hosts.cam import CamHost
from rca.methods.rca_extended import RcaExtended, RcaExtendedOptions
from tests.methods.test_rca import CHANNELS, CLASSES, draw_batch


def build(form: str = "none", background: float | None = 0.3, size: int = 7, **contrast: object) -> RcaExtended:
    torch.manual_seed(0)
    options = {
        "memory": {"size": size, "gate": 0.0, "background": background},
        "contrast": {"weight": 0.3, "start_epoch": 0, "mixup": None, **contrast},
        "aggregation": {"form": form, "prototypes": 3, "start_epoch": 1},
    }
    return RcaExtended(RcaExtendedOptions.model_validate(options), CHANNELS, CLASSES, CamHost)


def learn(rca: RcaExtended, epochs: int = 2) -> dict[str, Tensor]:
    """The losses of the last of some epochs, of one batch each."""
    for epoch in range(epochs):
        rca.start_epoch(epoch, seed=0)
        features, valid, batch = draw_batch(epoch)
        losses = rca.compute_losses(rca(features, valid), batch, epoch)
    return losses


def test_the_background_has_the_last_row() -> None:
    rca = build()
    features, valid, batch = draw_batch()
    output = rca(features, valid)
    rca.compute_losses(output, batch, 0)
    assert rca.name_rows(("a", "b", "c", "d")) == ("a", "b", "c", "d", "background")
    assert build(background=None).name_rows(("a", "b", "c", "d")) == ("a", "b", "c", "d")
    entries = {}
    for image in range(len(features)):
        low = valid[image, 0] > 0
        for label in batch.tags[image].nonzero()[:, 0].tolist():
            one = output.maps[image, label].detach()
            low &= one < 0.3 * one[valid[image, 0] > 0].max()
        if low.any():
            entries[40 + image] = functional.normalize(features[image][:, low].mean(1), dim=0)
    assert rca.memory.written[-1] == len(entries) > 1
    for slot in range(len(entries)):
        expected = entries[int(rca.memory.image[-1, slot])]
        torch.testing.assert_close(rca.memory.entries[-1, slot], expected)


def test_the_background_is_a_negative_of_the_contrast_and_no_query() -> None:
    rca = build()
    learn(rca)
    features, valid, batch = draw_batch(2)
    output = rca(features, valid)
    entries, rows = rca.memory.read()
    entries = entries.clone()
    found = rca.compute_losses(output, batch, 2)["contrast"]
    losses = []
    for image, label in batch.tags.nonzero().tolist():
        one, inside = output.maps[image, label].detach(), valid[image, 0] > 0
        query = functional.normalize(features[image][:, (one > one[inside].mean()) & inside].mean(1), dim=0)
        terms = torch.exp(entries @ query / 0.07).double()
        negatives = terms[rows != label].sum()  # the background's among them
        losses.append(float(-torch.log(terms[rows == label] / (terms[rows == label] + negatives)).mean()))
    assert (rows == CLASSES).any()
    assert float(found) == pytest.approx(0.3 * np.mean(losses), rel=1e-3)


def test_scores_learn_and_replace_the_maps() -> None:
    rca = build("scores")
    losses = learn(rca)
    assert losses.keys() == {"classification", "contrast", "positions"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in rca.parameters())
    features, valid, _ = draw_batch(5)
    plain = rca.host(features)
    output = rca.eval().locate(rca(features, valid), None)
    assert torch.equal(output.extras["plain"], plain)
    assert output.maps.shape == plain.shape
    assert not torch.allclose(output.maps, plain)


def test_scores_are_the_share_of_a_class_among_all_rows() -> None:
    rca = build("scores")
    learn(rca)
    features, valid, batch = draw_batch(3)
    plain = rca(features, valid)
    anything, tagged = rca.locate(plain, None), rca.locate(plain, batch.tags)
    assert torch.equal(tagged.extras["plain"], plain.maps)
    prototypes, usable = rca.prototypes, rca.prototypes_usable
    for image, y, x in [(0, 0, 0), (2, 4, 6), (4, 2, 3)]:
        position = features[image, :, y, x]
        terms = np.array(
            [
                sum(
                    float(torch.exp(functional.cosine_similarity(position, one, dim=0) / 0.1))
                    for one in prototypes[row][usable[row]]
                )
                for row in range(CLASSES + 1)
            ]
        )
        assert anything.maps[image, :, y, x].tolist() == pytest.approx(terms[:-1] / terms.sum(), rel=1e-3)
        among = terms * [*batch.tags[image].tolist(), 1]
        assert tagged.maps[image, :, y, x].tolist() == pytest.approx(among[:-1] / among.sum(), rel=1e-3)


def test_further_rounds_score_with_prototypes_of_the_image_itself() -> None:
    rca = build("scores")
    learn(rca)
    features, valid, batch = draw_batch(3)
    once = rca.locate(rca(features, valid), batch.tags).maps
    rca.options = rca.options.model_copy(
        update={"aggregation": rca.options.aggregation.model_copy(update={"image_rounds": 1})}
    )
    twice = rca.locate(rca(features, valid), batch.tags).maps
    for image in range(len(features)):
        rows = [*batch.tags[image].nonzero()[:, 0].tolist(), CLASSES]
        shares = torch.cat([once[image], 1 - once[image].sum(0, keepdim=True)])
        places = [(y, x) for y, x in np.ndindex(5, 7) if valid[image, 0, y, x]]
        own = {
            row: sum(
                float(shares[row, y, x] * valid[image, 0, y, x]) ** 2
                * functional.normalize(features[image, :, y, x], dim=0)
                for y, x in places
            )
            for row in rows
        }
        for y, x in [(0, 0), (4, 6)]:
            terms = {
                row: float(torch.exp(functional.cosine_similarity(features[image, :, y, x], one, dim=0) / 0.1))
                for row, one in own.items()
            }
            expected = [terms.get(row, 0) / sum(terms.values()) for row in range(CLASSES)]
            assert twice[image, :, y, x].tolist() == pytest.approx(expected, rel=2e-3, abs=1e-5)


def test_the_loss_on_positions_uses_sure_positions_only() -> None:
    rca = build("scores")
    learn(rca, 1)
    rca.start_epoch(1, seed=0)
    features, valid, batch = draw_batch(1)
    plain = rca(features, valid).maps.detach()
    rows = rca._score_rows(features)
    terms = []
    for image, y, x in np.ndindex(len(features), 5, 7):
        tags = batch.tags[image].nonzero()[:, 0].tolist()
        if not valid[image, 0, y, x]:
            continue
        inside = valid[image, 0] > 0
        share = {
            label: float(plain[image, label, y, x] / plain[image, label][inside].max().clamp(min=1e-5))
            for label in tags
        }
        best = max(share, key=share.__getitem__, default=None)
        if best is not None and share[best] > 0.7:
            target = best
        elif all(value < 0.3 for value in share.values()):
            target = CLASSES
        else:
            continue
        present = torch.stack([rows[image, row, y, x] for row in [*tags, CLASSES]])
        terms.append(float(present.logsumexp(0) - rows[image, target, y, x]))
    found = rca.compute_losses(rca(features, valid), batch, 1)["positions"]
    assert float(found) == pytest.approx(0.1 * np.mean(terms), rel=1e-3)


def test_scores_are_the_plain_maps_until_there_are_prototypes() -> None:
    rca = build("scores").eval()
    features, valid, _ = draw_batch()
    output = rca(features, valid)
    assert torch.equal(rca.locate(output, None).maps, output.maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": {"size": 0}, "aggregation": {"form": "scores"}}, "memory.size of at least 1"),
        ({"aggregation": {"form": "scores"}}, "set memory.background"),
    ],
)
def test_an_aggregation_that_lacks_what_it_needs_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RcaExtendedOptions.model_validate(options)
