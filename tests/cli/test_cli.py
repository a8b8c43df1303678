import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from snapshots import write_snapshot

from rca.cli.main import main
from rca.core.settings import load_params
from rca.data.manifest import Manifest, write_manifest
from rca.evaluation.memory_statistics import describe_memory, measure_purity, read_snapshot
from rca.labels.score_maps import ScoreMaps, write_shard
from rca.stages.base.stage import list_stages

SHAPES = Path(__file__).parents[2] / "workflow/presets/shapes.yaml"
COMMANDS = [
    "init",
    "run",
    "sweep",
    "doctor",
    "set",
    "get",
    "preset",
    "check",
    "inspect",
    "score",
    "predict",
    "export",
    "import",
    "figure",
    "suspect",
    "show",
    "compare",
    "clean",
    "completion",
    *list_stages(),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that holds nothing but the params of the preset shapes."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text(SHAPES.read_text())
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: rca {command}")
    if command in list_stages():
        assert all(argument in text for argument in ("--run", "--seed", "--shard"))


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4] != " "}
    assert listed == set(COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "rca", "--version"], capture_output=True, text=True)
    assert done.stdout == f"rca {version('rca')}\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND (`rca --help` lists them)\n"),
        (["chek"], "): check?\n"),
        (["export", "hubs", "a", "b"], "): hub?\n"),
        (["run", "--cores", "0"], "argument --cores: 0 is no number of things: name 1 or more\n"),
        (["run", "--gpus", "two"], "argument --gpus: two is no number"),
        (["score", "--predictions", "a", "--truth", "b", "--workers", "-5"], "argument --workers: -5 is no number"),
        (["sweep", "a=1", "--seeds", "-1"], "argument --seeds: -1 is no number"),
        (["set"], "required: KEY=YAML\n"),
    ],
)
def test_a_bad_command_line_ends_with_its_reason_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_cam", "--run", "hsc", "--seed", "0"], "train_cam has no run hsc: name one of cam, rca"),
        (["train_cam", "--run", "rca", "--seed", "0"], "dataset.json does not exist: run "),
        (["make_cam", "--run", "rca", "--seed", "0", "--shard", "9"], "make_cam has no shard 9: name one of 0, 1"),
        (["choose_threshold", "--run", "cam", "--seed", "0"], "does not exist"),
        (["evaluate", "--run", "cam", "--seed", "0"], "does not exist"),
        (["prepare_data"], "data/shapes does not exist"),
        (["generate_data", "circles"], "circles"),
        (["fetch_weights", "train_gan"], "train_gan"),
        (["walk_scores", "--run", "rca", "--seed", "0", "--shard", "0"], "walk_scores has nothing to do with these"),
        (["tabulate", "--run", "rca"], "tabulate has no run: leave it out"),
        (["train_cam", "--run", "rca"], "train_cam works on one seed: name one of 0, 1"),
        (["inspect", "network", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["inspect", "scores", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["inspect", "data", "nowhere"], "does not exist"),
        (["inspect", "memory", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["inspect", "memory", "."], "holds no snapshot of a memory"),
        (["inspect", "data", ".", "--manifest", "."], "--manifest is only for a memory"),
        (["check", "--params", "other.yaml"], "other.yaml does not exist"),
        (["score", "--predictions", "nowhere", "--truth", "."], "nowhere is no folder"),
        (["inspect", "model", "nowhere.safetensors"], "run train_seg first, or name a file that it wrote."),
        (["inspect", "model", "params.yaml"], "params.yaml is no .safetensors file: name one that train_seg wrote."),
        (["show"], "table.md does not exist: run the pipeline first"),
        (["preset", "huge"], "There is no preset huge"),
        (["preset", "foldr"], "There is no preset foldr (folder?): choose one of"),
        (["init"], "Name the folder of the project"),
        (["init", "new", "--preset", "huge"], "There is no preset huge"),
        (["init", "."], "params.yaml exists already"),
        (["init", "--upgrade"], "There is no workflow/generated.json"),
        (["init", "new", "--data", "nowhere"], "--data nowhere is no folder"),
        (["init", "new", "--data", ".", "--weights", "nowhere.pth"], "The weights file nowhere.pth does not exist"),
        (
            ["init", "new", "--data", ".", "--weights", "params.yaml"],
            "(it is no file of torch.save): fetch it again, or",
        ),
        (["init", "new", "--preset", "shapes", "--data", "."], "The preset shapes needs no --data"),
        (["set", "sedes=[0]"], "sedes is an unknown key: remove it or fix its spelling (seeds?)."),
        (["set", "run.cam.seeds=[0]"], "run.cam.seeds is an unknown key: remove it or fix its spelling"),
        (["set", "seeds"], "rca set seeds: write dotted.key=value"),
        (["get", "train_cam.optimisation.epoch"], "no key epoch in train_cam.optimisation (epochs?)"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_code_2(
    project: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    sentence = lines[0].partition(" (log: ")[0]
    assert sentence.startswith("error: ")
    assert sentence.endswith(".")
    assert message in sentence


def test_a_broken_params_file_is_told_in_one_sentence(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_text("a: [")
    for arguments in (["prepare_data"], ["check"], ["make_cam", "--run", "a", "--seed", "0", "--shard", "0"]):
        assert main(arguments) == 2
        assert "params.yaml is not valid YAML" in capfd.readouterr().err


def test_what_a_stage_says_is_logged(project: Path) -> None:
    main(["prepare_data"])
    assert "data/shapes does not exist" in (project / "logs/prepare_data.log").read_text()


def use_voc(project: Path, make_voc: Callable[..., Path], changes: dict) -> None:
    """Point the project at a dataset of one's own."""
    (project / "data").mkdir()
    make_voc().rename(project / "data/mine")
    params = load_params(SHAPES)
    params.update(generate_data={}, dataset={"name": "mine", "format": "voc", "splits": ["train", "val"]}, **changes)
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_check_takes_a_sound_project_and_counts_its_images(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_voc(project, make_voc, {})
    assert main(["check"]) == 0
    text = capsys.readouterr().out
    assert "2 runs, 2 seeds, 2 shards" in text
    assert "train: 3 images, 3 with a mask" in text
    assert "val: 2 images, 2 with a mask" in text


def test_check_refuses_scored_images_without_score_maps(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_voc(project, make_voc, {"make_cam": {"splits": ["train"], "stride": 2, "inference": {}, "threads": 1}})
    assert main(["check"]) == 2
    assert "evaluate.seed names val, but 1 of its images (d4, ...) get no score maps" in capsys.readouterr().err


def test_check_refuses_scored_images_that_are_not_relabelled(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    second = {"masks_from": "cam", "train_seg": {"masks": "relabelled"}}
    runs = {"runs": ["cam", "second"], "run": {"cam": {}, "second": second}}
    use_voc(project, make_voc, {**runs, "evaluate": {"relabelled": ["train", "val"]}})
    assert main(["check"]) == 2
    told = "evaluate.relabelled names val, but 1 of its images (d4, ...) are not in train, whose images are relabelled"
    assert told in capsys.readouterr().err


def use_folder(project: Path, make_voc: Callable[..., Path], evaluate: dict) -> None:
    """Point the project at the same photographs, with masks for val alone."""
    use_voc(project, make_voc, {})
    root = project / "data/mine"
    (root / "JPEGImages").rename(root / "images")
    (root / "masks").mkdir()
    for name in ("c3", "d4"):
        (root / f"SegmentationClass/{name}.png").rename(root / f"masks/{name}.png")
    (root / "tags.csv").write_text("id,tags,split\na1,cat,train\nb2,cat;cow,train\nc3,,val\nd4,dog,val\n")
    params = load_params(project / "params.yaml")
    params.update(dataset={"name": "mine", "format": "folder"}, evaluate=evaluate)
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_check_tells_what_a_dataset_with_few_masks_can_do(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_folder(project, make_voc, {"seed": ["val"], "pseudo": [], "refined": [], "segmentation": ["val"]})
    assert main(["check"]) == 0
    text = capsys.readouterr().out
    assert "val: 2 images, 2 with a mask" in text
    assert "tags.csv: no image of the split train shows 1 of 3 classes (dog)" in text
    assert "warning: no image of train has a true mask" in text
    assert "nothing is scored" not in text


def test_check_tells_of_masks_that_nothing_is_scored_on(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_folder(project, make_voc, {"seed": [], "pseudo": [], "refined": [], "segmentation": []})
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert "warning: val has true masks, but nothing is scored on them: rca set evaluate.seed='[val]'" in told
    assert main(["set", "evaluate.seed=[val]"]) == 0
    capsys.readouterr()
    assert main(["check"]) == 0
    assert "nothing is scored" not in capsys.readouterr().out


def test_check_refuses_to_score_images_without_masks(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_folder(project, make_voc, {"seed": [], "pseudo": ["train"]})
    assert main(["check"]) == 2
    assert "evaluate.pseudo names train, but 2 of its images (a1, ...) have no true mask" in capsys.readouterr().err


def test_check_misses_saliency_maps_where_a_run_goes_by_them(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_params(SHAPES)["run"]
    run["rca"]["choose_threshold"] = {"background": {"kind": "saliency"}}
    use_voc(project, make_voc, {"run": run})
    assert main(["check"]) == 2
    assert "The image a1 has no saliency map" in capsys.readouterr().err


def test_check_misses_segments_where_a_run_goes_by_them(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_voc(project, make_voc, {"refine_crf": {"segments": {"kind": "stored"}}})
    assert main(["check"]) == 2
    told = "uses stored segments, but a1 has none: name their folder in dataset.segments."
    assert told in capsys.readouterr().err


def test_check_tells_a_broken_photograph(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_voc(project, make_voc, {})
    (project / "data/mine/JPEGImages/d4.jpg").write_bytes(b"")
    assert main(["check"]) == 2
    told = capsys.readouterr()
    assert "d4.jpg is broken" in told.out
    assert told.err.startswith("error: data/mine has 1 error in 1 image and ")


def test_inspect_tells_what_a_manifest_and_a_shard_hold(
    project: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(project, manifest)
    assert main(["inspect", "data", "."]) == 0
    text = capsys.readouterr().out
    assert "4 images, 3 classes" in text
    assert "train: 3 images, 3 with a mask" in text
    write_shard(project / "0.safetensors", {}, {"stride": 4})
    assert main(["inspect", "scores", "0.safetensors"]) == 0
    assert "0 images, stride 4" in capsys.readouterr().out
    maps, others = (
        ScoreMaps(np.array(labels, np.uint8), np.zeros((len(labels), 5, 7), np.float16), np.zeros(3, np.float32))
        for labels in ([2], [1, 2])
    )
    write_shard(project / "0.safetensors", {"a": maps, "b": maps}, {"stride": 4}, {"b": others})
    assert main(["inspect", "scores", "0.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == ["  a: labels [2], maps 5x7", "  b: labels [2], predicted [1, 2], maps 5x7"]


def test_inspect_tells_a_network_from_a_memory(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rca.models.storage import save_tensors

    save_tensors(project / "x.safetensors", {}, {"method": "cam"})
    assert main(["inspect", "memory", "x.safetensors"]) == 2
    assert "x.safetensors is not a memory snapshot" in capsys.readouterr().err


CLASSES, IMAGES = ("cat", "dog", "cow"), ("a1", "b2", "c3", "d4")


@pytest.fixture
def run_tree(project: Path, manifest: Manifest) -> Path:
    """The folder of a run whose memory has a snapshot, its manifest where the pipeline puts it."""
    write_manifest(project / "runs/mine/data", manifest)
    root = project / "runs/mine/rca/0"
    for name in ("model/memory", "memory_history/epoch-0002", "memory_history/epoch-0004"):
        path = root / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True, parents=True)
        write_snapshot(path, CLASSES, IMAGES, (9, 0, 2))
    return root


def inspect_memory(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
    assert main(["inspect", "memory", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_inspect_prints_the_figures_of_a_memory(
    run_tree: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_tree / "model/memory.safetensors"
    head, names, *lines = inspect_memory(capsys, path)
    assert head == "rca, run rca, seed 0: 6 slots for each class"
    columns = ["class", "fill", "age", "images", "confidence", "spread", "purity", "cosine"]
    assert names.split() == [*columns, "nearest", "other"]
    assert max(map(len, (names, *lines))) <= 100
    assert [line.split()[0] for line in lines] == [*CLASSES, "mean"]
    snapshot = read_snapshot(path)
    table = describe_memory(snapshot, measure_purity(snapshot, manifest))
    cat = table.iloc[0]
    wanted = ["cat", "6", f"{cat['age']:.1f}", str(cat["images"])]
    wanted += [f"{cat[key]:.2f}" for key in ("confidence", "spread", "purity", "cosine")]
    assert lines[0].split() == [*wanted, "cow"]
    assert lines[1].split() == ["dog", "0", "-", "0", "-", "-", "-", "-"]
    assert lines[3].split()[1] == "2.7"  # (6 + 0 + 2) / 3
    assert lines[3].split()[6] == f"{table['purity'].mean():.2f}"


def test_inspect_prints_a_line_for_each_snapshot(run_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_snapshot(run_tree / "memory_history/epoch-0004.safetensors", CLASSES, IMAGES, (1, 1, 1))
    _, _, names, *lines = inspect_memory(capsys, run_tree / "memory_history")
    assert names.split() == ["epoch", "fill", "age", "spread", "purity", "cosine"]
    assert [line.split()[:2] for line in lines] == [["5", "2.7"], ["5", "1.0"]]
    assert lines[1].split()[3] == "0.00"  # one region has no spread
    assert "-" not in lines[0].split()


def test_inspect_says_why_there_is_no_purity(
    run_tree: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = write_snapshot(run_tree.parents[3] / "alone.safetensors", CLASSES, IMAGES, (9, 0, 2))
    *_, mean, reason = inspect_memory(capsys, alone)
    assert mean.split()[6] == "-"
    assert reason.startswith("No purity: the snapshot is not in a run's folder")
    *_, mean = inspect_memory(capsys, alone, "--manifest", run_tree.parents[1] / "data")
    assert mean.split()[6] != "-"

    bare = [replace(record, mask=None) for record in manifest.images]
    write_manifest(run_tree.parents[1] / "data", replace(manifest, images=tuple(bare)))
    assert "no image of" in inspect_memory(capsys, run_tree / "model/memory.safetensors")[-1]
    shutil.rmtree(manifest.root)
    assert "is not here; run the command in the project" in inspect_memory(capsys, run_tree / "memory_history")[-1]


def test_inspect_tells_a_mask_that_is_gone(
    run_tree: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(manifest.root / "SegmentationClass")
    assert main(["inspect", "memory", str(run_tree / "model/memory.safetensors")]) == 2
    assert "does not exist: restore it" in capsys.readouterr().err


def test_stages_import_nothing_slow_that_they_do_not_need() -> None:
    """An ablation starts hundreds: torch takes two seconds, torchvision and scikit-learn one each."""
    script = """
import importlib, sys
def start(*stages):
    for stage in stages:
        importlib.import_module(f"rca.stages.{stage}")
    return {"torch", "torchvision", "sklearn", "matplotlib", "pydensecrf"} & set(sys.modules)
assert start("__main__", "choose_threshold", "make_pseudo", "refine_crf", "evaluate", "prepare_data") == set()
assert start("snapshot_memory", "train_cam", "make_cam", "predict_seg") == {"torch"}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_reader_that_has_left_is_no_error(manifest: Manifest, tmp_path: Path) -> None:
    """As with `rca ... | head`, but nobody reads from the start: the first line that is printed already breaks."""
    write_manifest(tmp_path / "data", manifest)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rca.cli.main", "inspect", "data", str(tmp_path / "data")]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1
