"""The real pipeline on a very small dataset, under both engines: what runs again, and what a person sees."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from PIL import Image
from projects import RealProject, build_real, copy_project, is_running, wait_until

from rca.cli.main import main
from rca.data.shapes.dataset import generate_shapes

NOTHING = "Nothing to be done"
CLEAN = "Data and pipelines are up to date."
OF_RUN = ["evaluate", "predict_seg", "train_seg"]
# What git, DVC and Snakemake put beside outputs.
SMALL_FILES = {".gitignore", ".snakemake_timestamp", "measurements.js"}  # which DVC leaves alone
END = ["render_report", "tabulate"]


def list_stages(run: str, *stages: str, shards: int = 1) -> list[str]:
    """DVC's names of a run's stages."""
    per_shard = {"make_cam", "make_pseudo", "refine_crf", "relabel_masks"}
    names = [f"{stage}@{run}-0" for stage in stages if stage not in per_shard]
    return names + [f"{stage}@{run}-0-{shard}" for stage in stages if stage in per_shard for shard in range(shards)]


def list_after(run: str, first: str, shards: int = 1) -> list[str]:
    """Those of a run from one of its stages on."""
    order = ["train_cam", "snapshot_memory", "make_cam", "choose_threshold", "make_pseudo", "refine_crf", "pin_masks"]
    order += ["train_seg", "predict_seg", "evaluate"]
    after = order[order.index(first) :]
    return list_stages(run, *after, shards=shards)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in SMALL_FILES)


def check_settled(project: RealProject) -> None:
    """Neither engine has anything to do."""
    project.list_ran()
    assert NOTHING in project.snakemake()
    assert CLEAN in project.repro()
    assert project.list_ran() == []


# --- what runs again


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["repro", "snakemake"])
def test_a_crf_parameter_reruns_the_crf_and_what_follows(real, engine):
    real.set_params({"refine_crf.crf.bilateral_sxy": 3, "refine_crf.crf.gaussian_weight": 0})
    getattr(real, engine)()
    expected = [name for run in ("cam", "rca") for name in list_after(run, "refine_crf")]
    assert real.list_ran() == sorted([*expected, *END])

    changed = json.loads(real.run("dvc", "params", "diff", "--json"))
    assert set(changed["params.yaml"]) == {"refine_crf.crf.bilateral_sxy", "refine_crf.crf.gaussian_weight"}
    stages = {key.split(".")[0] for key in changed["runs/pins.json"]}
    assert stages == {"refine_crf", "render_report"}  # the stages that depend on it
    differences = json.loads(real.run("dvc", "metrics", "diff", "--json"))
    metrics = {metric for file in differences.values() for metric in file}
    assert set(differences) == {"results/shapes/cam-0.json", "results/shapes/rca-0.json"}
    assert any(metric.startswith("refined.") for metric in metrics)
    assert not any(metric.startswith(("seed.", "pseudo.", "classification.")) for metric in metrics)


@pytest.mark.slow
def test_a_parameter_of_one_run_leaves_the_other_alone(real):
    real.set_params({"run.rca.options.contrast.weight": 0.2})
    real.repro()
    ran = real.list_ran()
    assert "train_cam@rca-0" in ran
    assert set(ran) <= {*list_after("rca", "train_cam"), *END}


@pytest.mark.slow
def test_an_edit_reruns_what_imports_the_module(real):
    file = real.path / "rca/report/build.py"
    file.write_text(file.read_text() + "\n# edited\n")
    real.snakemake()
    assert real.list_ran() == ["render_report"]

    file = real.path / "rca/methods/parts/contrast.py"
    file.write_text(file.read_text() + "\n# edited\n")
    real.repro()
    # Retrained to the same bytes: what does not run the method's code is spared.
    assert real.list_ran() == sorted(list_stages("rca", "train_cam", "snapshot_memory", "make_cam"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["repro", "snakemake"])
def test_late_stages_can_be_switched_off(real, engine):
    off = {"refine_crf.enabled": False, "train_seg.enabled": False}
    real.set_params({**off, "evaluate.refined": [], "evaluate.segmentation": []})
    real.refresh()
    getattr(real, engine)()
    assert real.list_ran() == sorted(["evaluate@cam-0", "evaluate@rca-0", "pin_images", *END])
    root = real.path / "runs/shapes/rca/0"
    assert not [path for name in ("masks/refined", "predictions") for path in (root / name).rglob("*.png")]
    assert "segmentation" not in (real.path / "results/shapes/table.md").read_text()
    check_settled(real)
    shutil.rmtree(root)
    real.repro()
    assert real.list_ran() == []
    check_settled(real)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["repro", "snakemake"])
def test_full_supervision_is_a_run_beside_the_others(real, engine):
    real.edit("params.yaml", "runs: [cam, rca]", "runs: [cam, full, rca]")
    real.set_params({"run.full": {"supervision": "masks"}})
    real.refresh()
    getattr(real, engine)()
    of_full = list_stages("full", "pin_truth", "train_seg", "predict_seg", "evaluate")
    assert real.list_ran() == sorted([*of_full, *END])
    with open(real.path / "results/shapes/table.csv", encoding="utf-8") as file:
        shares = {row["run"]: row["mean"] for row in csv.DictReader(file) if row["metric"].endswith("weak_over_full")}
    metrics = {run: json.loads((real.path / f"results/shapes/{run}-0.json").read_text()) for run in ("full", *shares)}
    assert set(metrics["full"]) == {"segmentation"}
    whole = metrics["full"]["segmentation"]["val"]["miou"]
    assert {run: float(share) for run, share in shares.items()} == {
        run: pytest.approx(metrics[run]["segmentation"]["val"]["miou"] / whole, abs=1e-5) for run in ("cam", "rca")
    }
    check_settled(real)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["repro", "snakemake"])
def test_rounds_are_runs_that_learn_from_one_another(real, engine):
    """The second and the third round, a run that shares the masks of cam, and an ensemble."""
    real.edit("params.yaml", "runs: [cam, rca]", "runs: [cam, rca, second, third, shared, both]")
    second = {"masks_from": "cam", "train_seg": {"masks": "relabelled"}}
    real.set_params({"run.second": second, "run.third": {"base": "second", "masks_from": "second"}})
    real.set_params({"run.shared": {"masks_from": "cam"}, "evaluate.relabelled": ["train"]})
    real.set_params({"run.both": {"averages": {"runs": ["cam", "rca"]}}})
    real.refresh()
    getattr(real, engine)()
    of_round = ("relabel_masks", "pin_masks", *OF_RUN)
    rounds = {run: list_stages(run, *of_round) for run in ("second", "third")}
    shared = list_stages("shared", "pin_masks", *OF_RUN)
    of_all = [f"evaluate@{run}-0" for run in ("cam", "rca")]  # which have another list of what is scored
    both = ["pin_maps@cam-0-both-0-0", "pin_maps@rca-0-both-0-0", "average_maps@both-0-0"]
    both += list_after("both", "choose_threshold")
    assert real.list_ran() == sorted([*rounds["second"], *rounds["third"], *shared, *both, *of_all, *END])
    runs = real.path / "runs/shapes"
    # The run that shares masks trains the same network as their owner, with the same seed.
    histories = [(runs / run / "0/train_seg.csv").read_text() for run in ("cam", "shared", "second")]
    assert histories[0] == histories[1] != histories[2]
    metrics = {run: json.loads((real.path / f"results/shapes/{run}-0.json").read_text()) for run in rounds}
    assert all(set(one) == {"relabelled", "segmentation"} for one in metrics.values())
    check_settled(real)
    # Another third round leaves the second alone.
    real.set_params({"run.third.relabel_masks": {"prediction": {"scales": [0.5]}}})
    getattr(real, engine)()
    assert set(real.list_ran()) <= {*rounds["third"], *END}
    check_settled(real)


@pytest.mark.slow
def test_both_engines_leave_the_same_record(real, tmp_path_factory):
    project = build_real(tmp_path_factory.mktemp("fresh"), real.path)
    project.snakemake()
    stages = project.list_ran()
    assert {"generate_data@shapes", "prepare_data", "fetch_weights@classifier", *END} <= set(stages)
    assert len(stages) == len(set(stages)) == len(project.read_lock()) - 1  # pin_stages ran in the main process
    assert project.read_lock() == real.read_lock()  # `dvc repro` made that one
    check_settled(project)
    check_settled(real)


@pytest.mark.slow
def test_fewer_shards_leave_nothing_behind(real, real_template):
    real.set_params({"shards": [0, 1]})
    real.snakemake()
    ran = real.list_ran()
    assert set(ran) >= {
        *list_stages("cam", "make_cam", "make_pseudo", "refine_crf", shards=2),
        *list_stages("rca", "make_cam", "make_pseudo", "refine_crf", shards=2),
    }
    # The masks are the same, so nothing is retrained.
    assert not {stage.partition("@")[0] for stage in ran} & {"train_cam", "train_affinity", "train_seg"}
    check_settled(real)

    real.set_params({"shards": [0]})
    real.snakemake()
    check_settled(real)
    for run in ("cam", "rca"):
        for folder, name in (("maps", "0"), ("masks/pseudo", "0"), ("masks/refined", "0")):
            assert list_names(real.path / "runs/shapes" / run / "0" / folder) == [name]
    recorded, expected = real.read_lock(), real_template.read_lock()
    assert {name: recorded[name] for name in expected} == expected


@pytest.mark.slow
def test_a_removed_run_leaves_nothing_behind(real, tmp_path_factory):
    real.set_params({"runs": ["cam"]})
    real.snakemake()
    assert real.list_ran() == sorted(["pin_images", *END])  # nothing of run cam
    check_settled(real)
    assert list_names(real.path / "results/shapes") == ["cam-0.csv", "cam-0.json", "table.csv", "table.md", "table.tex"]
    assert list_names(real.path / "runs/shapes/evaluation") == ["cam-0"]
    for suffix in ("csv", "md", "tex"):
        assert "rca" not in (real.path / f"results/shapes/table.{suffix}").read_text()
    assert "runs/shapes/rca/0/model/network.safetensors" in real.rca("clean", "--delete")
    assert not list((real.path / "runs/shapes/rca").rglob("*.safetensors"))
    check_settled(real)

    scratch = build_real(tmp_path_factory.mktemp("scratch"), real.path)
    scratch.set_params({"runs": ["cam"]})
    scratch.refresh()
    scratch.repro()
    recorded, expected = real.read_lock(), scratch.read_lock()
    assert {name: recorded[name] for name in expected} == expected


@pytest.mark.slow
def test_a_run_that_lost_its_memory_takes_up_no_old_snapshot(real):
    real.set_params({"run.rca.method": "cam", "run.rca.options": {}})
    real.snakemake()
    assert list_names(real.path / "runs/shapes/rca/0/model") == ["network.safetensors"]
    check_settled(real)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["snakemake", "repro"])
def test_deleted_outputs_come_back_from_the_cache(real, engine):
    def read_all() -> dict[str, bytes]:
        files = [path for folder in ("runs", "data") for path in (real.path / folder).rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files if path.name not in SMALL_FILES}

    before = read_all()
    shutil.rmtree(real.path / "runs")
    shutil.rmtree(real.path / "data")
    getattr(real, engine)()
    # Snakemake takes away the tables, which git keeps and no cache.
    assert real.list_ran() == (["tabulate"] if engine == "snakemake" else [])
    assert read_all() == before
    check_settled(real)


@pytest.mark.slow
def test_an_older_revision_comes_back(real):
    real.set_params({"refine_crf.crf.bilateral_sxy": 3, "refine_crf.crf.gaussian_weight": 0})
    real.snakemake()
    real.commit("other CRF")
    for revision in ("HEAD~1", "-"):
        real.run("git", "checkout", "-q", revision)
        real.run("dvc", "checkout", "-q")
        check_settled(real)
        assert real.run("git", "status", "--short") == ""


@pytest.mark.slow
def test_a_killed_run_loses_only_the_unfinished_training(real, real_template, tmp_path_factory):
    changes = {"refine_crf.crf.gaussian_weight": 0, "train_seg.optimisation.epochs": 60}
    real.set_params(changes)
    process = real.start("snakemake", "--cores", "2", "--resources", "gpu=2")
    checkpoints = real.path / ".rca/checkpoints"
    training = {"train_seg.cam", "train_seg.rca"}
    wait_until(lambda: {path.name.partition("-")[0] for path in checkpoints.glob("*.pt")} >= training, 300)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(is_running(child) for child in children))
    reached = ("refine_crf", "pin_masks", "train_seg")
    assert real.list_ran() == sorted(list_stages("cam", *reached) + list_stages("rca", *reached))

    real.snakemake()
    assert real.list_ran() == sorted([*(f"{stage}@{run}-0" for stage in OF_RUN for run in ("cam", "rca")), *END])
    for run in ("cam", "rca"):
        assert "resuming after epoch" in (real.path / f"logs/train_seg.{run}-0.log").read_text()
    assert not list(checkpoints.iterdir())
    check_settled(real)

    straight = copy_project(real_template, tmp_path_factory.mktemp("straight"))
    straight.set_params(changes)
    straight.repro()
    assert real.read_lock() == straight.read_lock()


# --- bad input


def own_dataset(project: RealProject) -> Path:
    """Point the project at a dataset that is not generated, and return its folder."""
    root = project.path / "data/photos"
    generate_shapes(root, train=4, val=2, size=48, seed=0)
    project.set_params({"generate_data": {}, "dataset.name": "photos"})
    return root


def add_unknown_key(project: RealProject) -> None:
    project.set_params({"train_cam.optimisation.epoch": 3})


def go_out_of_range(project: RealProject) -> None:
    project.set_params({"train_cam.optimisation.learning_rate": -1})


def lose_root(project: RealProject) -> None:
    shutil.rmtree(own_dataset(project))


def empty_split(project: RealProject) -> None:
    (own_dataset(project) / "ImageSets/Segmentation/val.txt").write_text("\n")


def shrink_mask(project: RealProject) -> None:
    mask = own_dataset(project) / "SegmentationClass/train_00002.png"
    Image.open(mask).resize((40, 30)).save(mask)


def truncate_photograph(project: RealProject) -> None:
    picture = own_dataset(project) / "JPEGImages/train_00002.png"
    photograph = picture.with_suffix(".jpg")
    Image.open(picture).save(photograph)
    picture.unlink()
    photograph.write_bytes(photograph.read_bytes()[:-200])


PIN = ("pin_stages", "runs/shapes/cam/0/model/network.safetensors", ("train_cam", "--run", "cam", "--seed", "0"))
PREPARE = ("prepare_data", "runs/photos/data", ("prepare_data",))
# What goes wrong, the stage that meets it (by name, output and command), and the sentence.
FAULTS = {
    "unknown key": (add_unknown_key, PIN, "train_cam.optimisation.epoch is an unknown key: remove it"),
    "value out of range": (go_out_of_range, PIN, "train_cam.optimisation.learning_rate is -1: input should be"),
    "no root": (lose_root, PREPARE, "The dataset's root data/photos does not exist: link it"),
    "empty split": (
        empty_split,
        PREPARE,
        "No image belongs to the split val in data/photos/ImageSets/Segmentation/val.txt",
    ),
    "wrong size": (
        shrink_mask,
        PREPARE,
        "The mask data/photos/SegmentationClass/train_00002.png is 40x30, its photograph 48x48",
    ),
    "truncated": (
        truncate_photograph,
        PREPARE,
        "The photograph data/photos/JPEGImages/train_00002.jpg is broken (image file is truncated",
    ),
}


def check_nothing_half_written(project: RealProject, output: str, before: bytes | None = None) -> None:
    """An output is not there, or is still the one from before."""
    path = project.path / output
    assert not path.exists() or (path.is_file() and path.read_bytes() == before)
    assert not [sibling for sibling in path.parent.glob(".*") if sibling.name != ".gitignore"]


def check_one_sentence(text: str, sentence: str) -> None:
    assert sentence in text
    assert text.count("error:") == 1
    assert "Traceback" not in text


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence_of_the_command(real, fault, monkeypatch, capfd):
    break_it, (_, output, command), sentence = FAULTS[fault]
    break_it(real)
    (real.path / "runs/shapes/cam/0/model/network.safetensors").unlink()
    monkeypatch.chdir(real.path)
    for arguments in (("check",), command):
        assert main(arguments) == 2
        shown = capfd.readouterr()
        assert shown.err.startswith("error: ")
        check_one_sentence(shown.out + shown.err, sentence)  # `rca check` lists a dataset's faults before it fails
        check_nothing_half_written(real, output)


@pytest.mark.parametrize(
    "fault", [name if name == "truncated" else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_bad_input_shows_under_both_engines(real, fault):
    break_it, (stage, output, command), sentence = FAULTS[fault]
    break_it(real)
    path = real.path / output
    before = path.read_bytes() if path.is_file() else None
    text = real.rca(*command, code=2)
    check_one_sentence(text, sentence)
    sentences = {"dvc": sentence, "snakemake": sentence}
    if fault == "no root":  # both engines look for a stage's inputs before they start it
        missing = "data/photos, which stage prepare_data reads, does not exist: put it there"
        sentences = {"dvc": "data/photos", "snakemake": missing}
    printed = {"dvc": real.repro("--single-item", stage, code=255), "snakemake": real.snakemake(output, code=1)}
    for engine, text in printed.items():
        assert sentences[engine] in text
        assert "Traceback" not in text
        check_nothing_half_written(real, output, before)


# --- what a person does around the pipeline


def test_metrics_and_plots_are_shown(real):
    metrics = json.loads(real.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert set(metrics) == {"results/shapes/cam-0.json", "results/shapes/rca-0.json"}
    assert 0 <= metrics["results/shapes/rca-0.json"]["data"]["segmentation"]["val"]["miou"] <= 1
    for kind in ("metrics", "params"):
        assert real.run("dvc", kind, "diff") == ""
    shown = real.run("dvc", "plots", "show")
    assert "index.html" in shown
    assert "DVC failed" not in shown
    assert "WARNING" not in shown
    page = (real.path / "dvc_plots/index.html").read_text()
    networks = [f"Training of the {name} network" for name in ("classification", "segmentation")]
    for title in ("mIoU of the seeds over the threshold", *networks, "IoU of each class, best threshold"):
        assert title in page
    assert "rca, seed 0" in page
    assert real.run("git", "status", "--short") == ""


def test_the_command_shows_and_cleans(real, monkeypatch, capsys):
    monkeypatch.chdir(real.path)

    def rca(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    assert "runs/shapes/report/index.html" in (text := rca("show"))
    assert "| rca | best |" in text
    assert "36 images, 9 classes, root data/shapes" in rca("inspect", "data", "runs/shapes/data")
    model = "runs/shapes/rca/0/model"
    text = rca("inspect", "network", f"{model}/network.safetensors")
    assert "method: rca" in text
    assert "million" in text
    assert "rca, run rca, seed 0: 8 slots" in rca("inspect", "memory", f"{model}/memory.safetensors")
    text = rca("inspect", "scores", "runs/shapes/cam/0/maps/0/scores.safetensors")
    assert text.startswith("36 images, stride 2, tags given\n")
    assert "train_00000: labels [1" in text

    assert rca("clean") == "0 files that no stage declares; delete them with --delete.\n"
    stray = real.path / "runs/shapes/old/0/model.safetensors"
    stray.parent.mkdir(parents=True)
    stray.touch()
    assert rca("clean").startswith("runs/shapes/old/0/model.safetensors\n1 files")
    assert stray.exists()
    rca("clean", "--delete")
    assert not stray.exists()
