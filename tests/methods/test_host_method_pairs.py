"""Every method on every host: a short training on random images, then inference."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rca.classifier import views
from rca.classifier.inference import score_batch
from rca.classifier.losses import compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription, load_network, save_network
from rca.classifier.views import InferenceSettings
from rca.data.loading.images import Sample
from rca.data.manifest import ImageRecord
from rca.hosts.base import Levels
from rca.methods.base import WholeImages

HOSTS: dict[str, dict[str, Any]] = {
    "cam": {},
    "seam": {"hard_share": 0.3},
    "eps": {},
    "seam_eps": {"inference": "spread"},
    "oaa": {"start_epoch": 0},
}
METHODS: dict[str, dict[str, Any]] = {
    "cam": {},
    "rca": {
        "memory": {"size": 5, "gate": 0.0},
        "contrast": {"start_epoch": 0},
        "aggregation": {"prototypes": 2},
        "head": {"channels": 8},
    },
    "rca_extended": {"memory": {"size": 40, "prototypes": 2, "object": 0.5, "context": 0.5}},
    "hsc": {"refinement": {"iterations": 1}},
    "mcis": {"contrastive": {"start_epoch": 0}},
}
TERMS = {
    "cam": {"classification"},
    "seam": {"equivariance", "cross", "min_pooling"},
    "eps": {"saliency"},
    "seam_eps": {"equivariance", "cross", "min_pooling", "saliency"},
    "oaa": {"integral"},
    "rca": {"auxiliary", "contrast"},
    "rca_extended": set(),  # it learns nothing: its memory is filled after the training
    "hsc": {"roi", "class", "pixel"},
    "mcis": {"co_attention", "contrastive", "self_pairs"},
}
# A parameter of each host and each method that nothing else trains.
PARTS = {
    "seam": "method.host.correlation.embedding.weight",
    "eps": "method.host.background.weight",
    "seam_eps": "method.host.background.weight",
    "oaa": "method.host.integral.weight",
    "rca": "method.join.weight",
    "hsc": "method.project_regions.0.weight",
    "mcis": "method.shared.weight",
}
TAGS = ((0, 2), (1,), (0, 1, 2), (1, 2))
RECORDS = [ImageRecord(str(tags), "", None, 91, 75, tags, ("train",), "main", "") for tags in TAGS]


def build(host: str, method: str) -> CamNetwork:
    torch.manual_seed(0)
    about = NetworkDescription(
        *("small", 16, 12, host, method, METHODS[method], ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3, "from scratch"),
        host_options=HOSTS[host],
    )
    return CamNetwork(about)


def draw_batch(seed: int) -> Sample:
    """Four images of 75x91 pixels, the second padded; the last two show what the first two show."""
    generator = torch.Generator().manual_seed(seed)
    images, valid = torch.randn(4, 3, 75, 91, generator=generator), torch.ones(4, 1, 75, 91)
    images[1, :, :, 64:], valid[1, :, :, 64:] = 0, 0
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [0, 1, 1]])
    frame = torch.tensor([1.0, 0, 1, 0]).repeat(4, 1)
    saliency = torch.rand(4, 1, 75, 91, generator=generator) * valid
    blank = torch.zeros(4, 75, 91).long()
    return Sample(images, valid, tags, blank, torch.arange(4), frame, torch.ones(4), saliency)


@torch.no_grad()
def memorise(network: CamNetwork) -> None:
    """Fill the memory from the batch, as after a training."""
    batch = draw_batch(0)
    network.method.start_pass(0, batch.tags)
    images = WholeImages(batch.tags, batch.position, (75, 91))
    network.method.memorise([network(batch.image, batch.valid, batch.tags)], 0, images, epoch=1)
    network.method.finish_pass(seed=0)


@pytest.mark.parametrize(("host", "method"), list(product(HOSTS, METHODS)))
def test_a_pair_trains_and_scores(host: str, method: str, tmp_path: Path) -> None:
    network = build(host, method)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.host.begin(RECORDS, tmp_path / "kept", 2)
    optimiser = torch.optim.SGD(network.parameters(), 0.01)
    for epoch in range(2):
        network.train().method.start_epoch(epoch, seed=epoch)
        for step in range(2):
            losses = compute_losses(network, draw_batch(step), epoch, second_view=0.6)
            sum(losses.values()).backward()
            optimiser.step()
            optimiser.zero_grad()
    assert losses.keys() == {"classification"} | TERMS[host] | TERMS[method]
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    after = network.state_dict()
    for name in ("backbone.low.0.0.weight", *(PARTS[part] for part in (host, method) if part in PARTS)):
        assert not torch.equal(after[name], before[name]), name
    images = np.random.default_rng(0).integers(0, 256, (2, 75, 91, 3)).astype(np.uint8)
    settings, tags = InferenceSettings(scales=(1.0, 0.6)), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    if network.eval().method.passes:
        memorise(network)
    save_network(tmp_path / "network", network.eval())
    maps, logits = score_batch(network, images, settings, 4, tags)
    again = score_batch(load_network(tmp_path / "network", {}), images, settings, 4, tags)
    assert maps.shape == (2, 3, 19, 23)
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    assert logits.any()
    assert (maps.amax((2, 3))[tags > 0] > 0).any()
    assert torch.equal(maps, again[0])
    assert torch.equal(logits, again[1])


@pytest.mark.parametrize(("host", "method"), list(product(HOSTS, METHODS)))
def test_only_the_backbone_rounds_to_bfloat16(
    host: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU by default, but on the CPU: everything after the backbone equals the result without autocast."""

    def compute(network: CamNetwork) -> list[dict[str, Tensor]]:
        network.host.begin(RECORDS, tmp_path / "kept", 1)
        network.train().method.start_epoch(0, seed=0)
        found = []
        for step in range(2):
            torch.manual_seed(step)
            found.append(compute_losses(network, draw_batch(step), 0, second_view=0.6))
            sum(found[-1].values()).backward()
        return found

    plain = compute(build(host, method))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = compute(build(host, method))
    network = build(host, method)
    encode = network.encode

    def encode_rounded(images: Tensor) -> tuple[Tensor, Levels | None]:
        with torch.autocast("cpu", torch.bfloat16):
            return encode(images)

    monkeypatch.setattr(network, "encode", encode_rounded)
    for one, other, exact in zip(rounded, compute(network), plain, strict=True):
        assert one.keys() == other.keys() == exact.keys()
        assert all(loss.dtype == torch.float32 for loss in one.values())
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert any(not torch.equal(one[name], exact[name]) for name in one)


@pytest.mark.parametrize(("host", "method"), list(product(HOSTS, METHODS)))
def test_a_pair_scores_in_bfloat16(host: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(host, method).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 75, 91, 3)).astype(np.uint8)
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    maps, logits = score_batch(network, images, InferenceSettings(scales=(1.0, 0.6)), 4, tags)
    monkeypatch.setattr(views, "choose_precision", lambda device, precision: torch.autocast("cpu", torch.bfloat16))
    rounded = score_batch(network, images, InferenceSettings(scales=(1.0, 0.6)), 4, tags)
    assert rounded[0].dtype == rounded[1].dtype == torch.float32
    assert not torch.equal(rounded[1], logits)
    # bfloat16 keeps 8 bits.
    assert (rounded[1] - logits).abs().max() < 0.05 * logits.abs().max()
    assert (rounded[0] - maps).abs().mean() <= 0.05 * maps.max()  # the maps of an untrained pair may be 0
