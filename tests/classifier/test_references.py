from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rca.classifier.inference import score_images
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.references import References, ReferenceSettings
from rca.classifier.views import InferenceSettings, encode_views
from rca.core.files import read_photograph
from rca.data.loading.features import FeatureCache, FeatureWriter
from rca.data.loading.images import normalise
from rca.data.manifest import ImageRecord, Manifest
from rca.labels.score_maps import ScoreMaps

CLASSES = ("a", "b", "c", "d")
# Class d is shown by image 6 alone; image 2 has no tag.
TAGS = ((0,), (0, 1), (), (0, 2), (1, 2), (0, 1, 2), (2, 3), (0,))
SIZES = ((40, 48), (33, 41), (48, 40))
STRIDE = 3
VIEWS = InferenceSettings(scales=(1.0, 0.5), flip=True, batch_size=3)


def build_network(host: str) -> CamNetwork:
    torch.manual_seed(0)
    options = {"affinity": {"form": "cosine", "temperature": 0.1}}
    about = NetworkDescription("small", 8, 9, host, "mcis", options, CLASSES, (0.4,) * 3, (0.2,) * 3, "from scratch")
    built = CamNetwork(about)
    for module in built.modules():  # statistics as a training would leave them, so that maps differ from one another
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    return built.eval()


