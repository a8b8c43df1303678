"""The host that uses saliency maps: its loss, the samples that hold the maps, and a short training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stages import PREPARE, locate, run_stage, run_stages, shrink_preset, write_params
from torch import Tensor

from rca.classifier.registry import check_pair
from rca.cli.main import main
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.manifest import Manifest
from rca.hosts.eps import EpsHost, EpsOptions, estimate_saliency, shrink_saliency
from rca.models.output import Output
from rca.stages.base.pins import Instance

CLASSES, HEIGHT, WIDTH = 4, 5, 7


def draw_output(seed: int, channels: int = 6) -> tuple[Output, Sample]:
    """Three images of 20x28 pixels, the second and the third padded, with features that make some maps strong."""
    generator = torch.Generator().manual_seed(seed)
    images, valid = torch.zeros(3, 3, 4 * HEIGHT, 4 * WIDTH), torch.ones(3, 1, 4 * HEIGHT, 4 * WIDTH)
    valid[1, :, 13:], valid[2, :, :, 18:] = 0, 0
    saliency = torch.rand(3, 1, 4 * HEIGHT, 4 * WIDTH, generator=generator)
    saliency = (saliency + torch.linspace(-0.6, 0.6, 4 * WIDTH)).clamp(0, 1) * valid
    tags = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0]])
    weight = torch.tensor([1.0, 0.5, 1.0])
    frame = torch.tensor([1.0, 0, 1, 0]).repeat(3, 1)
    blank = torch.zeros(3, 4 * HEIGHT, 4 * WIDTH).long()
    batch = Sample(images, valid, tags, blank, torch.arange(3), frame, weight, saliency)
    features = 3 * torch.randn(3, channels, HEIGHT, WIDTH, generator=generator)
    shrunk = torch.nn.functional.adaptive_avg_pool2d(valid, (HEIGHT, WIDTH))
    return Output(features[:, :CLASSES], features, shrunk), batch


def find_loss(host: EpsHost, output: Output, batch: Sample) -> float:
    """The saliency loss, position by position, in double precision."""
    options, images = host.options, []
    background = host.background(output.features)[:, 0].detach().double().numpy()
    maps = output.maps.double().numpy()
    pixels, inside = batch.saliency[:, 0].double().numpy(), batch.valid[:, 0].double().numpy()
    for image in range(len(maps)):
        cells: dict[tuple[int, int], Any] = {}
        for y in range(HEIGHT):
            for x in range(WIDTH):
                place = (slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
                share = inside[image][place].mean()
                if share:
                    salient = pixels[image][place].sum() / inside[image][place].sum()
                    powers = np.exp([*maps[image, :, y, x], background[image, y, x]])
                    cells[y, x] = (share, salient, powers / powers.sum())
        tagged = [one for one in range(CLASSES) if batch.tags[image, one]]
        foreground = set()
        for one in tagged:
            covered = [salient for _, salient, shares in cells.values() if shares[one] > 0.5]
            if covered and sum(salient > 0.5 for salient in covered) / len(covered) > options.overlap:
                foreground.add(one)
        total = weights = 0.0
        for share, salient, shares in cells.values():
            front = sum(shares[one] for one in foreground)
            rest = 1 - shares[-1] - sum(shares[one] for one in tagged if one not in foreground)
            estimate = options.foreground_share * front + (1 - options.foreground_share) * rest
            total, weights = total + share * (estimate - salient) ** 2, weights + share
        images.append(float(batch.weight[image]) * total / weights)
    return options.saliency_weight * float(np.mean(images))


@pytest.mark.parametrize("options", [{}, {"overlap": 0.7, "foreground_share": 0.8, "saliency_weight": 2.5}])
def test_the_loss_equals_a_loop_over_positions(options: dict[str, float]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        host = EpsHost(6, CLASSES, EpsOptions(**options))
        output, batch = draw_output(seed)
        losses = host.compute_losses(output, batch, 0)
        assert losses.keys() == {"classification", "saliency"}
        assert losses["saliency"].item() == pytest.approx(find_loss(host, output, batch), rel=1e-5)
        plain = host.classification_loss(output.maps, output.valid, batch.tags, batch.weight)
        torch.testing.assert_close(losses["classification"], plain)


def test_the_loss_of_two_views_is_their_mean() -> None:
    host, (first, batch), (second, _) = EpsHost(6, CLASSES), draw_output(0), draw_output(1)
    alone = [host.compute_losses(view, batch, 0)["saliency"] for view in (first, second)]
    both = host.compute_losses(first._replace(second=second), batch, 0)["saliency"]
    torch.testing.assert_close(both, sum(alone) / 2)


def test_a_class_that_saliency_misses_counts_as_background() -> None:
    def estimate(saliency: Tensor) -> Tensor:
        shares = torch.tensor([[0.8, 0.1], [0.1, 0.7], [0.1, 0.2]])[None, :, None]  # two classes and the background
        return estimate_saliency(shares, saliency, torch.ones(1, 2), torch.ones(1, 1, 1, 2), 0.4, 0.25).flatten()

    torch.testing.assert_close(
        estimate(torch.ones(1, 1, 1, 2)), torch.tensor([0.25 * 0.9 + 0.75 * 0.9, 0.25 * 0.8 + 0.75 * 0.8])
    )
    torch.testing.assert_close(
        estimate(torch.tensor([[[[1.0, 0]]]])),
        torch.tensor([0.25 * 0.8 + 0.75 * (1 - 0.1 - 0.1), 0.25 * 0.1 + 0.75 * (1 - 0.2 - 0.7)]),
    )
    torch.testing.assert_close(estimate(torch.zeros(1, 1, 1, 2)), torch.zeros(2))


def test_padding_changes_no_saliency() -> None:
    saliency, valid = torch.rand(2, 1, 12, 8), torch.ones(2, 1, 12, 8)
    wide, inside = (torch.nn.functional.pad(one, (0, 10), value=fill) for one, fill in ((saliency, 9.0), (valid, 0.0)))
    found = shrink_saliency(wide, inside, (3, 6))  # the third column is partly padding, the others wholly
    expected = saliency.unflatten(2, (3, 4)).mean(3)
    for column, pixels in enumerate((slice(0, 3), slice(3, 6), slice(6, 8))):
        torch.testing.assert_close(found[..., column], expected[..., pixels].mean(3))
    assert not found[..., 3:].any()


def test_inference_takes_probabilities_against_the_background() -> None:
    host, (output, _) = EpsHost(6, CLASSES), draw_output(0)
    refined = host.refine(output, None, None).refined
    expected = torch.cat([output.maps, host.background(output.features)], 1).softmax(1)[:, :-1]
    inside = (output.valid > 0).expand_as(expected)
    torch.testing.assert_close(refined[inside], expected[inside])
    assert not refined[~inside].any()
    shares = output._replace(background=1 - output.maps.sum(1, keepdim=True))
    assert host.refine(shares, None, None) is shares


# --- samples


@pytest.fixture
def salient(manifest: Manifest) -> Manifest:
    """Each image's saliency is its red channel, so that the sample itself says what it must be."""
    records = []
    for record in manifest.images:
        path = f"salient_{record.id}.png"
        Image.open(manifest.photograph(record)).convert("RGB").getchannel(0).save(manifest.root / path)
        records.append(replace(record, saliency=path))
    return replace(manifest, images=tuple(records))


