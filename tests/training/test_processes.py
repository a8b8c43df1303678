"""Two processes and one have the same loss at each of fifty steps, for each method and for the segmentation."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rca.classifier import losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.core.distributed import rank, sum_over_ranks, world_size
from rca.core.launch import launch
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.manifest import ImageRecord, Manifest
from rca.segmentation.correction import CorrectionSettings, EarlyLearning
from rca.segmentation.loss import LossSettings, NoiseSettings
from rca.segmentation.mixture import MixtureSettings
from rca.segmentation.network import Segmenter, SegmenterDescription
from rca.stages import train_seg
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 25, 50  # an epoch has a batch of four images, and one of three: two for rank 0, one for rank 1
MEAN, STD = (0.5,) * 3, (0.25,) * 3
# A projection has a BatchNorm, which several processes cannot train on a CPU.
CONTRAST = {"start_epoch": 1, "weight": 0.3, "projection": "none"}
AGGREGATION = {"prototypes": 2, "start_epoch": 2}
RCA = {"memory": {"size": 5, "gate": 0.0}, "head": {"channels": 4}, "aggregation": AGGREGATION}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "cam": ("cam", {}),
    "rca": ("rca", {**RCA, "contrast": CONTRAST}),
    "rca without mixing": ("rca", {**RCA, "contrast": {**CONTRAST, "mixup": None}}),
    "rca without memory": ("rca", {"memory": {"size": 0}, "aggregation": {"form": "none"}, "contrast": CONTRAST}),
    "hsc": ("hsc", {"region_channels": 8, "pixel_channels": 8, "refinement": {"iterations": 2}}),
    "mcis": ("mcis", {}),
}
LOSSES = {
    "segmentation": LossSettings(),
    "balanced segmentation": LossSettings(balance="labels", noise=NoiseSettings()),
    "filtered segmentation": LossSettings(mixture=MixtureSettings()),
    "corrected segmentation": LossSettings(correction=CorrectionSettings(slowing=0.3, confidence=0.3)),
}


def train(
    network: CamNetwork | Segmenter,
    compute_losses: Any,
    images: TrainingImages,
    pairs: bool,
    learning: EarlyLearning | None = None,
) -> Tensor:
    """The loss of each step (50,), of all processes together."""
    curve: list[Tensor] = []

    def compute(network: nn.Module, batch: Sample, epoch: int) -> dict[str, Tensor]:
        batch = Sample(*(part.double() if part.is_floating_point() else part for part in batch))
        terms: dict[str, Tensor] = compute_losses(network, batch, epoch)
        curve.append(sum_over_ranks(torch.stack(list(terms.values())).sum()) / world_size())
        return terms

    def start_epoch(epoch: int) -> None:
        if isinstance(network, CamNetwork):
            network.method.start_epoch(epoch, epoch)
        if learning is not None:
            learning.start_epoch(epoch)

    settings = OptimisationSettings(
        optimiser="sgd",
        epochs=EPOCHS,
        batch_size=4,
        learning_rate=0.02,
        backbone_learning_rate=0.01,
        freeze_batchnorm=True,
    )
    Trainer(
        network=network,
        backbone=network.backbone,
        settings=settings,
        seed=0,
        device=torch.device("cpu"),
        compute_losses=compute,
        start_epoch=start_epoch,
    ).fit(*make_loader(images, 4, 0, pairs))
    return torch.stack(curve)


def train_classifier(manifest: Manifest, method: str, options: dict[str, Any]) -> Tensor:
    torch.manual_seed(0)
    about = NetworkDescription("small", 16, 9, "cam", method, options, manifest.classes, MEAN, STD, "from scratch")
    network = CamNetwork(about).double()
    images = TrainingImages(manifest, manifest.images, AugmentationSettings(crop=36), MEAN, STD, seed=0)
    return train(network, losses.compute_losses, images, network.method.pairs_images)


def train_segmenter(manifest: Manifest, loss: LossSettings) -> Tensor:
    torch.manual_seed(0)
    # Without dropout, which deeplab_v1 has: each process draws it for its own rows.
    about = SegmenterDescription("small", 16, "deeplab_v2", manifest.classes, MEAN, STD, "from scratch")
    masks = {record.id: manifest.root / f"mask-{record.id}.png" for record in manifest.images}
    images = TrainingImages(manifest, manifest.images, AugmentationSettings(crop=36), MEAN, STD, 0, masks)
    learning = None if loss.correction is None else EarlyLearning(loss.correction, 4, EPOCHS)
    compute_losses = partial(train_seg.compute_losses, loss=loss, learning=learning)
    curve = train(Segmenter(about).double(), compute_losses, images, False, learning)
    assert learning is None or learning.learnt.any()
    return curve


def train_all(folder: Path, manifest: Manifest) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    # Losses are computed in float32 where networks may run in bfloat16; its rounding grows over fifty steps.
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    curves = {name: train_classifier(manifest, *given) for name, given in METHODS.items()}
    curves |= {name: train_segmenter(manifest, loss) for name, loss in LOSSES.items()}
    torch.save(curves, folder / f"{world_size()}-{rank()}.pt")


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """The curves of one process, and those that each of two saw."""
    folder = tmp_path_factory.mktemp("processes")
    random = np.random.default_rng(0)
    records = []
    for number in range(7):
        Image.fromarray(random.integers(0, 256, (40, 44, 3)).astype(np.uint8)).save(folder / f"{number}.png")
        mask = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), (40, 44), p=[0.5, 0.2, 0.1, 0.1, 0.1])
        Image.fromarray(mask).save(folder / f"mask-{number}.png")
        tags = tuple(int(one) for one in random.choice(3, 1 + number % 2, replace=False))
        records.append(ImageRecord(str(number), f"{number}.png", "", 44, 40, tags, ("train",), "main", ""))
    manifest = Manifest(folder, ("cat", "dog", "cow"), tuple(records))
    float_, threads = torch.Tensor.float, torch.get_num_threads()
    try:
        for processes in (1, 2):
            launch(train_all, processes, folder, manifest)
    finally:
        torch.Tensor.float = float_  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    return [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("name", [*METHODS, *LOSSES])
def test_two_processes_have_the_losses_of_one(curves: list[dict[str, Tensor]], name: str) -> None:
    one, first, second = (every[name] for every in curves)
    assert one.shape == (STEPS,)
    assert one.dtype == torch.float64
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=1e-5, atol=0)
    assert one.std() > 1e-3 * one.mean()  # it trains
