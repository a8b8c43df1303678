"""The host that accumulates attention: the store against a loop, the loss against another, and short trainings."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stages import PREPARE, locate, run_stage, run_stages, shrink_preset, write_params
from torch import Tensor

from rca.classifier.registry import check_processes
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, collate
from rca.data.manifest import ImageRecord, Manifest
from rca.hosts.attention_store import AttentionStore
from rca.hosts.oaa import OaaHost, OaaOptions, compare_attention
from rca.models.output import Output
from rca.params.read import read_params

# Of the batch's images of 40x48 pixels: frame, and height and width without the padding.
VIEWS = {
    "whole": ((1.0, 0.0, 1.0, 0.0), (40, 48)),
    "cropped": ((0.8, 9.6, 1.25, 5.0), (24, 31)),
    "mirrored": ((-1.1, 50.0, 0.9, 2.7), (40, 37)),
}
RECORDS = (
    ImageRecord("a", "a.jpg", None, 61, 45, (0, 2), ("train",), "main", ""),
    ImageRecord("b", "b.jpg", None, 50, 33, (1,), ("train",), "main", ""),
    ImageRecord("c", "c.jpg", None, 40, 40, (), ("train",), "main", ""),
)


def interpolate(values: np.ndarray, y: float, x: float) -> float:
    """A map's value at a place in units of its cells, whose centres are at halves; outside the outer values go on."""
    height, width = values.shape
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    down, across = y - top, x - left
    upper = (1 - across) * values[top, left] + across * values[top, left + 1]
    lower = (1 - across) * values[top + 1, left] + across * values[top + 1, left + 1]
    return (1 - down) * upper + down * lower


def accumulate(kept: np.ndarray, seen: np.ndarray, record: ImageRecord, view: str) -> np.ndarray:
    """The maximum of what was kept (h, w) and what a view shows, cell by cell."""
    (across, left, down, top), (shown_height, shown_width) = VIEWS[view]
    after = kept.copy()
    for row in range(kept.shape[0]):
        for column in range(kept.shape[1]):
            y = ((row + 0.5) / kept.shape[0] * record.height - top) / down
            x = ((column + 0.5) / kept.shape[1] * record.width - left) / across
            if 0 <= y < shown_height and 0 <= x < shown_width:
                value = interpolate(seen, y / 40 * seen.shape[0], x / 48 * seen.shape[1])
                after[row, column] = max(kept[row, column], value)
    return after


def test_the_store_equals_a_loop_over_cells(tmp_path: Path) -> None:
    random, store = np.random.default_rng(0), AttentionStore(RECORDS, tmp_path / "kept", 8, 1)
    store.open(1)
    expected = {0: np.zeros((2, 6, 8)), 1: np.zeros((1, 5, 7))}
    for view, (frame, shown) in VIEWS.items():
        for position, chosen in ((0, [0, 1]), (1, [0]), (0, [1])):
            maps = random.random((len(chosen), 5, 6)).astype(np.float32)
            store.accumulate(position, chosen, torch.from_numpy(maps), torch.tensor(frame), (40, 48), shown)
            for number, one in zip(chosen, maps, strict=True):
                kept = expected[position]
                kept[number] = accumulate(kept[number], one, RECORDS[position], view)
        for position, kept in expected.items():
            np.testing.assert_allclose(store.read(position) / 255, kept, atol=0.5 / 255 + 1e-5)
    assert store.read(2).shape == (0, 5, 5)
    assert not np.array_equal(store.read(0)[0], store.read(0)[1])


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_what_was_accumulated(view: str, tmp_path: Path) -> None:
    store, (across, left, down, top) = AttentionStore(RECORDS, tmp_path / "kept", 8, 0), VIEWS[view][0]
    store.open(0)
    store.read(0)[:] = np.random.default_rng(0).integers(0, 256, (2, 6, 8))
    found = store.look_up(0, torch.tensor(VIEWS[view][0]), (40, 48), (9, 11))
    assert found.shape == (2, 9, 11)
    for number in range(2):
        for row in range(9):
            for column in range(11):
                y, x = down * (row + 0.5) * 40 / 9 + top, across * (column + 0.5) * 48 / 11 + left
                value = interpolate(store.read(0)[number] / 255, y / 45 * 6, x / 61 * 8)
                assert found[number, row, column].item() == pytest.approx(value, abs=1e-4)


