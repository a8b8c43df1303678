from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from rca.classifier.inference import predict_tags, score_batch, score_images
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.views import InferenceSettings, group_by_size
from rca.data.manifest import ImageRecord, Manifest

CLASSES = ("a", "b", "c")
STRIDE = 3


@pytest.fixture(scope="module")
def network() -> CamNetwork:
    torch.manual_seed(0)
    about = NetworkDescription(
        "small", 8, 0, "cam", "cam", {}, CLASSES, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "from scratch"
    )
    built = CamNetwork(about)
    for module in built.modules():  # statistics as a training would leave them, so that maps differ from one another
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    return built.eval()


def draw_images(number: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, height, width, 3)).astype(np.uint8)


def score_slowly(network: CamNetwork, image: np.ndarray, scales: list[float], flip: bool) -> tuple[list, list]:
    """One image, one view after another."""
    height, width = image.shape[:2]
    pixels = (image / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.25, 0.3])
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1)).float()[None]
    maps, logits = [], []
    for scale in scales:
        size = (round(height * scale), round(width * scale))
        for mirrored in [False, True] if flip else [False]:
            view = functional.interpolate(tensor, size, mode="bilinear", antialias=True)
            if mirrored:
                view = torch.flip(view, [3])
            with torch.no_grad():
                raw = network.method.host.classifier(network.backbone(view)[1])
            logits.append(raw[0].mean((1, 2)))
            if mirrored:
                raw = torch.flip(raw, [3])
            small = (-(-height // STRIDE), -(-width // STRIDE))
            maps.append(functional.interpolate(raw.clamp(min=0), small, mode="bilinear")[0])
    return maps, logits


def test_new_images_leave_the_batches_of_other_splits_alone() -> None:
    def place(number: int, *splits: str) -> ImageRecord:
        size = (40, 30) if number % 3 else (30, 40)
        return ImageRecord(f"{number:03}", "", None, *size, (0,), splits, "main", "")

    before = [place(number, "train") for number in range(11)] + [place(20, "val"), place(21, "train", "val")]
    after = [place(15, "val"), *before, *(place(number, "val") for number in range(100, 107))]
    batches, changed = (list(group_by_size(records, 4)) for records in (before, after))
    assert [batch for batch in batches if "train" in batch[0].splits] == [
        batch for batch in changed if "train" in batch[0].splits
    ]
    assert sorted(one.id for batch in changed for one in batch) == sorted(one.id for one in after)
    for batch in changed:
        assert len(batch) <= 4
        assert len({(one.splits, one.height, one.width) for one in batch}) == 1


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("scales", [[1.0], [0.5, 1.0, 1.75]])
def test_scores_are_the_sum_over_scales_and_mirrored_views(
    network: CamNetwork, scales: list[float], flip: bool
) -> None:
    images = draw_images(2, 37, 50)
    maps, logits = score_batch(network, images, InferenceSettings(scales=tuple(scales), flip=flip), STRIDE)
    assert maps.shape == (2, 3, 13, 17)
    for image, found, scores in zip(images, maps, logits, strict=True):
        expected_maps, expected_logits = score_slowly(network, image, scales, flip)
        torch.testing.assert_close(found, torch.stack(expected_maps).sum(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores, torch.stack(expected_logits).mean(0), rtol=1e-4, atol=1e-5)
    assert maps.max() > 0.05


def test_a_mirrored_image_has_mirrored_maps(network: CamNetwork) -> None:
    images = draw_images(1, 37, 50)
    settings = InferenceSettings(scales=(1.0, 1.5), flip=True)
    maps, logits = score_batch(network, images, settings, STRIDE)
    mirrored, mirrored_logits = score_batch(network, images[:, :, ::-1], settings, STRIDE)
    torch.testing.assert_close(mirrored.flip(3), maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mirrored_logits, logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(maps, maps.flip(3), atol=1e-3)


def write_dataset(root: Path) -> Manifest:
    """Seven images of three sizes, interleaved."""
    records = []
    for number in range(7):
        height, width = [(40, 48), (33, 41), (48, 40)][number % 3]
        name = f"image{number}"
        Image.fromarray(draw_images(number + 1, height, width)[0]).save(root / f"{name}.png")
        tags = [(), (1,), (0, 2)][number // 3]
        records.append(ImageRecord(name, f"{name}.png", None, width, height, tags, ("train",), "main", ""))
    return Manifest(root, CLASSES, tuple(records))


def test_only_the_maps_of_the_tags_are_kept(network: CamNetwork, tmp_path: Path) -> None:
    manifest, settings = write_dataset(tmp_path), InferenceSettings(scales=(1.0, 0.5))
    for record, maps in score_images(network, manifest, manifest.images, settings, 4):
        image = np.asarray(Image.open(manifest.photograph(record)))
        expected, logits = score_batch(network, image[None], settings, 4)
        np.testing.assert_allclose(maps.logits, logits[0], atol=1e-5)
        for tag, found in zip(record.tags, maps.scores, strict=True):
            one = expected[0, tag].numpy()
            np.testing.assert_allclose(found, one / (one.max() + 1e-5), atol=2e-3)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batching_does_not_change_scores(network: CamNetwork, tmp_path: Path, batch_size: int) -> None:
    manifest = write_dataset(tmp_path)

    def score(size: int) -> dict:
        settings = InferenceSettings(scales=(1.0,), batch_size=size)
        return {
            record.id: (record, maps) for record, maps in score_images(network, manifest, manifest.images, settings, 4)
        }

    alone, together = score(1), score(batch_size)
    assert alone.keys() == together.keys() == {record.id for record in manifest.images}
    for image_id, (record, maps) in together.items():
        np.testing.assert_allclose(maps.scores, alone[image_id][1].scores, atol=1e-3)
        np.testing.assert_allclose(maps.logits, alone[image_id][1].logits, atol=1e-5)
        assert maps.labels.tolist() == [tag + 1 for tag in record.tags]
        assert maps.scores.shape == (len(record.tags), -(-record.height // 4), -(-record.width // 4))
        assert maps.scores.dtype == np.float16


@pytest.mark.parametrize(
    ("logits", "threshold", "expected"),
    [
        ([2.0, -1.0, 0.0, 0.1], 0.5, (0, 2, 3)),  # a probability of exactly one half reaches it
        ([2.0, -1.0, 0.0, 0.1], 0.6, (0,)),
        ([2.0, -1.0, 0.0, 0.1], 0.25, (0, 1, 2, 3)),
        ([-3.0, -1.0, -2.0, -1.5], 0.5, (1,)),  # none reaches it: the most probable one
    ],
)
def test_predicted_tags_are_the_probable_classes(
    logits: list[float], threshold: float, expected: tuple[int, ...]
) -> None:
    assert predict_tags(np.array(logits, np.float32), threshold) == expected
    probable = tuple(index for index, one in enumerate(logits) if 1 / (1 + np.exp(-one)) >= threshold)
    assert not probable or probable == expected
