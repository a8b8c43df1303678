import subprocess
import sys

import numpy as np
import pytest
import torch
from segmenters import MEAN, STD, build
from torch import Tensor, nn

from rca.prediction.tiling import ALIGNMENT, PredictionOptions, place_tiles, segment
from rca.segmentation.network import SegmenterDescription
from rca.segmentation.predict import PredictionSettings, predict_mask


class Pointwise(nn.Module):
    """A network that knows no neighbours, so that tiles change nothing; it notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.description = SegmenterDescription("small", 8, "linear", ("a", "b", "c"), MEAN, STD, "none")
        self.classifier = nn.Conv2d(3, 4, 1)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return self.classifier(images)


def draw_image(height: int, width: int) -> np.ndarray:
    """Smooth blobs, with edges at many places."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 9 + 2, width // 9 + 2, generator=random)
    fine = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (fine * 255).byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("length", [1, 31, 96, 97, 128, 129, 300, 1000])
@pytest.mark.parametrize(("tile", "overlap"), [(96, 0), (96, 32), (128, 64)])
def test_tiles_cover_a_side_evenly_and_their_weights_sum_to_one(length: int, tile: int, overlap: int) -> None:
    spans = place_tiles(length, tile, overlap)
    end = spans[-1].slice.stop
    assert length <= end < length + ALIGNMENT
    total = np.zeros(end)
    for span in spans:
        assert (span.weights > 0).all()
        total[span.slice] += span.weights.numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert spans[0].start == 0
    assert all(span.start % ALIGNMENT == 0 for span in spans)
    if length <= tile:
        assert len(spans) == 1
        assert end == length
        return
    assert all(len(span.weights) == tile for span in spans)
    gaps = np.diff([span.start for span in spans])
    assert gaps.max() <= tile - overlap
    assert gaps.max() - gaps.min() <= ALIGNMENT


@pytest.mark.parametrize(("height", "width"), [(50, 70), (96, 200), (333, 97), (301, 259)])
@pytest.mark.parametrize("options", [{"overlap": 0}, {"overlap": 32, "batch_size": 2}, {"tile": 128, "overlap": 64}])
def test_tiles_change_nothing_for_a_network_without_context(height: int, width: int, options: dict) -> None:
    torch.manual_seed(0)
    network, image = Pointwise().eval(), draw_image(height, width)
    settings = PredictionOptions(**{"tile": 96, **options})
    mask, confidence = segment(network, image, settings)
    pixels = (image / 255 - np.array(MEAN)) / np.array(STD)
    weight = network.classifier.weight.detach().numpy()[:, :, 0, 0].astype(float)
    logits = pixels @ weight.T + network.classifier.bias.detach().numpy()
    odds = np.exp(logits)
    truth = odds / odds.sum(2, keepdims=True)
    assert mask.dtype == np.uint8
    assert confidence.dtype == np.float32
    assert len(np.unique(mask)) > 1
    np.testing.assert_allclose(confidence, truth.max(2), atol=1e-5)
    assert (mask == truth.argmax(2)).mean() > 0.9999
    assert max(shape[0] for shape in network.seen) <= settings.batch_size
    assert max(max(shape[2:]) for shape in network.seen) <= settings.tile


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.25)])
def test_far_from_the_borders_of_tiles_the_result_is_that_of_the_whole(scales: tuple[float, ...]) -> None:
    network, image = build(), draw_image(256, 480)
    whole, sure = segment(network, image, PredictionOptions(scales=scales))
    mask, confidence = segment(network, image, PredictionOptions(scales=scales, tile=192, overlap=64, batch_size=3))
    inner = np.ones((256, 480), bool)
    reach = 40  # what the small backbone sees around a pixel, enlarged by the smallest scale, and the interpolation
    for axis, length in enumerate(inner.shape):
        spans = place_tiles(length, 192, 64)
        borders = [slice(span.start, span.start + reach) for span in spans[1:]]
        borders += [slice(span.slice.stop - reach, span.slice.stop) for span in spans[:-1]]
        for near in borders:
            inner[near if axis == 0 else slice(None), near if axis == 1 else slice(None)] = False
    assert inner.mean() > 0.2
    np.testing.assert_allclose(confidence[inner], sure[inner], atol=1e-4)
    assert (mask == whole)[inner].mean() > 0.999
    assert (mask == whole).mean() > 0.97


def test_overlap_hides_the_borders_of_tiles() -> None:
    network, image = build(), draw_image(320, 416)
    _, sure = segment(network, image, PredictionOptions())
    distances = []
    for overlap in (0, 64):
        _, confidence = segment(network, image, PredictionOptions(tile=128, overlap=overlap))
        distances.append(np.abs(confidence - sure).mean())
    assert distances[1] < 0.7 * distances[0]


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), True), ((0.5, 1.0), False)])
def test_an_image_that_fits_a_tile_gets_the_mask_of_the_pipeline(scales: tuple[float, ...], flip: bool) -> None:
    network, image = build("deeplab_v2"), draw_image(75, 101)
    mask, _ = segment(network, image, PredictionOptions(scales=scales, flip=flip))
    assert (mask == predict_mask(network, image, PredictionSettings(scales=scales, flip=flip))).all()


def test_probabilities_of_a_large_image_are_never_held_at_once() -> None:
    """They would take 500 MB here."""
    script = """
import resource, numpy as np, torch
from rca.segmentation.network import SegmenterDescription
from rca.prediction.tiling import PredictionOptions, segment
class Constant(torch.nn.Module):
    def __init__(self):
        super().__init__()
        names = tuple(map(str, range(199)))
        self.description = SegmenterDescription("small", 8, "linear", names, (0, 0, 0), (1, 1, 1), "none")
        self.bias = torch.nn.Parameter(torch.arange(200.0) / 100)
    def forward(self, images):
        return self.bias[None, :, None, None].expand(len(images), 200, *images.shape[2:])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
image = np.zeros((10_000, 64, 3), np.uint8)
segment(Constant(), image[:256], PredictionOptions(tile=256, overlap=64))  # what torch itself takes
before = peak()
mask, confidence = segment(Constant(), image, PredictionOptions(tile=256, overlap=64))
assert (mask == 199).all()
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 150
