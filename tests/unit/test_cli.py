import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rca.cli import main
from rca.data.manifest import Manifest, write_manifest
from rca.labels.score_maps import write_shard
from rca.settings import load_params
from rca.stages.run import STAGES

SHAPES = Path(__file__).parents[2] / "workflow/presets/shapes.yaml"
COMMANDS = ["preset", "check", "inspect", "show", "clean", *STAGES]


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
    for argument in STAGES.get(command, ()):
        assert argument in text


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4] != " "}
    assert listed == set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_cam", "--run", "hsc", "--seed", "0"], "hsc"),
        (["train_cam", "--run", "rca", "--seed", "0"], "dataset.json does not exist: run "),
        (["make_cam", "--run", "rca", "--seed", "0", "--shard", "9"], "name one with --shard, 0 to 1"),
        (["choose_threshold", "--run", "cam", "--seed", "0"], "does not exist"),
        (["evaluate", "--run", "cam", "--seed", "0"], "does not exist"),
        (["prepare_data"], "data/shapes does not exist"),
        (["generate_data", "circles"], "circles"),
        (["fetch_weights", "train_gan"], "train_gan"),
        (["pin_method", "--run", "hsc"], "hsc"),
        (["inspect", "network", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["inspect", "scores", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["inspect", "data", "nowhere"], "does not exist"),
        (["check", "--params", "other.yaml"], "other.yaml does not exist"),
        (["show"], "table.md does not exist: run the pipeline first"),
        (["preset", "huge"], "There is no preset huge"),
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
    params.update(generate={}, dataset={"name": "mine", "format": "voc", "splits": ["train", "val"]}, **changes)
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


def test_check_tells_a_broken_photograph(
    project: Path, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use_voc(project, make_voc, {})
    (project / "data/mine/JPEGImages/d4.jpg").write_bytes(b"")
    assert main(["check"]) == 2
    assert "d4.jpg is broken" in capsys.readouterr().err


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


def test_inspect_tells_a_network_from_a_memory(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rca.models.storage import save_tensors

    save_tensors(project / "x.safetensors", {}, {"method": "cam"})
    assert main(["inspect", "memory", "x.safetensors"]) == 2
    assert "x.safetensors is no snapshot of a memory" in capsys.readouterr().err


def test_stages_import_nothing_slow_that_they_do_not_need() -> None:
    """An ablation starts hundreds: torch takes two seconds, torchvision and scikit-learn one each."""
    script = """
import importlib, sys
def start(*stages):
    for stage in stages:
        importlib.import_module(f"rca.stages.{stage}")
    return {"torch", "torchvision", "sklearn", "matplotlib", "pydensecrf"} & set(sys.modules)
assert start("run", "choose_threshold", "make_pseudo", "refine_crf", "evaluate", "tabulate", "prepare_data") == set()
assert start("pin_method", "snapshot_memory", "train_cam", "make_cam", "predict_seg") == {"torch"}
"""
    subprocess.run([sys.executable, "-c", script], check=True)
