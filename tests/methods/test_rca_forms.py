"""RCA without a bank, and with each form of aggregation."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from rca.hosts.cam import CamHost
from rca.methods.rca import Rca, RcaOptions
from tests.methods.test_rca import CHANNELS, CLASSES, draw_batch

FORMS = ["softmax", "parametric", "released"]


def build(form: str = "none", size: int = 7, **contrast: object) -> Rca:
    torch.manual_seed(0)
    options = {
        "region_maps": "logits",
        "memory": {"size": size, "gate": 0.0},
        "contrast": {
            "weight": 0.3,
            "start_epoch": 0,
            "mixup": None,
            "projection": "none",
            "reduction": "mean",
            **contrast,
        },
        "aggregation": {"form": form, "prototypes": 3, "start_epoch": 1},
        "head": {"channels": 5},
    }
    return Rca(RcaOptions.model_validate(options), CHANNELS, CLASSES, CamHost)


def learn(rca: Rca, epochs: int = 2) -> dict[str, Tensor]:
    """The losses of the last of some epochs, of one batch each."""
    for epoch in range(epochs):
        rca.start_epoch(epoch, seed=0)
        features, valid, batch = draw_batch(epoch)
        losses = rca.compute_losses(rca(features, valid), batch, epoch)
    return losses


def test_without_a_bank_a_batch_is_contrasted_with_itself() -> None:
    rca = build(size=0)
    features, valid, batch = draw_batch()
    output = rca(features, valid)
    found = rca.compute_losses(output, batch, 0)["contrast"]
    regions, labels = [], []
    for image, label in batch.tags.nonzero().tolist():
        one, inside = output.maps[image, label].detach(), valid[image, 0] > 0
        region = (one > one[inside].mean()) & inside
        regions.append(functional.normalize(features[image][:, region].mean(1), dim=0).double())
        labels.append(label)
    losses = []
    for index, (region, label) in enumerate(zip(regions, labels, strict=True)):
        scores = [float(torch.exp(region @ other / 0.07)) for other in regions]
        positives = [score for at, score in enumerate(scores) if labels[at] == label and at != index]
        negatives = sum(score for at, score in enumerate(scores) if labels[at] != label)
        losses.append(np.mean([-np.log(one / (one + negatives)) for one in positives]) if positives else 0.0)
    assert float(found) == pytest.approx(0.3 * np.mean(losses), rel=1e-3)
    assert rca.memory_state()["memory.entries"].shape == (CLASSES, 0, CHANNELS)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_learns_and_scores(form: str) -> None:
    rca = build(form)
    losses = learn(rca)
    assert losses.keys() == {"classification", "contrast", "auxiliary"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in rca.parameters())
    features, valid, _ = draw_batch(5)
    plain = rca.host(features)
    output = rca.eval()(features, valid)
    assert torch.equal(output.extras["plain"], plain)
    assert output.maps.shape == plain.shape
    assert not torch.allclose(output.maps, plain)


def test_an_aggregation_that_lacks_what_it_needs_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"memory\.size of at least 1"):
        RcaOptions.model_validate({"memory": {"size": 0}})