def test_augmented_views_of_a_photograph_put_it_together(manifest: Manifest, tmp_path: Path) -> None:
    records = manifest.images[:2]
    for record in records:  # brighter to the right, and more so downwards: a view in the wrong place would show
        shade = np.add.outer(np.arange(record.height), 2 * np.arange(record.width)) * (255 / 200)
        picture = Image.fromarray(np.stack([shade.round().astype(np.uint8)] * 3, 2))
        picture.save(manifest.photograph(record), "PNG")
    augmentation = AugmentationSettings(scale=(0.8, 1.3), crop=38)
    images = TrainingImages(manifest, records, augmentation, (0.0,) * 3, (1.0,) * 3, 0)
    store = AttentionStore(records, tmp_path / "kept", 4, 0)
    store.open(0)
    for epoch in range(60):
        batch = collate([images[epoch, number] for number in range(2)], 38)
        for number, (image, frame, valid) in enumerate(zip(batch.image, batch.frame, batch.valid, strict=True)):
            shown = int(valid[0].amax(1).sum()), int(valid[0].amax(0).sum())
            tags = len(records[number].tags)
            store.accumulate(number, range(tags), image[:1].expand(tags, -1, -1), frame, (38, 38), shown)
    for number, record in enumerate(records):
        height, width = store.sizes[number]
        y, x = (np.arange(height) + 0.5) * record.height / height, (np.arange(width) + 0.5) * record.width / width
        expected = np.add.outer(y - 0.5, 2 * (x - 0.5)) * (255 / 200)
        np.testing.assert_allclose(store.read(number)[0], expected, atol=4)


def test_each_epoch_starts_from_the_state_of_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "epoch-0001.npy").write_bytes(b"of another training")
    store = AttentionStore(RECORDS, folder, 8, 2)
    for epoch in (2, 3, 4):
        store.open(epoch)
        assert store.read(0).max() == (0 if epoch == 2 else epoch - 1)
        store.read(0)[:] = epoch
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-0003.npy", "epoch-0004.npy"]
    again = AttentionStore(RECORDS, folder, 8, 2)  # stopped within epoch 4
    again.open(4)
    assert (again.read(0) == 3).all()
    with pytest.raises(UserError, match=r"epoch-0006\.npy is missing: delete .*kept\.pt to train from the start"):
        AttentionStore(RECORDS, folder, 8, 2).open(7)


