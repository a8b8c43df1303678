"""What `rca check` says that a project will take, held against what stages do and what DVC makes."""

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from stages import PREPARE, run_stages, shrink_preset, write_params

from rca.cli.estimate import Pace, count_items, estimate, estimate_disk, estimate_hours, list_jobs, read_paces
from rca.cli.preset import read_preset
from rca.core.errors import UserError
from rca.core.files import read_json
from rca.data.formats.published import COCO_2014, VOC_2012
from rca.data.formats.voc import VOC_CLASSES
from rca.data.manifest import ImageRecord, Manifest, read_manifest
from rca.params.instances import write_instances
from rca.params.read import read_params
from rca.pipeline.resolve import resolve_jobs
from rca.stages.base.pins import Instance

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.stem for path in (ROOT / "workflow/presets/published").glob("*.yaml"))
SHARDS = (0, 1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A project whose stages all ran, those of a random walk included, on a few small pictures."""
    folder, before = tmp_path_factory.mktemp("measured"), Path.cwd()
    os.chdir(folder)
    try:
        params = shrink_preset(train=5, val=3, epochs=2, batch_size=2)
        params.update(shards=list(SHARDS), runs=["cam"], seeds=[1])
        params["walk_scores"] = {"enabled": True}
        params["train_affinity"] = {
            "labels": {"crf": None},
            "optimisation": {"epochs": 3, "batch_size": 4},
            "augmentation": {"crop": 48},
        }
        write_params(params)
        stages = ("make_cam", "pin_scores", "train_affinity", "walk_scores", "choose_threshold", "make_pseudo")
        places = [
            Instance(stage, run="cam", seed=1, shard=shard)
            for stage in (*stages, "refine_crf")
            for shard in ((None,) if stage in ("train_affinity", "choose_threshold") else SHARDS)
        ]
        last = ("pin_masks", "train_seg", "predict_seg", "evaluate")
        run_stages(
            *PREPARE,
            Instance("fetch_weights", item="segmenter"),
            Instance("train_cam", run="cam", seed=1),
            *places,
            *(Instance(stage, run="cam", seed=1) for stage in last),
        )
        yield
    finally:
        os.chdir(before)


def test_jobs_have_the_items_that_were_counted(measured: None) -> None:
    settings, manifest = read_params(), read_manifest(Path("runs/shapes/data"))
    done, jobs = Counter[str](), Counter[str]()
    for path in Path("logs").glob("*.json"):
        told = read_json(path)
        done[told["stage"]] += told["items"]
        jobs[told["stage"]] += 1
    counted = 0
    for job in list_jobs(settings):
        items = count_items(job.stage, settings.described.get(str(job.run)), settings, manifest)
        if items is not None:
            assert (job.stage, job.number * items) == (job.stage, done[job.stage])
            assert jobs[job.stage] == job.number
            counted += 1
    assert counted == 10


def test_the_estimate_of_what_ran_is_what_it_took(measured: None) -> None:
    settings, manifest = read_params(), read_manifest(Path("runs/shapes/data"))
    hours = estimate_hours(settings, manifest, read_paces())
    took = sum(read_json(path)["seconds"] for path in Path("logs").glob("*.json"))
    assert hours.known == pytest.approx(took / 3600, rel=0.01, abs=0.05 / 3600)
    assert set(hours.unknown) == {"tabulate", "render_report"} & {job.stage for job in list_jobs(settings)}


def test_what_a_project_takes_is_told_in_four_lines(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, manifest = read_params(), read_manifest(Path("runs/shapes/data"))
    jobs, memory, hours, disk = estimate(settings, manifest)
    listed = list(list_jobs(settings))
    stages = {job.stage for job in listed}
    assert jobs == f"Jobs: {1 + sum(job.number for job in listed)} of {1 + len(stages)} stages."
    peak = max(read_json(path)["memory_mb"] for path in Path("logs").glob("*.json"))
    assert memory.startswith(f"Memory: the largest job reserves {max(job.mem_mb for job in listed):,} MB (train_")
    assert f"; the largest of those that ran here took {peak:,.0f} MB (" in memory
    assert re.match(
        r"Time: about \d+ s, one job after another, .* here; beside them at most 20 min by the limits", hours
    )
    assert "tabulate, render_report, which never ran here" in hours or "render_report, tabulate" in hours
    assert re.match(r"Disk: outputs and DVC's cache will take about 0\.0 GB; [\d.]+ GB are free\.", disk)
    with monkeypatch.context() as patch:
        patch.chdir("data")  # where nothing ran
        assert "Time: not known, since nothing ran here yet" in list(estimate(settings, manifest))[2]
        patch.setattr("rca.cli.estimate.estimate_disk", lambda *_: 1e18)
        with pytest.raises(UserError, match="The disk is too small for this pipeline: free space"):
            list(estimate(settings, manifest))


def test_the_disk_that_outputs_take(measured: None) -> None:
    need = estimate_disk(read_params(), read_manifest(Path("runs/shapes/data")))
    files = [path for path in Path("runs/shapes/cam").rglob("*") if path.is_file()]
    assert need / 2 == pytest.approx(sum(path.stat().st_blocks * 512 for path in files), rel=0.3)


def test_a_pace_is_that_of_items_and_a_fixed_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_paces() == {}
    Path("logs").mkdir()
    one = {"stage": "make_cam", "run": "cam", "memory_mb": 100.0}
    for number, (items, run) in enumerate([(10, "cam"), (20, "cam"), (30, "rca")]):
        took = {**one, "run": run, "items": items + 1, "item_seconds": 2.0 * items, "seconds": 5 + 2.0 * items}
        Path(f"logs/make_cam.{number}.json").write_text(json.dumps(took))
    Path("logs/make_cam.old.json").write_text(json.dumps({**one, "seconds": 3}))  # of an earlier version
    paces = read_paces()
    assert paces["make_cam", "cam"] == Pace(2, 10.0, 30, 60.0, 100.0)
    assert paces["make_cam", None].jobs == 3
    assert paces["make_cam", "cam"].estimate(101) == 205
    assert paces["make_cam", "cam"].estimate(None) == 35  # a job like those
    assert Pace(2, 10.0).estimate(7) == 5  # nothing but the fixed time


def draw_names(split: str, number: int, first: int) -> Iterator[ImageRecord]:
    """Records of photographs that do not exist, one or two tags each."""
    for one in range(first, first + number):
        name, tags = f"2012_{one:06d}", (one % 20,) if one % 2 else (one % 20, (one % 20 + 1) % 20)
        yield ImageRecord(
            name, f"{name}.jpg", f"{name}.png", 500, 375, tuple(sorted(tags)), (split,), "main", "", f"{name}.png"
        )


@pytest.fixture(scope="module")
def datasets() -> dict[str, Manifest]:
    """Datasets of VOC's and COCO's sizes."""
    voc = [
        *draw_names("trainaug", VOC_2012["trainaug"] - VOC_2012["train"], 0),
        *(record for record in draw_names("train", VOC_2012["train"], 20_000)),
        *draw_names("val", VOC_2012["val"], 30_000),
    ]
    both = [
        ImageRecord(*[("train", "trainaug") if key == "splits" else getattr(one, key) for key in one.__slots__])
        if "train" in one.splits
        else one
        for one in voc
    ]
    coco = [*draw_names("train", COCO_2014["train"], 0), *draw_names("val", COCO_2014["val"], 200_000)]
    return {
        "voc": Manifest(Path("data/voc2012"), VOC_CLASSES, tuple(both)),
        "coco": Manifest(Path("data/coco2014"), tuple(f"class {number}" for number in range(80)), tuple(coco)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_chains_are_planned_on_datasets_of_their_size(
    preset: str, datasets: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC resolves them to as many jobs; masks, maps and networks take what a count of their bytes gives."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    Path("params.yaml").write_text(read_preset(preset).text)
    for command in ("git init --quiet", "dvc init --quiet"):
        assert os.system(command) == 0
    settings, manifest = read_params(), datasets[preset.partition("_")[0]]
    write_instances(settings)
    found = Counter(re.split("@", job.name)[0] for job in resolve_jobs(Path()))
    expected = Counter(pin_stages=1)
    for job in list_jobs(settings):
        expected[job.stage] += job.number
    assert found == expected
    (run,) = settings.described.values()
    scored = len(manifest.select_any(run.sections["make_cam"].splits))
    cells = math.ceil(375 / 4) * math.ceil(500 / 4)
    maps = 2 * 1.5 * scored * cells * (2 if run.maps == "walked" else 1)
    masks = 0.02 * 500 * 375 * 2 * scored * len(run.made_masks)
    need = estimate_disk(settings, manifest) / 2 / len(settings.seeds)
    assert 0.9 * (maps + masks) < need < 1.5 * (maps + masks) + 2e9
    hours = estimate_hours(settings, manifest, read_paces())
    assert hours.known == 0
    assert {"train_cam", "train_seg"} <= set(hours.unknown)
    steps = count_items("train_cam", run, settings, manifest)
    training = run.sections["train_cam"]
    images = len(manifest.select(training.split))
    epochs, batch_size = training.optimisation.epochs, training.optimisation.batch_size
    assert steps in (epochs * (images // batch_size), epochs * math.ceil(images / batch_size))  # a last, single image
