"""Which edits of a dataset concern which stages and runs."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stages import locate, read_preset, run_stage, write_params

from rca.core.files import read_json
from rca.data.manifest import ImageRecord, Manifest, write_manifest
from rca.data.partition import write_parts

LAYOUT = locate("cam", dataset="tiny").dataset
# The host eps uses saliency maps; `web` is trained on an extra source.
RUNS: dict[str, dict[str, Any]] = {
    "cam": {},
    "eps": {"host": "eps"},
    "web": {"train_cam": {"sources": ["web"]}},
    "full": {"supervision": "masks"},
}
TRAININGS = {f"train_cam.{run}" for run in ("cam", "eps", "web")}
SEGMENTATION = {"train_seg", "pin_truth"}


@pytest.fixture
def whole(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Four images on train and val, all with saliency maps, and one of the source `web`, in a project."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    write_project()
    extra = replace(manifest.images[1], id="web.e5", splits=(), source="web")
    images = (*manifest.images, extra)
    maps = tuple(replace(one, saliency=f"{one.id}.png", saliency_sha256=f"of {one.id}") for one in images)
    return replace(manifest, images=maps)


def write_project(runs: Iterable[str] = RUNS, **changes: Any) -> None:
    params = read_preset()
    params["generate_data"]["train"] = 0
    params["dataset"] = {"name": "tiny", "format": "voc", "splits": ["train", "val"], "sources": {"web": {}}}
    params.update(runs=list(runs), run=RUNS)
    for section, values in changes.items():
        params[section].update(values)
    write_params(params)


def pin(manifest: Manifest) -> dict[str, Any]:
    """Run the stage on a manifest; its pins by dotted key."""
    LAYOUT.manifest.mkdir(parents=True, exist_ok=True)
    write_manifest(LAYOUT.manifest, manifest)
    write_parts(LAYOUT.manifest, manifest, [0, 1])
    assert run_stage("pin_images") == 0
    flat: dict[str, Any] = {}
    for key, value in read_json(LAYOUT.pinned_images).items():
        flat |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def edit(name: str, **changes: Any) -> Callable[[Manifest], Manifest]:
    """An edit of one image."""

    def apply(manifest: Manifest) -> Manifest:
        images = (replace(one, **changes) if one.id == name else one for one in manifest.images)
        return replace(manifest, images=tuple(images))

    return apply


def add(splits: tuple[str, ...], source: str = "main") -> Callable[[Manifest], Manifest]:
    """Another image."""

    def apply(manifest: Manifest) -> Manifest:
        new: ImageRecord = replace(manifest.images[0], id="n6", splits=splits, source=source)
        return replace(manifest, images=(*manifest.images, new))

    return apply


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (edit("a1", saliency_sha256="new"), {"train_cam.eps"}),
        (edit("d4", saliency_sha256="new"), set()),
        (edit("web.e5", saliency_sha256="new"), set()),
        (edit("a1", mask_sha256="new"), {"choose_threshold", "pin_truth"}),
        (edit("d4", mask_sha256="new"), set()),
        (edit("a1", tags=(1,)), TRAININGS | SEGMENTATION | {"choose_threshold"}),
        (edit("d4", sha256="new"), {"predict_seg.val"}),
        (edit("c3", sha256="new"), TRAININGS | SEGMENTATION | {"choose_threshold", "predict_seg.val"}),
        (edit("web.e5", sha256="new"), {"train_cam.web"}),
        (edit("a1", splits=("train", "extra")), set()),
        (add(("val",)), {"predict_seg.val"}),
        (add(("train",)), TRAININGS | SEGMENTATION | {"choose_threshold"}),
        (add((), source="web"), {"train_cam.web"}),
        (add((), source="film"), set()),
    ],
)
def test_an_edit_concerns_the_stages_and_runs_that_use_it(
    whole: Manifest, change: Callable[[Manifest], Manifest], changed: set[str]
) -> None:
    before = pin(whole)
    assert before.keys() == TRAININGS | SEGMENTATION | {"choose_threshold", "predict_seg.val"}
    assert pin(whole) == before
    after = pin(change(whole))
    assert {key for key in before if after[key] != before[key]} == changed


def test_a_source_changes_the_pin_of_a_run_that_takes_it(whole: Manifest) -> None:
    before = pin(whole)
    assert before["train_cam.web"] != before["train_cam.cam"]
    assert before["train_cam.eps"] != before["train_cam.cam"]
    write_project(train_cam={"sources": ["web"]})
    after = pin(whole)
    assert after["train_cam.cam"] == before["train_cam.web"]


def test_splits_that_nothing_uses_need_not_exist(whole: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    trained = tuple(replace(one, splits=("train",)) for one in whole.images[:3])
    alone = replace(whole, images=(*trained, whole.images[4]))
    LAYOUT.manifest.mkdir(parents=True)
    write_manifest(LAYOUT.manifest, alone)
    write_parts(LAYOUT.manifest, alone, [0, 1])
    assert run_stage("pin_images") == 2
    assert "No image belongs to the split val: the dataset's splits are train." in capsys.readouterr().err
    runs = ("cam", "eps", "web")
    write_project(runs, train_seg={"enabled": False}, evaluate={"segmentation": []})
    assert pin(alone).keys() == TRAININGS | {"choose_threshold"}
