"""What bash offers after a tab, with the script that `rca completion bash` prints."""

import shutil
import subprocess
from pathlib import Path

import pytest

from rca.cli.completion import write_completion

ASK = """
source rca.bash
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_rca
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    folder = tmp_path_factory.mktemp("completion")
    (folder / "rca.bash").write_text(write_completion("bash"))
    (folder / "photographs").mkdir()
    (folder / "phone.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("rca exp", {"export"}),
        ("rca export o", {"onnx"}),
        ("rca export hub x y --", {"--help", "--licence", "--force"}),
        ("rca inspect m", {"memory", "model"}),
        ("rca train_s", {"train_seg"}),
        ("rca predict pho", {"phone.safetensors", "photographs"}),
        ("rca init pho", {"photographs"}),
    ],
)
def test_bash_offers_commands_options_choices_and_files(folder: Path, words: str, offered: set[str]) -> None:
    done = subprocess.run(["bash", "-c", ASK, "bash", *words.split(" ")], cwd=folder, capture_output=True, text=True)
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


def test_zsh_has_a_script_with_every_target() -> None:
    script = write_completion("zsh")
    assert all(name in script for name in ("train_seg", "export", "onnx", "--licence"))
