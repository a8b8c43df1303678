"""A memory that is filled after the training: as image by image, and what is scored with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rca.classifier.filling import fill_memory
from rca.classifier.inference import score_batch, score_images
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.views import InferenceSettings
from rca.data.loading.features import View
from rca.data.loading.images import normalise
from rca.data.manifest import ImageRecord, Manifest
from rca.methods.base import WholeImages
from rca.models.output import Output
from rca.models.resizing import rescale

CLASSES, MEAN, STD = ("a", "b", "c"), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TAGS = [(0, 2), (1,), (0,), (1, 2), (), (2,), (0, 1, 2)]
PLAIN, MANY = InferenceSettings(scales=(1.0,), flip=False), InferenceSettings(scales=(1.0, 0.6, 1.5), flip=True)


def build(prototypes: int = 1, passes: int = 1) -> CamNetwork:
    torch.manual_seed(0)
    options = {"memory": {"size": 9, "prototypes": prototypes, "passes": passes, "object": 0.5, "context": 0.4}}
    about = NetworkDescription("small", 8, 0, "cam", "rca_extended", options, CLASSES, MEAN, STD, "none", epochs=5)
    network = CamNetwork(about)
    for module in network.modules():  # statistics as a training would leave them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    return network.eval()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Seven pictures of two sizes, interleaved: noise over patches of colour."""
    records, random = [], np.random.default_rng(0)
    for number, tags in enumerate(TAGS):
        height, width = [(56, 72), (64, 48)][number % 2]
        patches = random.integers(0, 200, (8, 9, 3)).repeat(9, 0).repeat(9, 1)[:height, :width]
        pixels = (patches + random.integers(0, 56, (height, width, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        records.append(ImageRecord(str(number), f"{number}.png", None, width, height, tags, ("train",), "main", ""))
    return Manifest(tmp_path, CLASSES, tuple(records))


def read(manifest: Manifest, record: ImageRecord) -> np.ndarray:
    return np.asarray(Image.open(manifest.photograph(record)))


def encode(network: CamNetwork, pixels: np.ndarray, view: View) -> Tensor:
    """The features of one view of one image."""
    image = rescale(normalise(pixels, MEAN, STD)[None], view.scale)
    with torch.no_grad():
        return network.backbone(image.flip(3) if view.mirrored else image)[1]


class ExactCache:
    """Features as a cache gives them, but not rounded."""

    def __init__(self, network: CamNetwork, manifest: Manifest) -> None:
        self.network, self.manifest = network, manifest

    def read(self, image_id: str, view: View) -> Tensor:
        record = self.manifest.images[self.manifest.index[image_id]]
        return encode(self.network, read(self.manifest, record), view)[0]


@torch.no_grad()
def fill_slowly(network: CamNetwork, manifest: Manifest, settings: InferenceSettings, seed: int) -> None:
    """One image after another, and of each one view after another."""
    method = network.method
    tags = torch.zeros(len(manifest.images), len(CLASSES))
    for position, record in enumerate(manifest.images):
        tags[position, list(record.tags)] = 1
    order = sorted(range(len(TAGS)), key=lambda one: (manifest.images[one].height, manifest.images[one].width))
    for number in range(method.passes):
        assert method.start_pass(number, tags) >= len(tags)
        for position in order:
            record, views = manifest.images[position], []
            for view in settings.views:
                features = encode(network, read(manifest, record), view)
                maps = method.host.classifier(features)
                if view.mirrored:
                    maps, features = torch.flip(maps, [3]), torch.flip(features, [3])
                views.append(Output(maps, features, torch.ones_like(features[:, :1])))
            finest = int(np.argmax([view.maps.shape[2] for view in views]))
            size = (record.height, record.width)
            images = WholeImages(tags[position : position + 1], torch.tensor([position]), size)
            method.memorise(views, finest, images, epoch=4)
        method.finish_pass(seed)


def sort_slots(network: CamNetwork) -> list[list[tuple[int, tuple[float, ...], Tensor]]]:
    """Image, box and entry of each slot by row, in an order that does not depend on that of the writing."""
    memory = network.method.memory
    rows = []
    for row, filled in enumerate(memory.filled()):
        slots = filled.nonzero()[:, 0].tolist()
        own = [
            (int(memory.image[row, one]), tuple(memory.box[row, one].tolist()), memory.entries[row, one])
            for one in slots
        ]
        # Positions of two views may share a box: their entries settle the order.
        rows.append(sorted(own, key=lambda one: (one[:2], [round(value, 3) for value in one[2].tolist()])))
    return rows


@pytest.mark.parametrize("settings", [PLAIN, MANY], ids=["one view", "scales and flips"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_memory_is_filled_as_image_by_image(manifest: Manifest, settings: InferenceSettings, batch_size: int) -> None:
    network, expected = build(), build()
    fill_memory(network, manifest, settings.model_copy(update={"batch_size": batch_size}), seed=3)
    fill_slowly(expected, manifest, settings, seed=3)
    found, wanted = sort_slots(network), sort_slots(expected)
    assert [len(row) for row in found] == [len(row) for row in wanted]
    assert min(len(row) for row in found) > 3
    for one, other in zip(
        (slot for row in found for slot in row), (slot for row in wanted for slot in row), strict=True
    ):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1])
        torch.testing.assert_close(one[2], other[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(network.method.prototypes, expected.method.prototypes, rtol=1e-3, atol=1e-4)
    assert (network.method.memory.epoch.amax(1) == 4).all()


def test_several_passes_and_prototypes_are_those_of_the_loop(manifest: Manifest) -> None:
    network, expected = build(prototypes=3, passes=2), build(prototypes=3, passes=2)
    fill_memory(network, manifest, MANY.model_copy(update={"batch_size": 1}), seed=3)
    fill_slowly(expected, manifest, MANY, seed=3)
    for name, tensor in network.method.memory_state().items():
        torch.testing.assert_close(tensor, expected.method.memory_state()[name], rtol=1e-3, atol=1e-4)
    once = build(prototypes=3)
    fill_memory(once, manifest, MANY, seed=3)
    assert not torch.equal(once.method.memory.entries, network.method.memory.entries)


def test_cached_features_fill_the_same_memory(manifest: Manifest) -> None:
    network, cached = build(prototypes=3), build(prototypes=3)
    settings = MANY.model_copy(update={"batch_size": 1})
    fill_memory(network, manifest, settings, seed=3)
    fill_memory(cached, manifest, settings, seed=3, cache=ExactCache(cached, manifest))
    for name, tensor in network.method.memory_state().items():
        torch.testing.assert_close(tensor, cached.method.memory_state()[name], rtol=1e-3, atol=1e-4)


@pytest.fixture
def network(manifest: Manifest) -> CamNetwork:
    """A network with a memory."""
    network = build(prototypes=3)
    fill_memory(network, manifest, MANY, seed=3)
    return network


def test_a_mirrored_photograph_has_mirrored_shares(network: CamNetwork, manifest: Manifest) -> None:
    images = np.stack([read(manifest, record) for record in manifest.images[:3:2]])
    tags = torch.tensor([[1.0, 0, 1], [1, 0, 0]])
    for given in (tags, None):
        maps, logits = score_batch(network, images, MANY, 4, given)
        mirrored, mirrored_logits = score_batch(network, images[:, :, ::-1], MANY, 4, given)
        assert maps.shape == (2, 3, 14, 18)
        torch.testing.assert_close(mirrored.flip(3), maps, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(mirrored_logits, logits, rtol=1e-3, atol=1e-4)
        assert (maps - maps.flip(3)).abs().max() > 0.01


def test_shares_are_stored_as_they_are(network: CamNetwork, manifest: Manifest) -> None:
    peaks = []
    for record, maps in score_images(network, manifest, manifest.images, MANY, 4):
        tags = torch.zeros(1, 3)
        tags[0, list(record.tags)] = 1
        expected, logits = score_batch(network, read(manifest, record)[None], MANY, 4, tags)
        np.testing.assert_allclose(maps.scores, expected[0, list(record.tags)], atol=2e-3)
        np.testing.assert_allclose(maps.logits, logits[0], rtol=1e-3, atol=1e-4)
        assert not np.any(maps.scores.astype(np.float64).sum(0) > 1.002)
        peaks += [float(one.max()) for one in maps.scores]
    assert len(peaks) == sum(len(tags) for tags in TAGS)
    assert min(peaks) < 0.9  # a map that was brought to a peak of 1 would be another
