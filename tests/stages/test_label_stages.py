"""From score maps to masks, by the stages themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stages import locate, prepare, read_preset, write_params

from rca.core.errors import UserError
from rca.core.files import read_json, read_mask, read_photograph
from rca.data.manifest import Manifest, write_manifest
from rca.data.partition import write_parts
from rca.data.segments import write_segments
from rca.labels.background import build_background, label_pixels
from rca.labels.crf import CrfSettings, refine_mask, score_labels
from rca.labels.score_maps import ScoreMaps, enlarge, write_shard
from rca.labels.segments import FelzenszwalbSettings, find_superpixels
from rca.stages.base.layout import MaskKind
from rca.stages.base.stage import load_stage

SALIENCY = {"kind": "saliency", "conflict": 0.8, "smallest": 0.3}
BAND = {"kind": "two_thresholds", "low": 0.3, "high": 0.6}
CONSTANT = {"kind": "constant", "threshold": 0.4}
CRF = {"iterations": 3, "gaussian_sxy": 1, "bilateral_sxy": 20, "bilateral_weight": 4}
NAMES = ("a1", "b2", "c3", "d4")
PLACE: dict[str, Any] = {"run": "cam", "seed": 0}


class Project:
    """Four images in one shard, and the stages that make masks of their score maps."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.maps = manifest, {}
        for seed, record in enumerate(manifest.images):
            random = np.random.default_rng(seed)
            labels = np.array([tag + 1 for tag in record.tags], np.uint8)
            scores = random.beta(0.6, 0.6, (len(labels), -(-record.height // 4), -(-record.width // 4)))
            self.maps[record.id] = ScoreMaps(labels, scores.astype(np.float16), np.zeros(3, np.float32))
        self.paths = locate(**PLACE, dataset="tiny")
        Path("runs/tiny/data").mkdir(parents=True)
        write_manifest(Path("runs/tiny/data"), manifest)
        write_parts(Path("runs/tiny/data"), manifest, [0])
        self.write_maps(self.maps)

    def write_maps(self, maps: dict[str, ScoreMaps], predicted: dict[str, ScoreMaps] | None = None) -> None:
        write_shard(self.paths.maps_of(0, "scores"), maps, {"stride": 4}, predicted or {})

    def run(self, background: dict[str, Any], walk: bool = False, **refine: Any) -> dict[str, Any]:
        """Run the three stages; the thresholds."""
        params = read_preset()
        params.update(dataset={"name": "tiny", "format": "voc", "splits": ["train", "val"]}, runs=["cam"], shards=[0])
        params["generate_data"]["train"] = 0
        params["walk_scores"] = {"enabled": walk}
        params["choose_threshold"] = {"background": background, "candidates": 9}
        params["refine_crf"] = {"crf": {**CRF, **refine.pop("crf", {})}, **refine}
        write_params(params)
        self.run_stage("choose_threshold")
        self.make_masks()
        return read_json(self.paths.threshold)

    def make_masks(self) -> None:
        for stage in ("make_pseudo", "refine_crf"):
            self.run_stage(stage, shard=0)

    def run_stage(self, stage: str, **shard: int) -> None:
        load_stage(stage).run(*prepare(stage, **PLACE, **shard))

    def read(self, kind: MaskKind, name: str, choice: str) -> np.ndarray:
        return read_mask(self.paths.masks_of(kind) / f"0/{choice}/{name}.png")


@pytest.fixture
def project(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    records = []
    for seed, record in enumerate(manifest.images):
        saliency = np.random.default_rng(seed).choice(
            np.array([0, 20, 90, 255], np.uint8), (record.height, record.width)
        )
        Image.fromarray(saliency).save(manifest.root / f"{record.id}.png")
        records.append(replace(record, saliency=f"{record.id}.png"))
    return Project(replace(manifest, images=tuple(records)))


@pytest.mark.parametrize("background", [CONSTANT, BAND, SALIENCY], ids=lambda one: one["kind"])
def test_pseudo_labels_follow_the_background_at_both_thresholds(project: Project, background: dict[str, Any]) -> None:
    thresholds = project.run(background)
    way = build_background(thresholds["background"])
    assert thresholds["fixed"] == way.find_threshold() != thresholds["best"]
    differs = False
    for record in project.manifest.images:
        one = project.maps[record.id]
        scores = enlarge(one.scores, record.height, record.width)
        saliency = np.array(Image.open(project.manifest.saliency(record)))
        for choice in ("best", "fixed"):
            found = project.read("pseudo", record.id, choice)
            np.testing.assert_array_equal(found, way.label(scores, one.labels, thresholds[choice], saliency))
            differs |= bool((found != label_pixels(scores, one.labels, thresholds[choice])).any())
    assert differs == (background != CONSTANT)


def test_masks_are_made_of_maps_that_have_walked_where_they_have(project: Project) -> None:
    project.maps = {name: one._replace(scores=one.scores**2) for name, one in project.maps.items()}
    write_shard(project.paths.maps_of(0, "walked"), project.maps, {"stride": 4, "walk": {}})
    thresholds = project.run(CONSTANT, walk=True)
    record = project.manifest.images[0]
    one = project.maps[record.id]
    scores = enlarge(one.scores, record.height, record.width)
    expected = label_pixels(scores, one.labels, thresholds["best"])
    np.testing.assert_array_equal(project.read("pseudo", record.id, "best"), expected)
    probabilities = np.concatenate([np.full((1, *expected.shape), thresholds["best"], np.float32), scores])
    labels = np.array([0, *one.labels], np.uint8)
    refined = refine_mask(
        read_photograph(project.manifest.photograph(record)), probabilities, labels, CrfSettings(**CRF)
    )
    np.testing.assert_array_equal(project.read("refined", record.id, "best"), refined)


@pytest.mark.parametrize("background", [BAND, SALIENCY], ids=lambda one: one["kind"])
def test_the_crf_fills_what_a_mask_leaves_open(project: Project, background: dict[str, Any]) -> None:
    project.run(background, crf={"unary": "labels"})
    crf = CrfSettings(**CRF, unary="labels")
    for record in project.manifest.images:
        pseudo, found = (project.read(kind, record.id, "fixed") for kind in ("pseudo", "refined"))
        labels = np.array([0, *project.maps[record.id].labels], np.uint8)
        if (pseudo == 255).all() or len(labels) == 1:
            np.testing.assert_array_equal(found, pseudo)
            continue
        photograph = read_photograph(project.manifest.photograph(record))
        expected = refine_mask(photograph, score_labels(pseudo, labels, 0.7), labels, crf)
        np.testing.assert_array_equal(found, expected)
        assert set(np.unique(found)) <= set(labels)


def test_the_crf_on_scores_takes_the_background_of_the_way(project: Project) -> None:
    thresholds = project.run(SALIENCY)
    way = build_background(thresholds["background"])
    record = project.manifest.images[0]
    one, photograph = project.maps["a1"], read_photograph(project.manifest.photograph(record))
    scores = enlarge(one.scores, record.height, record.width)
    own = way.score(scores, thresholds["best"], np.array(Image.open(project.manifest.saliency(record))))
    expected = refine_mask(
        photograph, np.concatenate([own[None], scores]), np.array([0, *one.labels], np.uint8), CrfSettings(**CRF)
    )
    np.testing.assert_array_equal(project.read("refined", "a1", "best"), expected)


@pytest.mark.parametrize("unary", ["scores", "labels"])
def test_masks_of_predicted_tags_are_those_that_such_tags_would_give(project: Project, unary: str) -> None:
    """Images a1 and b2 have predictions: of a1 one class that it does not have, of b2 its own tags."""
    one = project.maps["a1"]
    scores = np.random.default_rng(9).beta(0.6, 0.6, (1, *one.scores.shape[1:])).astype(np.float16)
    wrong = next(label for label in (1, 2, 3) if label not in one.labels)
    predicted = {"a1": one._replace(labels=np.array([wrong], np.uint8), scores=scores), "b2": project.maps["b2"]}
    given = project.maps

    def refine(maps: dict[str, ScoreMaps], predicted: dict[str, ScoreMaps]) -> None:
        project.write_maps(maps, predicted)
        thresholds = read_json(project.paths.threshold)
        project.make_masks()
        assert read_json(project.paths.threshold) == thresholds

    project.run(SALIENCY, crf={"unary": unary})
    refine({**given, "a1": predicted["a1"]}, {})  # as if a1 had been given what is predicted
    expected = {choice: project.read("refined", "a1", choice) for choice in ("best", "fixed")}
    refine(given, predicted)
    for choice, mask in expected.items():
        np.testing.assert_array_equal(project.read("refined", "a1", f"{choice}_predicted_tags"), mask)
        own = project.read("refined", "b2", choice)
        np.testing.assert_array_equal(project.read("refined", "b2", f"{choice}_predicted_tags"), own)
        folder = project.paths.masks_of("refined") / f"0/{choice}_predicted_tags"
        assert {path.stem for path in folder.iterdir()} == {"a1", "b2"}
    assert (expected["best"] != project.read("refined", "a1", "best")).any()


def vote_slowly(segments: np.ndarray, mask: np.ndarray, shares: np.ndarray, labels: list[int]) -> np.ndarray:
    """Pixel by pixel, with a majority of half."""
    refined = mask.copy()
    for number in set(segments.flat) - {0}:
        inside = segments == number
        support = [sum(float(value) for value in of_label[inside]) for of_label in shares]
        best = max(range(len(labels)), key=support.__getitem__)
        refined[inside] = labels[best] if support[best] > 0.5 * sum(support) else 255
    return refined


@pytest.mark.parametrize("votes", ["labels", "scores"])
def test_stored_segments_vote_in_the_place_of_the_crf(project: Project, votes: str) -> None:
    folder = project.manifest.root / "SAM"
    folder.mkdir()
    stored = {}
    for number, record in enumerate(project.manifest.images):
        rows, columns = np.indices((record.height, record.width))
        stored[record.id] = (rows // 7 * 40 + columns // 9).astype(np.uint16)  # the first one is 0: no segment
        if number % 2:
            np.savez_compressed(folder / f"{record.id}.npz", stored[record.id])
        else:
            Image.fromarray(stored[record.id]).save(folder / f"{record.id}.png")
    write_segments(Path("runs/tiny/data"), project.manifest, "SAM", [0])
    thresholds = project.run(BAND, segments={"kind": "stored", "votes": votes})
    changed = 0
    for record in project.manifest.images:
        maps = project.maps[record.id]
        labels = [0, *maps.labels.tolist()]
        pseudo = project.read("pseudo", record.id, "fixed")
        scores = enlarge(maps.scores, record.height, record.width).astype(np.float64)
        background = build_background(BAND).score(scores, thresholds["fixed"], None)
        shares = np.stack([background, *scores]) if votes == "scores" else np.stack([pseudo == one for one in labels])
        shares = shares / np.maximum(shares.sum(0), 1e-8)
        found, expected = (
            project.read("refined", record.id, "fixed"),
            vote_slowly(stored[record.id], pseudo, shares, labels) if len(labels) > 1 else pseudo,
        )
        assert (found != expected).mean() < 0.02  # a tie may break either way
        changed += int((found != pseudo).sum())
    assert changed > 100


def test_superpixels_need_nothing_but_the_photograph(project: Project) -> None:
    project.run(CONSTANT, segments={"kind": "felzenszwalb", "scale": 10, "smallest": 4}, workers=2)
    record = project.manifest.images[0]
    photograph = read_photograph(project.manifest.photograph(record))
    segments = find_superpixels(photograph, FelzenszwalbSettings(kind="felzenszwalb", scale=10, smallest=4))
    refined, labels = project.read("refined", record.id, "best"), [0, 1]
    pseudo = project.read("pseudo", record.id, "best")
    shares = np.stack([pseudo == one for one in labels])
    np.testing.assert_array_equal(refined, vote_slowly(segments, pseudo, shares, labels))


def test_an_image_without_segments_is_named(project: Project) -> None:
    (project.manifest.root / "SAM").mkdir()
    write_segments(Path("runs/tiny/data"), project.manifest, "SAM", [0])
    with pytest.raises(UserError, match=r"The image a1 has no segments: add them to the folder that dataset\.segments"):
        project.run(CONSTANT, segments={"kind": "stored"})


def test_an_image_that_is_open_everywhere_stays_so(project: Project) -> None:
    project.run({**SALIENCY, "smallest": 0.99})
    for name in NAMES:
        assert (project.read("pseudo", name, "fixed") == 255).all()
        assert (project.read("refined", name, "fixed") == 255).all()


def test_the_number_of_workers_changes_nothing(project: Project) -> None:
    masks = []
    for workers in (1, 2):
        project.run(CONSTANT, workers=workers)
        masks.append([path.read_bytes() for path in sorted(project.paths.masks_of("refined").rglob("*.png"))])
    assert len(masks[0]) == 8
    assert masks[0] == masks[1]
