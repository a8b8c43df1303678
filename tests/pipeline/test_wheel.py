"""From the wheel to masks: the lines of docs/getting_started.md, in an environment without the repository."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest
import torch
from projects import ROOT, make_folder
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

# What makes the trainings and shards of a preset so small that they take seconds.
SMALL = {
    "shards": "[0, 1]",
    "prepare_data.workers": "1",
    "refine_crf.workers": "1",
    "train_cam.augmentation.crop": "64",
    "train_cam.optimisation.epochs": "1",
    "train_cam.optimisation.workers": "0",
    "make_cam.inference.longest_side": "96",
    "train_seg.augmentation.crop": "64",
    "train_seg.optimisation.epochs": "1",
    "train_seg.optimisation.workers": "0",
    "predict_seg.prediction": "{scales: [1.0]}",
}
SCRIPTS = {"dvc": "dvc.cli", "snakemake": "snakemake.cli"}
SCRIPT = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of what git tracks, so that nothing is left in the repository."""
    source = folder / "source"
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    run_pip("wheel", *options, "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("rca-*.whl")
    return wheel


def run_pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True, env=clean_environment())


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without what leads to the repository, and no network."""
    hidden = ("PYTHON", "GIT_", "RCA_", "VIRTUAL_ENV", "SNAKEMAKE")
    own = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    nowhere = "http://127.0.0.1:9"
    return {**own, "http_proxy": nowhere, "https_proxy": nowhere, **variables}


def make_environment(folder: Path, wheel: Path) -> Path:
    """A virtual environment with the wheel, which sees the locked packages but not the repository's rca.

    Returns:
        Its folder of programs.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    places = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, text=True
    )
    # A folder that a .pth file names is no site folder: the .pth files in it, such as the repository's, do not count.
    Path(places.stdout.strip(), "locked.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    for name, module in SCRIPTS.items():
        (folder / f"bin/{name}").write_text(SCRIPT.format(python=python, module=module))
        (folder / f"bin/{name}").chmod(0o755)
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run_pip("--python", str(python), "install", *options, str(wheel))
    return folder / "bin"


def read_lines(page: str) -> list[str]:
    """The commands of the block of a page that installs the wheel."""
    block = re.search(r"```(?:ba)?sh\n(pip install .*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert block
    return [re.sub(r"\s+#.*", "", line).strip() for line in block[1].splitlines()]


def test_the_readme_has_the_same_five_lines() -> None:
    lines = read_lines("README.md")
    assert len(lines) == 5
    assert lines == read_lines("docs/getting_started.md")


@pytest.mark.slow
def test_from_the_wheel_to_masks(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path / "build")
    programs = make_environment(tmp_path / "venv", wheel)
    environment = clean_environment(
        PATH=f"{programs}:/usr/local/bin:/usr/bin:/bin",
        DVC_SITE_CACHE_DIR=str(tmp_path / "cache"),
        HOME=str(tmp_path / "home"),
        TORCH_HOME=str(tmp_path / "home/torch"),
        OMP_NUM_THREADS="1",
        TERM="dumb",
    )
    (tmp_path / "home").mkdir()
    here = tmp_path / "empty"
    here.mkdir()
    make_folder(tmp_path / "photographs", range(12))
    torch.manual_seed(0)
    save_file(mobilenet_v2().state_dict(), tmp_path / "weights.safetensors")

    def run(command: str, folder: Path, code: int = 0) -> str:
        start = time.monotonic()
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        print(f"{time.monotonic() - start:6.1f} s  {command[:100]}")
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert str(tmp_path / "venv") in run("python -c 'import rca; print(rca.__file__)'", here)
    install, init, enter, start, show = read_lines("docs/getting_started.md")
    assert install == 'pip install "$(echo rca-*.whl)[crf]"'
    init = init.replace("~/photographs", str(tmp_path / "photographs"))
    sets = " ".join(f"--set '{key}={value}'" for key, value in SMALL.items())
    run(f"{init} --weights {tmp_path / 'weights.safetensors'} {sets}", here)
    mine = here / enter.removeprefix("cd ")

    printed = run(start, mine)
    assert len(printed.splitlines()) < 80
    assert "FAILED" not in printed
    masks = list(mine.glob("runs/mine/rca_extended/0/masks/refined/*/best/*.png"))
    assert len(masks) == 12
    model = mine / "runs/mine/rca_extended/0/segmenter.safetensors"
    assert model.is_file()
    assert (mine / "runs/mine/report/index.html").is_file()
    assert "rca_extended" in run(show, mine)

    assert "Nothing to be done" in run("snakemake -n", mine)
    repeated = run("dvc repro", mine)
    assert "Running stage" not in repeated
    assert "Data and pipelines are up to date." in repeated
    run("dvc metrics diff", mine)
    run("rca check", mine)
    assert "0 jobs done" in run("rca run", mine)
    photograph = next(iter(sorted((tmp_path / "photographs/images").glob("*.*"))))
    run(f"rca predict {model} {photograph} --out {tmp_path / 'elsewhere/predictions'}", tmp_path)
    assert list((tmp_path / "elsewhere/predictions/masks").glob("*.png"))
    run(f"rca export hub {model} shared --licence mit", tmp_path)
    run(f"rca predict shared {photograph} --out {tmp_path / 'elsewhere/again'}", tmp_path)
    (first,), (second,) = (tmp_path.glob(f"elsewhere/{name}/masks/*.png") for name in ("predictions", "again"))
    assert first.read_bytes() == second.read_bytes()
    assert list(tmp_path.glob("venv/lib/python*/site-packages/rca/py.typed"))
    assert run("rca init --upgrade", mine).splitlines()[-1] == "All generated files are up to date."
    changed = run("git status --porcelain", mine).split()
    assert "dvc.yaml" not in changed  # a run changes no file of the project but what it records

    # An upgrade of the package: the stages whose code changed run again, and no other.
    (report,) = tmp_path.glob("venv/lib/python*/site-packages/rca/report/build.py")
    report.write_text(report.read_text() + "\n# upgraded\n")
    printed = run("rca run", mine)
    assert re.search(r"^render_report: ", printed, re.MULTILINE)
    assert "train_cam" not in printed