def load(manifest: Manifest, **changes: Any) -> TrainingImages:
    augmentation = AugmentationSettings(scale=(0.7, 1.4), crop=37)
    return TrainingImages(manifest, manifest.images, augmentation, (0.0,) * 3, (1.0,) * 3, 0, **changes)


def test_saliency_is_augmented_as_its_image(salient: Manifest) -> None:
    loader, sampler = make_loader(load(salient, saliency=True), 2, 0)
    for epoch in range(3):
        sampler.epoch = epoch
        for batch in loader:
            assert batch.saliency.shape == batch.valid.shape
            torch.testing.assert_close(batch.saliency, batch.image[:, :1])


def test_other_samples_do_not_change(manifest: Manifest, salient: Manifest) -> None:
    with_maps, without = load(salient, saliency=True)[1, 0], load(manifest)[1, 0]
    others = set(Sample._fields) - {"saliency"}
    assert all(torch.equal(getattr(with_maps, name), getattr(without, name)) for name in others)
    assert without.saliency.numel() == 0


def test_a_missing_map_is_told_in_a_sentence(manifest: Manifest, salient: Manifest) -> None:
    with pytest.raises(UserError, match=r"the host eps uses saliency maps, but 1 of its .* in dataset\.saliency"):
        manifest.check_saliency((*salient.images[1:], manifest.images[0]), "run one: the host eps")
    salient.check_saliency(salient.images, "run one: the host eps")
    Image.new("L", (9, 9)).save(salient.saliency(salient.images[0]))
    with pytest.raises(UserError, match="is not of its photograph's size"):
        load(salient, saliency=True)[0, 0]


def test_cached_features_are_refused() -> None:
    check_pair("eps", "hsc", "here")
    with pytest.raises(UserError, match=r"here: the host eps needs saliency maps, .* set it to last_stage or all"):
        check_pair("eps", "cam", "here", cached=True)


# --- the stages


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The embedded preset cut down, with saliency maps and one run, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    params = shrink_preset(train=5, val=2, epochs=2, batch_size=2)
    params["generate_data"]["saliency"] = {"missed": 0.2, "false": 1}
    params["dataset"]["saliency"] = "Saliency"
    params["run"]["cam"].update(host="eps", host_options={"overlap": 0.3})
    params["train_cam"]["augmentation"]["crop"] = 40
    params.update(runs=["cam"], seeds=[0])
    return params


TRAIN = Instance("train_cam", run="cam", seed=0)


def test_a_training_goes_by_saliency_and_gives_the_same_weights_again(params: dict[str, Any]) -> None:
    write_params(params)
    run_stages(*PREPARE, TRAIN)
    paths = locate("cam")
    first = hash_file(paths.network)
    assert "loss_saliency" in paths.cam_history.read_text().splitlines()[0]
    run_stages(TRAIN)
    assert hash_file(paths.network) == first
    for path in Path("data/shapes/Saliency").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    run_stages(Instance("prepare_data"), Instance("pin_images"), TRAIN)
    assert hash_file(paths.network) != first


def test_a_dataset_without_saliency_is_refused(params: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    params["generate_data"]["saliency"] = params["dataset"]["saliency"] = None
    write_params(params)
    run_stages(*PREPARE)
    assert run_stage("train_cam", run="cam", seed=0) == 2
    message = "run cam: the host eps uses saliency maps, but 5 of its 5 images (train_00000, ...) have none: "
    assert message in capsys.readouterr().err
    assert main(["check"]) == 2
    assert message in capsys.readouterr().err
    assert not locate("cam").network.exists()
