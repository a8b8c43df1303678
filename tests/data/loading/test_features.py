"""Training and scoring on the kept features of a frozen backbone equals computing them each time, up to float16."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from stages import locate, read_preset, run_stages, write_params
from torch import Tensor, nn

from rca.classifier.inference import score_images
from rca.classifier.losses import compute_losses_of_features
from rca.classifier.network import CamNetwork, NetworkDescription, load_network
from rca.classifier.views import InferenceSettings, encode_views
from rca.core.errors import UserError
from rca.core.files import hash_file, read_photograph
from rca.core.settings import load_params
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.features import FeatureCache, FeatureWriter, TrainingFeatures, View, list_training_views
from rca.data.loading.images import Sample, TrainingImages, make_loader, normalise
from rca.data.manifest import Manifest, read_manifest
from rca.data.partition import assign_shard
from rca.labels.score_maps import open_shard
from rca.models.storage import load_tensors
from rca.params.instances import list_instances
from rca.params.read import read_params
from rca.stages.base.pins import Instance
from rca.stages.cache_features import drop_leftovers, group_by_views
from rca.training.optimisation import OptimisationSettings
from rca.training.trainer import Trainer

MEAN, STD = (0.5,) * 3, (0.25,) * 3
OPTIONS = {
    "memory": {"size": 5, "gate": 0.0},
    "contrast": {"weight": 0.3, "reduction": "mean", "projection": "none"},
    "aggregation": {"form": "softmax", "similarity": "cosine", "temperature": 0.1, "prototypes": 2},
    "head": {"convolutions": 0},
}
WHOLE = AugmentationSettings(flip=True)
VIEWS = InferenceSettings(scales=(1.0, 0.6), batch_size=2)


def build() -> CamNetwork:
    torch.manual_seed(0)
    about = NetworkDescription("small", 8, 9, "cam", "rca", OPTIONS, ("cat", "dog", "cow"), MEAN, STD, "somewhere")
    network = CamNetwork(about)
    for module in network.modules():  # statistics as a training would leave them
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    network.backbone.requires_grad_(False)
    return network.eval()


def fill_cache(directory: Path, manifest: Manifest, backbone: nn.Module) -> FeatureCache:
    directory.mkdir(exist_ok=True)
    writer = FeatureWriter(directory, 20_000)
    for record in manifest.images:
        image = normalise(read_photograph(manifest.photograph(record)), MEAN, STD)
        for view, features in zip(
            VIEWS.views, encode_views(lambda one: backbone(one)[1], image[None], VIEWS.views, ""), strict=True
        ):
            writer.add(record.id, view, features[0])
    writer.flush()
    return FeatureCache(directory)


class FeaturesEachTime(TrainingImages):
    """The reference: the frozen backbone encodes every training image again."""

    backbone: nn.Module

    @torch.no_grad()
    def __getitem__(self, key: tuple[int, int]) -> Sample:
        sample = super().__getitem__(key)
        features = self.backbone(sample.image[None])[1][0]
        size = features.shape[1:]
        down, across = (pixels / cells for pixels, cells in zip(sample.image.shape[1:], size, strict=True))
        frame = sample.frame * torch.tensor([across, 1, down, 1])  # a cell in place of a pixel
        return sample._replace(
            image=torch.empty(0),
            features=features,
            valid=torch.ones(1, *size),
            mask=torch.full(size, 255),
            frame=frame,
        )


def build_datasets(manifest: Manifest, network: CamNetwork, directory: Path, seed: int = 3) -> list[TrainingImages]:
    reference = FeaturesEachTime(manifest, manifest.images, WHOLE, MEAN, STD, seed)
    reference.backbone = network.backbone
    cache = fill_cache(directory, manifest, network.backbone)
    return [reference, TrainingFeatures(manifest, manifest.images, WHOLE, seed, cache)]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-3 * float(expected.abs().max()) + 1e-6)


@pytest.mark.parametrize(("size", "files"), [(1, 6), (60, 5), (1e6, 1)])
def test_files_are_read_by_safetensors_itself(tmp_path: Path, size: float, files: int) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, writer = {}, FeatureWriter(tmp_path, size)
    for number, view in enumerate([View(1.0, False), View(1.0, True), View(0.5, False)]):
        for image_id in ("a.b", "c"):
            features = torch.randn(3, number + 1, 5, generator=generator)  # 30 bytes and more
            writer.add(image_id, view, features)
            wanted[image_id, view] = features
    writer.flush()
    paths = list(tmp_path.iterdir())
    tensors = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert len(paths) == files
    assert set(tensors) == {f"{name}/{end}" for name in ("a.b", "c") for end in ("1.0", "1.0/mirrored", "0.5")}
    assert torch.equal(tensors["a.b/1.0/mirrored"], wanted["a.b", View(1.0, True)].half())
    cache = FeatureCache(tmp_path)
    assert len(cache) == 6
    for (image_id, view), features in wanted.items():
        assert torch.equal(cache.read(image_id, view), features.half().float())
    with pytest.raises(UserError, match=r"holds no features c/2\.0: run cache_features again"):
        cache.read("c", View(2.0, False))


@pytest.mark.parametrize("value", [7e4, float("nan")])
def test_features_beyond_float16_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(UserError, match="features of a exceed float16"):
        FeatureWriter(tmp_path).add("a", View(1.0, False), torch.full((1, 2, 2), value))


def test_unreadable_features_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone does not exist: run cache_features first"):
        FeatureCache(tmp_path / "gone")
    (tmp_path / "0.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"0\.safetensors is broken .*: run cache_features again"):
        FeatureCache(tmp_path)


def test_each_image_is_cached_at_the_requested_views(manifest: Manifest) -> None:
    flips, small = list_training_views(WHOLE), (View(0.5, False),)
    found = group_by_views(manifest.images, [("train", flips), ("val", small), ("val", flips[:1])])
    named = {views: [record.id for record in records] for views, records in found.items()}
    assert named == {
        flips: ["a1", "b2"],
        (View(0.5, False), *flips): ["c3"],
        (View(0.5, False), View(1.0, False)): ["d4"],
    }
    assert list_training_views(AugmentationSettings(flip=False)) == (View(1.0, False),)


def test_cached_features_equal_those_of_the_augmented_image(manifest: Manifest, tmp_path: Path) -> None:
    reference, cached = build_datasets(manifest, build(), tmp_path / "kept")
    for epoch in range(6):
        for number in range(len(manifest.images)):
            one, two = reference[epoch, number], cached[epoch, number]
            close(two.features, one.features)
            assert one.image.numel() == two.image.numel() == 0
            for name in ("valid", "tags", "mask", "position", "frame"):
                assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.allclose(cached[0, 0].features, cached[0, 0].features.flip(2), atol=1e-3)


def test_features_of_other_sizes_are_padded_as_images_are(manifest: Manifest, tmp_path: Path) -> None:
    _, cached = build_datasets(manifest, build(), tmp_path / "kept")
    loader, _ = make_loader(cached, 4, 1)
    loader.multiprocessing_context = "forkserver"  # a process that takes nothing over opens the files itself
    batch = next(iter(loader))
    assert batch.features.shape[2:] == batch.valid.shape[2:] == batch.mask.shape[1:] == (7, 7)
    for row, position in enumerate(batch.position.tolist()):
        height, width = -(-manifest.images[position].height // 8), -(-manifest.images[position].width // 8)
        assert batch.valid[row].sum() == batch.valid[row, :, :height, :width].sum() == height * width
        assert not batch.features[row][:, batch.valid[row, 0] == 0].any()


def test_a_training_on_cached_features_equals_one_on_features_computed_each_time(
    manifest: Manifest, tmp_path: Path
) -> None:
    settings = OptimisationSettings(
        optimiser="sgd", epochs=4, batch_size=2, learning_rate=1e-2, backbone_learning_rate=1.0, freeze_batchnorm=False
    )
    trained, histories = [], []
    for number in range(2):
        network = build()
        images = build_datasets(manifest, network, tmp_path / "kept")[number]
        device = torch.device("cpu")

        def start_epoch(epoch: int, network: CamNetwork = network) -> None:
            network.method.start_epoch(epoch, seed=1)

        trainer = Trainer(
            network=network,
            backbone=network.backbone,
            settings=settings,
            seed=3,
            device=device,
            compute_losses=compute_losses_of_features,
            start_epoch=start_epoch,
        )
        histories.append(trainer.fit(*make_loader(images, 2, 0)))
        trained.append(network)
    fresh = build().backbone.state_dict()
    for network in trained:
        assert all(torch.equal(tensor, fresh[name]) for name, tensor in network.backbone.state_dict().items())
    for one, two in zip(*histories, strict=True):
        assert one.keys() >= {"loss_classification", "loss_auxiliary", "loss_contrast"} or one["epoch"] < 3
        assert two == pytest.approx(one, rel=5e-3)
    bank = trained[1].method.memory
    photographs = torch.tensor([(record.width, record.height) for record in manifest.images])
    corners = bank.box[bank.filled()].view(-1, 2, 2)
    assert len(corners) > 4
    assert (corners >= 0).all()
    assert (corners <= photographs[bank.image[bank.filled()]][:, None]).all()
    before = build().state_dict()
    for name, expected in trained[0].state_dict().items():
        if name.startswith(("neck", "method.host", "method.main_head")):
            close(trained[1].state_dict()[name] - before[name], expected - before[name])
            assert not torch.equal(expected, before[name])


def test_scores_from_cached_features_equal_those_from_images(manifest: Manifest, tmp_path: Path) -> None:
    network = build()
    cache = fill_cache(tmp_path / "kept", manifest, network.backbone)
    found = {record.id: maps for record, maps in score_images(network, manifest, manifest.images, VIEWS, 4, cache)}
    expected = {record.id: maps for record, maps in score_images(network, manifest, manifest.images, VIEWS, 4)}
    assert found.keys() == expected.keys() == {record.id for record in manifest.images}
    for image_id, maps in expected.items():
        np.testing.assert_allclose(found[image_id].scores, maps.scores, atol=3e-3)
        np.testing.assert_allclose(found[image_id].logits, maps.logits, rtol=2e-3, atol=1e-4)
    assert max(maps.scores.max(initial=0) for maps in expected.values()) > 0.9


# --- the stages

PATHS = locate("rca", dataset="mine")
FEATURES = PATHS.dataset.runs / "classifier"
PREPARE = (Instance("prepare_data"), Instance("pin_images"))
CACHE = tuple(Instance("cache_features", shard=shard) for shard in (0, 1))
TRAIN = Instance("train_cam", run="rca", seed=0)
SCORE = tuple(Instance("make_cam", run="rca", seed=0, shard=shard) for shard in (0, 1))


def write_project(make_voc: Callable[..., Path], backbone: dict) -> None:
    """A project on the small dataset with a pretrained MobileNet, in the current directory."""
    Path("data").mkdir()
    shutil.move(make_voc(), "data/mine")
    torch.manual_seed(0)
    save_file(torchvision.models.mobilenet_v2(weights=None).state_dict(), "w.safetensors")
    params = read_preset()
    params.update(generate_data={}, dataset={"name": "mine", "format": "voc", "splits": ["train", "val"]})
    params["train_cam"]["backbone"] = {
        "name": "mobilenet_v2",
        "weights": {"source": "file", "path": "w.safetensors", "sha256": hash_file(Path("w.safetensors"))},
        **backbone,
    }
    params["train_cam"]["augmentation"] = {"scale": [1.0, 1.0], "crop": None}
    params["train_cam"]["optimisation"].update(epochs=2, batch_size=2)
    write_params(params)


@pytest.fixture
def project(make_voc: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")

    def build(**backbone: object) -> None:
        write_project(make_voc, backbone)
        run_stages(*PREPARE, Instance("fetch_weights", item="classifier"), *CACHE)

    return build


def test_the_stages_train_and_score_on_cached_features(project: Callable[..., None]) -> None:
    project(trainable="none")
    manifest = read_manifest(Path("runs/mine/data"))
    ends = ("1.0", "1.0/mirrored", "1.5", "1.5/mirrored")
    for part, ids in (("train/features", {"a1", "b2", "c3"}), ("other", {"d4"})):
        for shard in (0, 1):
            kept = {name for path in (FEATURES / part / str(shard)).iterdir() for name in load_file(path)}
            assert kept == {f"{one}/{end}" for one in ids if assign_shard(one, 2) == shard for end in ends}
    run_stages(TRAIN, Instance("snapshot_memory", run="rca", seed=0), *SCORE)
    network = load_network(PATHS.network, load_tensors(PATHS.memory, "")[0])
    initial = load_tensors(PATHS.dataset.weights("classifier"), "")[0]
    assert all(torch.equal(tensor, initial[name]) for name, tensor in network.backbone.state_dict().items())
    settings = InferenceSettings(scales=(1.0, 1.5))
    for record, expected in score_images(network, manifest, manifest.images, settings, 2):
        with open_shard(PATHS.maps_of(assign_shard(record.id, 2), "scores")) as shard:
            found = shard.read(record.id)
        np.testing.assert_allclose(found.scores, expected.scores, atol=5e-3)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=5e-3, atol=1e-3)


def test_extra_images_are_cached_for_training_and_as_references(
    project: Callable[..., None],
) -> None:
    project(trainable="none")
    root, params = Path("data/mine"), load_params(Path("params.yaml"))
    (root / "web/images").mkdir(parents=True)
    for number in range(3):
        shutil.copy(root / "JPEGImages/a1.jpg", root / f"web/images/e{number}.jpg")
    (root / "web/tags.csv").write_text("id,tags\ne0,cat\ne1,cat;dog\ne2,dog\n")
    params["dataset"]["sources"] = {"web": {}}
    params["run"]["rca"].update(method="mcis", options={"self_pairs": "itself"}, train_cam={"sources": ["web"]})
    write_params(params)
    run_stages(*PREPARE, *CACHE)
    kept = {name for path in (FEATURES / "train/features").rglob("*.safetensors") for name in load_file(path)}
    assert {name for name in kept if name.startswith("web.")} == {
        f"web.e{number}/{end}" for number in range(3) for end in ("1.0", "1.0/mirrored")
    }
    run_stages(TRAIN, SCORE[0])
    assert Path("logs/train_cam.rca-0.log").read_text().startswith("6 images, ")


def test_a_new_image_leaves_the_features_that_are_trained_on_alone(project: Callable[..., None]) -> None:
    project(trainable="none")
    before = {path: path.read_bytes() for path in FEATURES.rglob("*.safetensors")}
    root = Path("data/mine")
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        shutil.copy(root / folder / f"a1.{suffix}", root / folder / f"n6.{suffix}")  # of the size of one trained on
    with open(root / "ImageSets/Segmentation/val.txt", "a") as file:
        file.write("n6\n")
    run_stages(*PREPARE, CACHE[assign_shard("n6", 2)])
    after = {path: path.read_bytes() for path in FEATURES.rglob("*.safetensors")}
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {FEATURES / f"other/{assign_shard('n6', 2)}/0.safetensors"}


def test_removed_shards_leave_no_features(tmp_path: Path) -> None:
    for name in ("0", "1", "7", ".0.stopped", ".1.at-work"):
        (tmp_path / name).mkdir()
    drop_leftovers(tmp_path / "0", [0, 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".1.at-work", "0", "1"]


def test_a_trained_backbone_leaves_nothing_to_keep(project: Callable[..., None]) -> None:
    project(trainable="none")
    assert {path.name for path in FEATURES.iterdir()} == {"train", "other"}
    params = load_params(Path("params.yaml"))
    params["train_cam"]["backbone"]["trainable"] = "last_stage"
    write_params(params)
    assert list_instances(read_params())["cache_features"]["shards"] == []
    run_stages(TRAIN)
    kept = [path.relative_to(FEATURES).as_posix() for path in FEATURES.rglob("*") if path.is_file()]
    assert kept == ["train/weights.safetensors"]
    assert [path.name for path in FEATURES.iterdir()] == ["train"]
