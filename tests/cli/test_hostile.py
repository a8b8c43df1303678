"""Commands given what no one should give them: one sentence, exit code 2, no traceback, no hang."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segmenters import write_model
from specials import SPECIALS

from rca.cli.main import main

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "workflow/presets/shapes.yaml"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with good inputs, and an alarm that ends what hangs."""
    (tmp_path / "params.yaml").write_text(SHAPES.read_text())
    write_model(tmp_path / "good.safetensors")
    for folder in ("truth", "photos"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.ones((40, 40), np.uint8)).save(tmp_path / "truth/a.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "photos/a.png")
    monkeypatch.chdir(tmp_path)
    signal.alarm(120)
    yield tmp_path
    signal.alarm(0)


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that a command prints."""
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1, text
    assert len(text.removeprefix("error: ").replace(f"{Path.cwd()}/", "")) <= 2 * 120
    return text


SCORE = "score --predictions truth --truth truth --workers 1"
READS = {
    "model": "predict X photos --out out",
    "photograph": "predict good.safetensors X --out out",
    "exported model": "export onnx X out.onnx",
    "network": "inspect network X",
    "memory": "inspect memory X",
    "scores": "inspect scores X",
    "params": "check --params X",
    "classes": f"{SCORE} --classes X",
    "list": f"{SCORE} --list X",
}
WRITES = {"figures": f"{SCORE} --out X", "masks": "export coco truth X --classes c.txt --photographs photos"}


@pytest.mark.parametrize("kind", SPECIALS)
@pytest.mark.parametrize("command", READS)
def test_what_is_no_file_is_not_read(
    project: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    make, sentence = SPECIALS[kind]
    if kind == "folder":  # some commands take one
        model = "holds no model.safetensors"
        own = {"photograph": "No image", "memory": "holds no snapshot", "model": model, "exported model": model}
        sentence = own.get(command, sentence)
    make(project / "X")
    text = refuse(capsys, *READS[command].split())
    assert "X" in text
    assert sentence in text


@pytest.mark.parametrize("kind", SPECIALS)
@pytest.mark.parametrize("command", WRITES)
def test_what_is_no_file_is_not_replaced(
    project: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    (project / "c.txt").write_text("cat\n")
    make, _ = SPECIALS[kind]
    make(project / "X")
    before = os.lstat("X")
    assert "X" in refuse(capsys, *WRITES[command].split())
    assert os.lstat("X").st_ino == before.st_ino


@pytest.mark.parametrize("kind", ["pipe", "socket", "null", "loop"])
def test_a_folder_of_results_is_a_folder(project: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    make, _ = SPECIALS[kind]
    make(project / "X")
    assert "X" in refuse(capsys, *["predict", "good.safetensors", "photos", "--out", "X"])


NAMES = {
    "empty": ("", "is empty"),
    "blank": (" ", "is empty"),
    "too long": ("x" * 300, "File name too long: shorten"),
    "null byte": ("a\0b", "does not exist|cannot be the name"),
    "no UTF-8": (os.fsdecode(b"photos/\xff.png"), "is not UTF-8: rename"),
    "missing": ("nowhere", "does not exist"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_that_name_nothing(project: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    name, sentence = NAMES[kind]
    if kind == "no UTF-8":
        (project / "photos/a.png").rename(name)
    text = refuse(capsys, "predict", "good.safetensors", name, "--out", "out")
    assert any(part in text.replace(")", "") for part in sentence.split("|")), text
    assert not (project / "out").exists()


EMPTY = (
    ("predict", "", "photos"),
    ("predict", "good.safetensors", "photos", "--out", ""),
    ("check", "--params", ""),
    ("score", "--predictions", "", "--truth", "truth"),
    ("score", "--predictions", "truth", "--truth", " "),
    ("inspect", "network", ""),
    ("export", "onnx", "", "x.onnx"),
)


@pytest.mark.parametrize("arguments", EMPTY)
def test_an_unset_variable_names_no_folder(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "the name is empty" in capsys.readouterr().err


def test_a_folder_that_links_lead_back_to_is_entered_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "photos/b").mkdir()
    (project / "photos/b/up").symlink_to("..")
    (project / "photos/b/again").symlink_to("../b")
    for number, name in enumerate(("photos", "photos/**", "photos/**/a.png", "[pt]*/**/*.png")):
        assert main(["predict", "good.safetensors", name, "--no-flip", "--out", f"out{number}"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "1", "1", "2"]


NUMBERS = (
    ("scales", "-1"),
    ("scales", "0"),
    ("scales", "1e9"),
    ("scales", "1e-9"),
    ("scales", "nan"),
    ("scales", "inf"),
    ("tile", "0"),
    ("tile", "-32"),
    ("tile", "33"),
    ("tile", str(32 * 10**9)),
    ("overlap", "-32"),
    ("overlap", str(2**64)),
    ("batch-size", "0"),
    ("batch-size", str(10**20)),
)


@pytest.mark.parametrize(("option", "value"), NUMBERS)
def test_numbers_that_mean_nothing_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    text = refuse(capsys, "predict", "good.safetensors", "photos", "--out", "out", f"--{option}", value)
    assert option.replace("-", "_") in text
    assert not (project / "out").exists()


FIGURES = (
    ("boundary-distance", "nan"),
    ("boundary-distance", "-1"),
    ("boundary-distance", "1e9"),
)


@pytest.mark.parametrize(("option", "value"), FIGURES)
def test_figures_of_nothing_are_refused(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    assert option.replace("-", " ") in refuse(capsys, *SCORE.split(), f"--{option}", value)


def run(*arguments: str, stdout: object = subprocess.PIPE, **settings: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings.pop("env", {})}  # type: ignore[dict-item]
    command = [sys.executable, "-m", "rca.cli.main", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, **settings)


def check_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr


def test_a_full_output_is_told(project: Path) -> None:
    with open("/dev/full", "w") as full:
        check_sentence(run(*SCORE.split(), stdout=full), "No space left on device")


def test_a_full_disk_is_told_with_the_file(project: Path) -> None:
    """A limit on the size of files stands for a full disk: both are errors of a write."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    done = run(*SCORE.split(), "--out", "figures.json", preexec_fn=limit)
    check_sentence(done, "figures.json", "File too large")
    assert not any(path.name.startswith(".figures") for path in project.iterdir())


def test_names_are_printed_in_the_locale_c(project: Path) -> None:
    (project / "c.txt").write_text("Kühe\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run(*SCORE.split(), "--classes", "c.txt", env=plain)
    assert done.returncode == 0, done.stderr
    assert "K\\xfche" in done.stdout
    check_sentence(run("check", "--params", "Kühe.yaml", env=plain), "does not exist")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "shut").mkdir(mode=0o500)
    assert "Permission denied" in refuse(capsys, *f"{SCORE} --out shut/x.json".split())


def test_a_place_that_takes_no_files_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/proc/x.json" in refuse(capsys, *f"{SCORE} --out /proc/x.json".split())
    (project / "file").touch()
    assert "file" in refuse(capsys, *f"{SCORE} --out file/x.json".split())


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_the_umask_is_honoured(project: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert main(["predict", "good.safetensors", "photos", "--no-flip", "--out", "out"]) == 0
        write_model(project / "again.safetensors")
    finally:
        os.umask(before)
    for path in (*project.joinpath("out").rglob("*"), project / "out", project / "again.safetensors"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path