@pytest.fixture(scope="module")
def network() -> CamNetwork:
    return build_network("cam")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    records = []
    for number, tags in enumerate(TAGS):
        (height, width), name = SIZES[number % 3], f"image{number}"
        Image.fromarray(random.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(root / f"{name}.png")
        records.append(ImageRecord(name, f"{name}.png", None, width, height, tags, ("train",), "main", ""))
    return Manifest(root, CLASSES, tuple(records))


def build(
    network: CamNetwork,
    manifest: Manifest,
    cache: FeatureCache | None = None,
    **settings: float,
) -> References:
    return References(network, manifest, ReferenceSettings(**settings), "float32", cache)


def score(
    network: CamNetwork, manifest: Manifest, references: References | None, inference: InferenceSettings = VIEWS
) -> dict[str, ScoreMaps]:
    found = score_images(network, manifest, manifest.images, inference, STRIDE, None, references)
    return {record.id: maps for record, maps in found}


def compare(found: dict[str, ScoreMaps], expected: dict[str, ScoreMaps], atol: float = 2e-3) -> None:
    assert found.keys() == expected.keys()
    for image_id, maps in found.items():
        np.testing.assert_allclose(maps.scores, expected[image_id].scores, atol=atol)
        np.testing.assert_allclose(maps.logits, expected[image_id].logits, atol=atol / 10)


def test_references_show_the_class_and_are_other_images(network: CamNetwork, manifest: Manifest) -> None:
    references = build(network, manifest, number=2)
    for record in manifest.images:
        for tag in record.tags:
            others = [one for one in manifest.images if tag in one.tags and one != record]
            chosen = references.choose(record, tag)
            assert len(chosen) == len({one.id for one in chosen}) == min(2, len(others))
            assert all(one in others for one in chosen)


def test_references_depend_on_the_image_and_the_class_alone(network: CamNetwork, manifest: Manifest) -> None:
    few, many = build(network, manifest, number=2), build(network, manifest, number=4)
    shuffled = build(network, replace(manifest, images=manifest.images[::-1]), number=2)
    drawn = set()
    for record in manifest.images:
        for tag in record.tags:
            chosen = few.choose(record, tag)
            assert shuffled.choose(record, tag) == chosen
            assert many.choose(record, tag)[: len(chosen)] == chosen
            drawn.add((tag, tuple(one.id for one in chosen)))
    assert len(drawn) > 8  # images of a class do not all have the same


def test_all_other_images_are_drawn_equally_often(network: CamNetwork, manifest: Manifest) -> None:
    record = manifest.images[0]
    crowd = tuple(replace(record, id=f"n{number}") for number in range(5))
    references = build(network, replace(manifest, images=crowd), number=2)
    counts = dict.fromkeys((one.id for one in crowd), 0)
    for number in range(2000):
        for one in references.choose(replace(record, id=f"x{number}"), 0):
            counts[one.id] += 1
    assert all(abs(count - 800) < 3 * (2000 * 0.4 * 0.6) ** 0.5 for count in counts.values()), counts


def test_images_with_unsure_tags_are_no_references(network: CamNetwork, manifest: Manifest) -> None:
    doubtful = tuple(replace(one, weight=0.5) if one.id == "image4" else one for one in manifest.images)
    references = build(network, replace(manifest, images=doubtful), number=9)
    assert [one.id for one in references.choose(manifest.images[1], 1)] == ["image5"]


def score_slowly(network: CamNetwork, manifest: Manifest, references: References, record: ImageRecord) -> Tensor:
    """The maps of an image's tags (K, h, w): one view, one class, one reference after another."""

    def encode(one: ImageRecord, scale: float = 1.0, mirrored: bool = False) -> Tensor:
        image = normalise(read_photograph(manifest.photograph(one)), (0.4,) * 3, (0.2,) * 3)[None]
        size = (round(one.height * scale), round(one.width * scale))
        image = functional.interpolate(image, size, mode="bilinear", antialias=True)
        return network.neck(network.backbone(image.flip(3) if mirrored else image)[1])

    size = (-(-record.height // STRIDE), -(-record.width // STRIDE))
    weight, temperature = network.method.affinity.weight, 0.1
    kept = []
    for tag in record.tags:
        alone, beside = torch.zeros(size), torch.zeros(size)
        for scale in (1.0, 0.5):
            for mirrored in (False, True):
                features = encode(record, scale, mirrored)
                found = []
                for one in references.choose(record, tag) or [None]:
                    other = features if one is None else encode(one)
                    queries = functional.normalize(torch.einsum("dk,ndyx->nkyx", weight, features), dim=1)
                    logits = torch.einsum("ndyx,ndba->nyxba", queries, functional.normalize(other, dim=1)) / temperature
                    shares = logits.flatten(3).softmax(3).view_as(logits)
                    found.append(network.host(torch.einsum("nyxba,ndba->ndyx", shares, other))[0, tag])
                for total, one in ((alone, network.host(features)[0, tag]), (beside, sum(found) / len(found))):
                    one = one.flip(1) if mirrored else one
                    total += functional.interpolate(one.relu()[None, None], size, mode="bilinear")[0, 0]
        share = references.settings.share
        mixed = (1 - share) * alone / (alone.max() + 1e-5) + share * beside / (beside.max() + 1e-5)
        kept.append(mixed / (mixed.max() + 1e-5))
    return torch.stack(kept) if kept else torch.zeros(0, *size)


@pytest.mark.parametrize("share", [0.3, 1.0])
@torch.no_grad()
def test_maps_equal_a_loop_over_references(network: CamNetwork, manifest: Manifest, share: float) -> None:
    references = build(network, manifest, number=3, share=share)
    found = score(network, manifest, references)
    for record in manifest.images:
        expected = score_slowly(network, manifest, references, record)
        np.testing.assert_allclose(found[record.id].scores, expected.numpy(), atol=3e-3)


def test_without_references_the_image_is_scored_alone(network: CamNetwork, manifest: Manifest) -> None:
    alone = score(network, manifest, None)
    compare(score(network, manifest, build(network, manifest, share=0)), alone)
    beside = score(network, manifest, build(network, manifest, share=1))
    for record in manifest.images:
        np.testing.assert_allclose(beside[record.id].logits, alone[record.id].logits, atol=1e-5)
        assert not record.tags or np.abs(beside[record.id].scores - alone[record.id].scores).max() > 0.05


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batches_and_the_order_of_images_do_not_matter(
    network: CamNetwork, manifest: Manifest, batch_size: int
) -> None:
    usual = score(network, manifest, build(network, manifest))
    inference = VIEWS.model_copy(update={"batch_size": batch_size})
    compare(score(network, manifest, build(network, manifest), inference), usual)
    backwards = replace(manifest, images=manifest.images[::-1])
    compare(score(network, backwards, build(network, backwards)), usual)


def test_a_small_memory_changes_nothing(network: CamNetwork, manifest: Manifest) -> None:
    generous, tight = build(network, manifest), build(network, manifest, memory_mb=0.003)
    compare(score(network, manifest, tight), score(network, manifest, generous))
    sizes = [sum(one.nbytes for one in each._kept.values()) for each in (generous, tight)]
    assert 0 < sizes[1] <= 0.003 * 2**20 < sizes[0]


def test_cached_features_serve_as_references(network: CamNetwork, manifest: Manifest, tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path)
    for record in manifest.images:
        image = normalise(read_photograph(manifest.photograph(record)), (0.4,) * 3, (0.2,) * 3)[None]
        for view, one in zip(
            VIEWS.views, encode_views(lambda x: network.backbone(x)[1], image, VIEWS.views, ""), strict=True
        ):
            writer.add(record.id, view, one[0])
    writer.flush()
    cache = FeatureCache(tmp_path)
    references = build(network, manifest, cache=cache)
    found = score_images(network, manifest, manifest.images, VIEWS, STRIDE, cache, references)
    compare({record.id: maps for record, maps in found}, score(network, manifest, build(network, manifest)), atol=1e-2)


@torch.no_grad()
def test_the_host_refines_the_maps_beside_references_as_well(manifest: Manifest) -> None:
    """SEAM's pixel correlation, by hand for one view."""
    network = build_network("seam")
    references, inference = build(network, manifest, share=1), InferenceSettings(scales=(1.0,), flip=False)
    found = score(network, manifest, references, inference)
    for record in manifest.images[:4]:
        image = normalise(read_photograph(manifest.photograph(record)), (0.4,) * 3, (0.2,) * 3)[None]
        tags = torch.from_numpy(manifest.encode_tags(record))[None]
        features, levels = network.encode(image)
        output = network.score(features, torch.ones_like(features[:, :1]), levels, tags)
        beside = output._replace(maps=references.gather([record]).score(network.method, output), refined=None)
        refined = network.host.refine(beside, levels, tags).refined[0, list(record.tags)]
        size = found[record.id].scores.shape[1:]
        refined = functional.interpolate(refined[None], size, mode="bilinear")[0] if record.tags else refined
        expected = [(one - one.min()) / (one.max() - one.min() + 1e-5) for one in refined]
        for one, other in zip(found[record.id].scores, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=3e-3)


def test_the_work_grows_linearly_with_the_references(
    network: CamNetwork, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, seen = [], network.method.score_beside
    monkeypatch.setattr(network.method, "score_beside", lambda own, *rest: scored.append(len(own)) or seen(own, *rest))
    crowd = replace(manifest, images=tuple(replace(one, tags=(0, 1)) for one in manifest.images))
    for number in (1, 3, 5):
        scored.clear()
        score(network, crowd, build(network, crowd, number=number))
        assert sum(scored) == number * 2 * len(crowd.images) * len(VIEWS.views)
        assert max(scored) <= VIEWS.batch_size
