"""The stage that writes score maps, on a few small pictures and a network with random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scored import PATHS, PLACE, build_project
from stages import run_stage

from rca.classifier import inference
from rca.classifier.inference import score_images
from rca.classifier.network import load_network
from rca.data.partition import assign_shard
from rca.labels import score_maps
from rca.labels.score_maps import open_shard


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(score_maps, "PART_SIZE", 3)


def make_cam() -> Path:
    """Run the stage on the first shard and return where that lies."""
    assert run_stage("make_cam", **PLACE, shard=0) == 0
    return PATHS.maps_of(0, "scores")


def test_a_stopped_shard_goes_on_where_it_was_and_ends_with_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = build_project(make_cam={"predicted_tags": {"splits": ["val"]}})
    path = make_cam()
    whole = path.read_bytes()
    path.unlink()
    ids = [record.id for record in manifest.images if assign_shard(record.id, 2) == 0]
    assert len(ids) > 5
    read, opened = inference.read_photograph, []

    def stop(photograph: Path) -> np.ndarray:
        if len(opened) == 5:
            raise KeyboardInterrupt
        opened.append(photograph)
        return read(photograph)

    monkeypatch.setattr(inference, "read_photograph", stop)
    with pytest.raises(KeyboardInterrupt):
        make_cam()
    assert not path.exists()
    opened.clear()
    monkeypatch.setattr(inference, "read_photograph", lambda photograph: opened.append(photograph) or read(photograph))
    make_cam()
    assert path.read_bytes() == whole
    assert len(set(opened)) == len(ids) - 4  # a part of two batches of two was kept
    assert "4 images were scored before" in Path("logs/make_cam.cam-0-0.log").read_text()
    assert not list(Path(".rca/checkpoints").iterdir())


def test_parts_of_other_settings_are_not_taken_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    build_project()
    monkeypatch.setattr(score_maps.ShardWriter, "finish", lambda *_: None)
    make_cam()
    first = list(Path(".rca/checkpoints").iterdir())
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("  stride: 2\n", "  stride: 3\n"))
    make_cam()
    second = list(Path(".rca/checkpoints").iterdir())
    assert len(first) == len(second) == 1
    assert first != second


def test_images_are_scored_with_predicted_tags_where_they_are_asked_for() -> None:
    manifest = build_project(make_cam={"predicted_tags": {"splits": ["val"], "threshold": 0.501}})
    with open_shard(make_cam()) as shard:
        assert shard.about == {
            "stride": 2,
            "tags": "given",
            "predicted_tags": {"splits": ["val"], "threshold": 0.501},
        }
        network = load_network(PATHS.network, {})
        differing = 0
        for image_id in shard.ids:
            record = manifest.images[manifest.index[image_id]]
            given = shard.read(image_id)
            assert given.labels.tolist() == [tag + 1 for tag in record.tags]
            assert shard.has_predicted(image_id) == (record.splits == ("val",))
            if not shard.has_predicted(image_id):
                continue
            probable = np.flatnonzero(1 / (1 + np.exp(-given.logits)) >= 0.501)
            tags = tuple(probable.tolist()) if len(probable) else (int(given.logits.argmax()),)
            settings = inference.InferenceSettings(scales=(1.0,))
            ((_, expected),) = score_images(network, manifest, (replace(record, tags=tags),), settings, 2)
            found = shard.read(image_id, "predicted")
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
            differing += found.labels.tolist() != given.labels.tolist()
        assert differing


def test_the_default_keeps_no_maps_of_predicted_tags() -> None:
    build_project()
    with open_shard(make_cam()) as shard:
        assert shard.about == {"stride": 2, "tags": "given"}
        assert not any(shard.has_predicted(image_id) for image_id in shard.ids)
        assert not any(name.startswith("predicted_maps") for name in shard.file.entries)
