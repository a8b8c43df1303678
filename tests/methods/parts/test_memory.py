import numpy as np
import pytest
import torch
from torch import Tensor

from rca.methods.parts.memory import MemoryBank, Update
from rca.methods.parts.regions import GRID, Regions

CLASSES, SIZE, CHANNELS = 3, 5, 7


class SlowBank:
    """A bank in lists and double precision."""

    def __init__(self, rule: str, momentum: float, normalise: bool) -> None:
        self.rule, self.momentum, self.normalise = rule, momentum, normalise
        self.slots: list[list[dict | None]] = [[None] * SIZE for _ in range(CLASSES)]
        self.written = [0] * CLASSES

    def update(self, regions: list[dict]) -> None:
        new = []
        for region in regions:
            region = {**region, "vector": self.scale(region["vector"])}
            same = [slot for slot in self.slots[region["class"]] if slot and slot["image"] == region["image"]]
            if self.rule == "momentum" and same:
                same[0].update(region, vector=self.blend(same[0], region))
            else:
                new.append(region)
        for region in new:
            label = region["class"]
            slot = self.written[label] % SIZE
            old = self.slots[label][slot]
            if self.rule == "ring" and old:
                old["vector"] = self.blend(old, region)  # its origin stays that of the region that filled it
            else:
                self.slots[label][slot] = dict(region)
            self.written[label] += 1

    def blend(self, old: dict, new: dict) -> np.ndarray:
        return self.scale(self.momentum * old["vector"] + (1 - self.momentum) * new["vector"])

    def scale(self, vector: np.ndarray) -> np.ndarray:
        return vector / np.linalg.norm(vector) if self.normalise else vector


def draw_regions(random: np.random.Generator, number: int, epoch: int) -> list[dict]:
    """Regions of different (image, class)."""
    chosen = random.permutation(CLASSES * 11)[:number]
    return [
        {
            "class": int(one % CLASSES),
            "image": int(one // CLASSES),
            "vector": random.normal(size=CHANNELS),
            "confidence": float(random.random()),
            "epoch": epoch,
            "box": random.random(4).astype(np.float32),
            "region": random.integers(256, size=(GRID, GRID)).astype(np.uint8),
        }
        for one in chosen
    ]


def stack(regions: list[dict]) -> Regions:
    """Regions as the bank takes them."""

    def column(key: str, *shape: int) -> Tensor:
        return torch.from_numpy(np.array([region[key] for region in regions]).reshape(-1, *shape))

    return Regions(
        column("vector", CHANNELS).float(),
        column("class").long(),
        column("image").long(),
        column("confidence").float(),
        column("box", 4).float(),
        column("region", GRID, GRID).to(torch.uint8),
    )


def update(bank: MemoryBank, regions: list[dict], epoch: int = 0) -> None:
    bank.update(stack(regions), epoch)


def fill(bank: MemoryBank, seed: int = 0) -> list[dict]:
    regions = draw_regions(np.random.default_rng(seed), 9, 0)
    update(bank, regions)
    return regions


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("rule", ["ring", "fifo", "momentum"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bank_agrees_with_a_slow_one_over_many_batches(
    seed: int, rule: Update, momentum: float, normalise: bool
) -> None:
    random = np.random.default_rng(seed)
    bank = MemoryBank(CLASSES, SIZE, CHANNELS, rule, momentum, normalise)
    slow = SlowBank(rule, momentum, normalise)
    for epoch in range(30):
        # From none to all 33 regions, 11 of each class: more than a class has slots.
        regions = draw_regions(random, int(random.choice([0, 1, 2, 3, 8, 33])), epoch)
        update(bank, regions, epoch)
        slow.update(regions)
        assert bank.written.tolist() == slow.written
        for label in range(CLASSES):
            for slot in range(SIZE):
                expected = slow.slots[label][slot]
                assert bool(bank.filled()[label, slot]) == (expected is not None)
                if expected:
                    np.testing.assert_allclose(bank.entries[label, slot], expected["vector"], atol=1e-5)
                    assert bank.image[label, slot] == expected["image"]
                    assert bank.epoch[label, slot] == expected["epoch"]
                    assert bank.confidence[label, slot] == pytest.approx(expected["confidence"])
                    np.testing.assert_array_equal(bank.box[label, slot], expected["box"])
                    np.testing.assert_array_equal(bank.region[label, slot], expected["region"])


def test_what_is_read_is_normalised_and_of_filled_slots_alone() -> None:
    bank = MemoryBank(CLASSES, SIZE, CHANNELS)
    assert [part.shape[0] for part in bank.read()] == [0, 0]
    regions = fill(bank)
    entries, classes = bank.read()
    assert entries.shape == (9, CHANNELS)
    np.testing.assert_allclose(entries.norm(dim=1), 1, atol=1e-6)
    assert sorted(classes.tolist()) == sorted(region["class"] for region in regions)


def test_embeddings_keep_their_norm_if_they_are_not_normalised() -> None:
    bank = MemoryBank(CLASSES, SIZE, CHANNELS, normalise=False)
    regions = fill(bank)
    expected = sorted(float(np.linalg.norm(region["vector"])) for region in regions)
    np.testing.assert_allclose(sorted(bank.read()[0].norm(dim=1).tolist()), expected, rtol=1e-6)


def test_an_update_does_not_reach_what_was_read_before() -> None:
    bank = MemoryBank(CLASSES, SIZE, CHANNELS)
    fill(bank)
    entries, _ = bank.read()
    before = entries.clone()
    fill(bank, seed=1)
    assert torch.equal(entries, before)
    entries.zero_()
    assert bank.read()[0].norm() > 1


def test_no_gradient_enters_the_bank() -> None:
    bank = MemoryBank(1, SIZE, CHANNELS, "momentum")
    regions = stack(draw_regions(np.random.default_rng(0), 2, 0))
    vectors = torch.randn(2, CHANNELS, requires_grad=True)
    for _ in range(2):
        bank.update(regions._replace(embedding=vectors, row=torch.zeros(2, dtype=torch.int64)), 0)
    assert not bank.entries.requires_grad
    assert not bank.read()[0].requires_grad
    assert vectors.grad is None


def test_a_bank_is_saved_whole() -> None:
    bank, other = (MemoryBank(CLASSES, SIZE, CHANNELS) for _ in range(2))
    fill(bank)
    other.load_state_dict(bank.state_dict())
    fill(bank, seed=2)
    fill(other, seed=2)
    same: list[tuple[Tensor, Tensor]] = list(zip(bank.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(one, two) for one, two in same)


@pytest.mark.parametrize("sizes", [(0, 2, 3), (1, -1, 3), (1, 2, 0)])
def test_a_bank_without_rows_or_channels_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        MemoryBank(*sizes)


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_a_momentum_outside_its_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="momentum"):
        MemoryBank(1, 2, 3, "momentum", momentum)


def test_a_bank_of_size_0_keeps_nothing() -> None:
    bank = MemoryBank(CLASSES, 0, CHANNELS)
    fill(bank)
    assert [part.shape[0] for part in bank.read()] == [0, 0]
    assert bank.filled().shape == (CLASSES, 0)