def find_loss(logits: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
    attended, others = [], []
    for value, target, share in zip(logits.ravel(), targets.ravel(), weight.ravel(), strict=True):
        if share > 0 and target > 0.001:
            attended.append(-share * target * math.log(1 / (1 + math.exp(-value))))
        elif share > 0:
            others.append(-share * math.log(1 - 1 / (1 + math.exp(-value))))
    return sum(attended) / max(1, len(attended)) + sum(others) / max(1, len(others))


def test_the_loss_equals_a_loop_over_positions() -> None:
    random = np.random.default_rng(0)
    logits, targets = random.normal(0, 2, (2, 3, 5, 7)), np.maximum(random.uniform(-1, 1, (2, 3, 5, 7)), 0)
    weight = random.choice([0, 0.5, 1], (2, 3, 5, 7))
    for target in (targets, np.zeros_like(targets), np.ones_like(targets)):
        found = compare_attention(*(torch.from_numpy(one) for one in (logits, target, weight)))
        assert found.item() == pytest.approx(find_loss(logits, target, weight))
    assert compare_attention(*(torch.from_numpy(one) for one in (logits, targets, 0 * weight))) == 0
    parts = [torch.from_numpy(one) for one in (logits, targets, weight)]
    assert torch.autograd.gradcheck(compare_attention, (parts[0].requires_grad_(), *parts[1:]))


def draw_batch(seed: int) -> tuple[Output, Sample]:
    """The first two images as 32x40 pixels, the second padded; the classifier is sure of some tags only."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(2, 1, 32, 40)
    valid[1, :, :, 32:] = 0
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    frame = torch.tensor([[1.5, 0, 1.4, 0], [-1.5, 50, 1, 0.5]])
    batch = Sample(torch.zeros(2, 3, 32, 40), valid, tags, torch.zeros(2, 32, 40).long(), torch.arange(2), frame)
    features = torch.randn(2, 6, 4, 5, generator=generator)
    maps = 3 * torch.randn(2, 3, 4, 5, generator=generator) + torch.tensor([-4.0, 2, 2])[:, None, None]
    return Output(maps, features, torch.nn.functional.adaptive_avg_pool2d(valid, (4, 5))), batch


def begin(tmp_path: Path, **options: Any) -> OaaHost:
    torch.manual_seed(0)
    host = OaaHost(6, 3, OaaOptions(**options))
    host.begin(RECORDS, tmp_path / "kept", 9)
    return host


def test_attention_is_accumulated_where_the_classifier_is_sure(tmp_path: Path) -> None:
    host, (output, batch) = begin(tmp_path), draw_batch(0)
    host.observe(output, batch, 0)
    assert not (tmp_path / "kept").exists()
    host.observe(output, batch, 1)
    assert not host.store.read(0)[0].any()  # below the gate
    assert host.store.read(0)[1].max() > 200
    seen: Tensor = output.maps[1, 1].relu() * (output.valid[1, 0] > 0)
    seen = seen / (seen.max() + 1e-5)
    expected = AttentionStore(RECORDS, tmp_path / "other", 8, 0)
    expected.open(0)
    expected.accumulate(1, [0], seen[None], batch.frame[1], (32, 40), (32, 32))
    np.testing.assert_array_equal(host.store.read(1), expected.read(1))
    lenient = begin(tmp_path, gate=0, start_epoch=0)
    lenient.observe(output, batch, 0)
    assert lenient.store.read(0).any((1, 2)).all()


def test_the_integral_learns_every_class_with_attention(tmp_path: Path) -> None:
    host, (output, batch) = begin(tmp_path, integral_weight=2.0), draw_batch(0)
    assert host.compute_losses(output, batch, 0).keys() == {"classification"}
    host.observe(output, batch, 1)
    losses = host.compute_losses(output, batch, 1)
    assert losses.keys() == {"classification", "integral"}
    targets, weight = np.zeros((2, 3, 4, 5)), np.ones((2, 3, 4, 5))
    targets[0, 2] = host.store.look_up(0, batch.frame[0], (32, 40), (4, 5))[1]
    targets[1, 1] = host.store.look_up(1, batch.frame[1], (32, 40), (4, 5))[0]
    weight[0, 0] = 0  # tagged, and not found yet
    weight[1, :, :, 4:] = 0  # padding
    logits = host.integral(output.features).detach().double().numpy()
    assert losses["integral"].item() == pytest.approx(2 * find_loss(logits, targets, weight), rel=1e-5)
    losses["integral"].backward()
    assert host.integral.weight.grad.any()
    assert host.classifier.weight.grad is None


def test_inference_takes_the_integral_attention(tmp_path: Path) -> None:
    host, (output, _) = OaaHost(6, 3), draw_batch(0)
    refined = host.refine(output, None, None).scores
    torch.testing.assert_close(refined, host.integral(output.features).relu() * (output.valid > 0))
    with pytest.raises(RuntimeError, match="call `begin`"):
        host.observe(*draw_batch(0), 1)


def test_a_training_that_would_accumulate_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"start_epoch 3 on, .*epochs is 3: set it to 4 at least"):
        OaaHost(6, 3, OaaOptions(start_epoch=3)).begin(RECORDS, tmp_path, 3)


# --- the stages


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The embedded preset cut down, with one run; the stages before the training have run."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=5, val=2, epochs=4, batch_size=2)
    params.update(runs=["cam"], seeds=[0])
    params["run"]["cam"].update(host="oaa", host_options={"gate": 0.0})
    params["train_cam"]["augmentation"]["crop"] = 40
    write_params(params)
    run_stages(*PREPARE)
    return params


def test_a_rerun_and_a_training_that_was_stopped_give_the_same_weights(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = locate("cam")
    assert run_stage("train_cam", run="cam", seed=0) == 0
    first = hash_file(paths.network)
    assert "loss_integral" in paths.cam_history.read_text().splitlines()[0]
    assert not list(Path(".rca/checkpoints").iterdir())
    observe, seen = OaaHost.observe, []

    def stop(self: OaaHost, *arguments: Any) -> None:
        observe(self, *arguments)
        seen.append(arguments[-1])
        if seen.count(3) == 2:  # within the last epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(OaaHost, "observe", stop)
        with pytest.raises(KeyboardInterrupt):
            run_stage("train_cam", run="cam", seed=0)
    assert sorted(path.suffix for path in Path(".rca/checkpoints").iterdir()) == [".host", ".pt"]
    assert run_stage("train_cam", run="cam", seed=0) == 0
    assert hash_file(paths.network) == first
    assert not list(Path(".rca/checkpoints").iterdir())


def test_several_processes_are_refused(params: dict[str, Any]) -> None:
    check_processes("cam", 2, "here")
    params["train_cam"]["optimisation"]["processes"] = 2
    params["resources"]["train_cam"]["gpu"] = 0
    write_params(params)
    message = r"run\.cam: the host oaa keeps a map .* files of one process, but .*processes is 2: set it to 1\."
    with pytest.raises(UserError, match=message):
        read_params()
