"""What Python and notebooks see: predictions, and the score maps of a tagged image."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scored import PATHS, PLACE, build_project
from segmenters import write_model
from stages import run_stage

import rca
from rca.classifier.network import CamNetwork, NetworkDescription, save_network
from rca.core.errors import UserError
from rca.core.files import read_mask
from rca.data.partition import assign_shard
from rca.labels.score_maps import open_shard


def draw(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (45, 58, 3)).astype(np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> "rca.prediction.model.Model":
    return rca.load(write_model(tmp_path / "segmenter.safetensors"), "cpu")


def test_a_tensor_and_its_array_give_the_same_mask(model) -> None:
    array = draw()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = model.predict(array).mask
    assert (model.predict(tensor).mask == expected).all()
    assert (model.predict(tensor.float() / 255).mask == expected).all()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(1, 3, 4, 4), r"\(1, 3, 4, 4\)"),
        (torch.zeros(3, 0, 4), r"\(3, 0, 4\)"),
        (torch.full((3, 4, 4), 2.0), "0..1"),
        (torch.full((3, 4, 4), torch.nan), "0..1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
    ],
)
def test_other_tensors_are_refused(model, tensor: torch.Tensor, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        model.predict(tensor)


def test_several_images_give_a_list_in_their_order(model) -> None:
    images = [draw(1), draw(2)]
    for given in (images, tuple(images)):
        found = model.predict(given, flip=False)
        assert [list(each.mask.ravel()) for each in found] == [
            list(model.predict(image, flip=False).mask.ravel()) for image in images
        ]


def test_a_prediction_shows_and_saves_itself(model, tmp_path: Path) -> None:
    prediction = model.predict(draw())
    assert (prediction.photograph == draw()).all()
    shown = Image.open(BytesIO(prediction._repr_png_()))
    assert shown.tobytes() == prediction.overlay().tobytes()
    prediction.save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png") == prediction.mask).all()
    assert repr(prediction).startswith("Prediction(58x45: ")
    for name in prediction.classes:
        assert f"{name} {prediction.areas[name] / prediction.mask.size:.1%}" in repr(prediction)
    drawn = prediction.plot().axes
    assert (drawn[1].images[0].get_array() == prediction.confidence).all()
    assert "3 classes: a, b, c" in repr(model)


def test_score_maps_are_those_of_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = build_project(make_cam={"stride": 1})
    assert run_stage("make_cam", **PLACE, shard=0) == 0
    record = next(record for record in manifest.images if assign_shard(record.id, 2) == 0)
    names = [manifest.classes[tag] for tag in record.tags]
    scored = rca.cam(PATHS.network, manifest.photograph(record), names, "cpu", scales=(1.0,), flip=True)
    with open_shard(PATHS.maps_of(0, "scores")) as shard:
        expected = shard.read(record.id)
    assert scored.tags == tuple(names)
    assert scored.maps == pytest.approx(expected.scores, abs=2e-3)  # the shard has 16-bit floats
    logits = torch.from_numpy(expected.logits)[list(record.tags)]
    assert scored.probabilities == pytest.approx(logits.sigmoid().numpy(), abs=1e-5)
    assert len(scored.plot().axes) == len(names)
    assert repr(scored) == f"ScoredImage({record.width}x{record.height}: {', '.join(names)})"


def test_a_tag_that_the_network_does_not_know_is_named(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    about = NetworkDescription("small", 16, 0, "cam", "cam", {}, ("cat", "cow"), (0.5,) * 3, (0.5,) * 3, "x", 1, {})
    save_network(path, CamNetwork(about))
    with pytest.raises(UserError, match=r"'dog' is no class of .*network\.safetensors: choose from cat, cow\."):
        rca.cam(path, draw(), ["dog"])
    with pytest.raises(UserError, match="No tag is given"):
        rca.cam(path, draw(), [])
    assert rca.cam(path, draw(), "cow").tags == ("cow",)
