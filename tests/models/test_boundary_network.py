import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.labels.affinity import list_offsets, trace_line
from rca.models.backbones import build_backbone
from rca.models.boundary_network import (
    BoundaryNetwork,
    compute_boundary_losses,
    load_boundary_network,
    save_branches,
)
from rca.models.storage import save_tensors

MEAN = STD = (0.5, 0.5, 0.5)


def build(seed: int = 0) -> BoundaryNetwork:
    torch.manual_seed(seed)
    return BoundaryNetwork(build_backbone("small", 8), MEAN, STD)


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_the_loss_of_a_picture_of_two_rows_by_hand() -> None:
    labels = torch.tensor([[[1, 1, 0], [IGNORE, 2, 0]]])
    logits = torch.tensor([[[0.1, -0.4, 0.3], [5.0, -1.0, 0.7]]], dtype=torch.float64)
    found = compute_boundary_losses(logits, labels, radius=2)
    assert float(found["object"]) == pytest.approx(softplus(0.1) / 4)  # 1 and 1 in the first row
    assert float(found["background"]) == pytest.approx(softplus(0.7) / 4)  # 0 above 0
    # 1 beside 0, 2 beside 0; 1 above 2; and across corners 1 and 2, 1 and 0, 0 and 2.
    highest = [0.3, 0.7, -0.4, 0.1, 0.7, 0.3]
    assert float(found["boundary"]) == pytest.approx(sum(softplus(-one) for one in highest) / 6 / 2)


@pytest.mark.parametrize("radius", [2, 4])
def test_the_loss_agrees_with_a_loop_over_pairs(radius: int) -> None:
    generator = torch.Generator().manual_seed(radius)
    logits = torch.randn(2, 7, 9, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 3, IGNORE])[torch.randint(4, (2, 7, 9), generator=generator)]
    terms: dict[str, list[float]] = {"object": [], "background": [], "boundary": []}
    for image, y, x in np.ndindex(2, 7, 9):
        for down, across in list_offsets(radius):
            if y + down >= 7 or not 0 <= x + across < 9:
                continue
            one, two = int(labels[image, y, x]), int(labels[image, y + down, x + across])
            if IGNORE in (one, two):
                continue
            boundary = max(torch.sigmoid(logits[image, y + a, x + b]).item() for a, b in trace_line(down, across))
            kind = "boundary" if one != two else "object" if one else "background"
            terms[kind].append(-math.log(boundary if one != two else 1 - boundary))
    found = compute_boundary_losses(logits, labels, radius)
    weights = {"object": 0.25, "background": 0.25, "boundary": 0.5}
    for kind, values in terms.items():
        assert float(found[kind]) == pytest.approx(weights[kind] * sum(values) / len(values))


def test_nothing_is_learned_where_no_label_is_known() -> None:
    logits = torch.zeros(1, 5, 6, requires_grad=True)
    loss = torch.stack(list(compute_boundary_losses(logits, torch.full((1, 5, 6), IGNORE), 5).values())).sum()
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def paint(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four pictures of two plain colours with a straight border, their labels at stride 4, and the cells beside it."""
    random = np.random.default_rng(seed)
    images, labels = np.zeros((4, 3, 48, 76), np.float32), np.zeros((4, 48, 76), np.int64)
    for number in range(4):
        border = int(random.integers(20, 56))
        colour = np.array([1.5, 0.5, -1.0]).reshape(3, 1, 1) * random.choice([-1, 1])
        images[number] = np.where(np.arange(76) < border, colour, -colour)
        labels[number] = np.where(np.arange(76) < border, 0, 2)
    images += random.normal(0, 0.05, images.shape)
    cells = labels[:, 2::4, 2::4]
    beside = np.zeros(cells.shape, bool)
    beside[:, :, :-1] = cells[:, :, :-1] != cells[:, :, 1:]
    beside[:, :, 1:] |= beside[:, :, :-1]
    return torch.from_numpy(images), torch.from_numpy(cells), torch.from_numpy(beside)


def widen(cells: torch.Tensor, by: int) -> torch.Tensor:
    return functional.max_pool2d(cells.float()[:, None], 2 * by + 1, 1, by)[:, 0] > 0


def test_a_painted_boundary_is_learned_though_no_label_says_where_it_is() -> None:
    """Only pairs of cells are compared; the border itself, and all within two cells of it, is left open."""
    network = build()
    optimiser = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], 0.02)
    for step in range(60):
        images, cells, beside = paint(step)
        losses = compute_boundary_losses(network(images), cells.masked_fill(widen(beside, 1), IGNORE), 7)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    images, cells, beside = paint(1000)
    network.eval()
    found = network.find_boundaries(images, (12, 19))
    crossed = found.masked_fill(~widen(beside, 1), 0).amax(2)  # by each row of each picture
    away = found[~widen(beside, 3)]
    assert crossed.min() > 0.6
    assert away.mean() < 0.2


def test_the_backbone_is_not_trained() -> None:
    network = build()
    network(torch.randn(1, 3, 40, 52)).sum().backward()
    assert all(one.grad is None for one in network.backbone.parameters())
    assert all(one.grad is not None for one in network.branches.parameters())


def test_boundaries_of_a_mirror_image_are_mirrored() -> None:
    network = build().eval()
    image = torch.randn(2, 3, 45, 70)
    found = network.find_boundaries(image, (23, 36))
    assert found.shape == (2, 23, 36)
    assert 0 < float(found.min()) < float(found.max()) < 1
    # Padding makes a strided backbone see the mirror image a little differently; averaging both makes up for it.
    torch.testing.assert_close(network.find_boundaries(image.flip(3), (23, 36)), found.flip(2))


def test_a_trained_network_is_read_back(tmp_path: Path) -> None:
    network = build(3).eval()
    cam, branches = tmp_path / "network.safetensors", tmp_path / "affinity.safetensors"
    about = {"backbone": "small", "output_stride": 8, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    state = {f"backbone.{name}": one for name, one in network.backbone.state_dict().items()}
    save_tensors(cam, {**state, "method.weight": torch.zeros(2)}, about)
    save_branches(branches, network)
    assert branches.stat().st_size < 200_000
    loaded = load_boundary_network(cam, branches)
    assert loaded.mean == (0.1, 0.2, 0.3)
    image = torch.randn(1, 3, 33, 41)
    torch.testing.assert_close(loaded(image), network(image))
    with pytest.raises(UserError, match=r"missing\.safetensors does not exist: run train_affinity first"):
        load_boundary_network(cam, tmp_path / "missing.safetensors")
