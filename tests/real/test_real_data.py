"""What the real photographs and weights must give; skipped where they do not lie at $RCA_SHARED."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix

from rca.core.files import IGNORE, hash_file, read_mask, write_mask
from rca.core.settings import build_settings
from rca.data.formats.dataset import read_dataset
from rca.data.formats.voc import VocSettings
from rca.data.loading.images import normalise
from rca.data.manifest import Manifest
from rca.evaluation.mask_counts import MaskCounts, Truth
from rca.evaluation.metrics import Confusion
from rca.evaluation.scoring import score_folders
from rca.models.storage import load_tensors
from rca.models.weights import BackboneSettings, fetch_weights

ROOT = Path(__file__).parents[2]
SHARED = (ROOT / os.environ.get("RCA_SHARED", "../shared")).resolve()
MSRC, WEIGHTS = SHARED / "data/msrc", SHARED / "weights/mobilenet_v2.safetensors"

needs_msrc = pytest.mark.skipif(not MSRC.is_dir(), reason=f"{MSRC} does not exist: set RCA_SHARED")
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} does not exist: set RCA_SHARED")
# ImageNet's classes, by their place in its list, that show what an MSRC class names.
IMAGENET = {
    "dog": range(151, 269),
    "cat": range(281, 288),
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "sheep": [348, 349, 350],
    "aeroplane": [404, 895],
    "car": [407, 436, 468, 511, 609, 627, 654, 656, 661, 717, 751, 817],
}


@pytest.fixture(scope="module")
def msrc() -> Manifest:
    return read_dataset(MSRC, VocSettings(name="msrc", format="voc", splits=("train", "val")), workers=1)


@needs_msrc
def test_msrc_is_read_whole(msrc: Manifest) -> None:
    assert len(msrc.classes) == 15
    assert [len(msrc.select(split)) for split in ("train", "val")] == [277, 217]
    assert len(msrc.images) == 494
    for record in msrc.images[::37]:
        mask = np.asarray(Image.open(msrc.truth(record)))
        assert mask.shape == (record.height, record.width)
        assert set(np.unique(mask)) - {0, 255} == {tag + 1 for tag in record.tags}
        assert record.tags


@needs_msrc
def test_the_confusion_of_real_masks_is_that_of_an_independent_library(msrc: Manifest) -> None:
    """Every mask of msrc, moved a little and left open in places, against itself: the same count in every cell."""
    classes = len(msrc.classes)
    confusion, pairs = Confusion(classes), []
    for number, record in enumerate(msrc.images):
        truth = read_mask(msrc.truth(record))
        mask = np.roll(truth, (number % 7, -number % 5), (0, 1))
        mask[(mask == IGNORE) & (truth % 2 == 0)] = 1 + number % classes
        confusion.add(truth, mask)
        known = truth != IGNORE
        pairs.append((truth[known], np.where(mask == IGNORE, classes + 1, mask)[known]))
    truth, mask = (np.concatenate(one) for one in zip(*pairs, strict=True))
    expected = confusion_matrix(truth, mask, labels=range(classes + 2))
    assert truth.size > 2e7
    np.testing.assert_array_equal(confusion.counts, expected[:-1])
    assert (confusion.counts[:, :-1].diagonal() > 0).all()
    assert confusion.counts[:, -1].sum() > 1000


@needs_msrc
def test_real_masks_score_the_same_through_rca_score(msrc: Manifest, tmp_path: Path) -> None:
    """What `rca score` finds of masks on disk is what the counts in memory give."""
    counts = MaskCounts(len(msrc.classes))
    for record in msrc.select("val")[::3]:
        truth = read_mask(msrc.truth(record))
        mask = np.roll(truth, 4, 1)
        write_mask(tmp_path / f"{record.id}.png", mask)
        counts.add(Truth(truth), mask)
    (tmp_path / "list.txt").write_text("".join(f"{record.id}\n" for record in msrc.select("val")[::3]))
    scores = score_folders(
        [tmp_path], [MSRC / "SegmentationClass"], MSRC / "classes.txt", tmp_path / "list.txt", workers=2
    )
    assert scores.counts.summarise("exclude") == counts.summarise("exclude")
    np.testing.assert_array_equal(scores.counts.list_labels("exclude"), counts.list_labels("exclude"))


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    path = tmp_path_factory.mktemp("weights") / "out.safetensors"
    weights = {"source": "file", "path": str(WEIGHTS), "sha256": hash_file(WEIGHTS)}
    given = {"name": "mobilenet_v2", "weights": {**weights, "mean": [0.5] * 3, "std": [0.5] * 3}}
    fetch_weights(build_settings(BackboneSettings, given, "backbone", Path("params.yaml")), path)
    return load_tensors(path, "fetch_weights")


@needs_weights
def test_the_shared_weights_fit_the_backbone(fetched: tuple[dict, dict]) -> None:
    from rca.models.backbones import build_backbone

    build_backbone("mobilenet_v2", 16).load_state_dict(fetched[0], strict=True)
    assert fetched[1]["mean"] == [0.5] * 3


@needs_msrc
@needs_weights
@torch.no_grad()
def test_the_shared_weights_name_most_objects(msrc: Manifest, fetched: tuple[dict, dict]) -> None:
    """The backbone at its features' original positions, under the original classifier, names what photographs show."""
    from rca.models.backbones import build_backbone

    backbone = build_backbone("mobilenet_v2", 16).eval()
    backbone.load_state_dict(fetched[0])
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(load_file(WEIGHTS))
    right = total = 0
    for name, places in IMAGENET.items():
        tag = msrc.classes.index(name)
        for record in [record for record in msrc.images if record.tags == (tag,)][:8]:
            pixels = np.asarray(Image.open(msrc.photograph(record)).convert("RGB").resize((224, 224)))
            features = backbone(normalise(pixels, (0.5,) * 3, (0.5,) * 3)[None])[1][:, :, ::2, ::2]
            best = model.classifier(features.mean((2, 3)))[0].topk(5).indices.tolist()
            right += any(place in places for place in best)
            total += 1
    assert total > 30
    assert right > 0.7 * total
