"""Projects that tests build in temporary folders, and what one does in them."""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image
from ruamel.yaml import YAML

from rca.data.shapes.dataset import CLASS_NAMES, draw_image

ROOT = Path(__file__).parents[2]
WAIT = 600.0  # seconds until a command hangs, on a machine that is busy with something else
DVC_YAML = """\
stages:
  prepare:
    cmd: python step.py prepare data/images
    params: [size]
    outs: [data/images: {labels: [directory]}]
    meta: {resources: {mem_mb: 100, runtime: 5}}
  train:
    matrix: {run: "${runs}", seed: "${seeds}"}
    cmd: python step.py train@${item.run}-${item.seed} runs/${item.run}-${item.seed}/model.txt
    deps: [data/images]
    params: ["run.${item.run}"]
    outs: ["runs/${item.run}-${item.seed}/model.txt": {type: training_curves}]
    meta:
      labels: {run: "${item.run}", seed: "${item.seed}"}
      resources: {gpu: "${gpu}", mem_mb: "${mem_mb}", runtime: 5}
      threads: 1
  score:
    matrix: {run: "${runs}", seed: "${seeds}", shard: "${shards}"}
    cmd: >-
      python step.py score@${item.run}-${item.seed}-${item.shard}
      runs/${item.run}-${item.seed}/scores/${item.shard}.txt
    deps: ["runs/${item.run}-${item.seed}/model.txt"]
    outs: ["runs/${item.run}-${item.seed}/scores/${item.shard}.txt"]
    meta: {resources: {mem_mb: 100, runtime: 5}}
  tabulate:
    cmd: python step.py tabulate results/table.json
    deps: [runs/cam-0/scores, runs/rca-0/scores]
    metrics: [{results/table.json: {cache: false, type: tables}}]
    meta: {resources: {mem_mb: 100, runtime: 5}}
"""

PARAMS = """\
runs: [cam, rca]
seeds: [0]
shards: [0, 1]
size: 3
gpu: 0
mem_mb: 100
run:
  cam: {rate: 1}
  rca: {rate: 2}
"""

# Notes that it ran outside the project, writes its log as real stages do, and misbehaves when told to.
STEP = """\
import os, pathlib, sys, time, hashlib
stage, output = sys.argv[1], pathlib.Path(sys.argv[2])
log = pathlib.Path("logs", stage.replace("@", ".") + ".log")
log.parent.mkdir(exist_ok=True)
log.write_text("started\\n")
ledger = pathlib.Path(os.environ["TOY"])
with open(ledger / "ran", "a") as f:
    print(stage, os.environ.get("CUDA_VISIBLE_DEVICES"), file=f)
if (ledger / "fail").exists() and (ledger / "fail").read_text() == stage:
    print("The learning rate is a banana.", file=sys.stderr)
    log.write_text("The learning rate is a banana.\\n")
    sys.exit(2)
if (ledger / "wait").exists() and (ledger / "wait").read_text() in stage:
    (ledger / ("waiting-" + stage)).touch()
    while (ledger / "wait").exists():
        time.sleep(0.05)
text = pathlib.Path("params.yaml").read_text() if stage.startswith(("prepare", "train")) else "same"
number = "rate: " + text.split("rca: {rate: ")[1][0] if stage.startswith("train@rca") else ""
if output.suffix:
    output.parent.mkdir(parents=True, exist_ok=True)
    if stage.startswith("score"):
        number = output.parents[1].joinpath("model.txt").read_text()
    if stage == "tabulate":
        number = "".join(sorted(p.read_text() for p in pathlib.Path("runs").glob("*/scores/*.txt")))
        number = '{"value": %d}' % (int(hashlib.md5(number.encode()).hexdigest(), 16) % 1000)
    output.write_text(number if stage == "tabulate" else stage + number)
else:
    output.mkdir(parents=True)
    for i in range(3):
        (output / f"{i}.txt").write_text(str(i))
"""

# The default preset, so small that starting Python takes longer than any stage.
SMALL = {
    "generate_data": "{train: 24, val: 12, size: 48, seed: 0, objects: [1, 2]}",
    "seeds": "[0]",
    "shards": "[0]",
    "run.rca.options.contrast.start_epoch": "1",
    "run.rca.options.memory": "{size: 8, gate: 0}",
    "prepare_data.workers": "1",
    "train_cam.optimisation.epochs": "2",
    "train_cam.optimisation.batch_size": "8",
    "train_cam.augmentation.crop": "48",
    "make_cam.inference.scales": "[1.0]",
    "choose_threshold.candidates": "9",
    "refine_crf.crf.iterations": "3",
    "train_seg.optimisation.epochs": "2",
    "train_seg.optimisation.batch_size": "8",
    "train_seg.augmentation.crop": "48",
    "evaluate.examples": "2",
}


# Any other preset, with networks that train in seconds on a processor.
SMALL_NETS = {
    "shards": "[0, 1]",
    "seeds": "[0]",
    "prepare_data.workers": "1",
    "train_cam.backbone": "{name: small, output_stride: 8, weights: {source: none}}",
    "train_cam.optimisation.epochs": "2",
    "train_cam.optimisation.workers": "0",
    "train_cam.augmentation.crop": "48",
    "train_cam.threads": "1",
    "refine_crf.workers": "1",
    "train_seg.backbone": "{name: small, output_stride: 8, weights: {source: none}}",
    "train_seg.optimisation.epochs": "1",
    "train_seg.optimisation.workers": "0",
    "train_seg.augmentation.crop": "48",
    "train_seg.threads": "1",
}


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], object], seconds: float = WAIT / 2) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@dataclass
class Project:
    """A project and a folder outside it, where what ran is noted."""

    path: Path
    outside: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "SLURM_"))}
        bin_folder = str(Path(sys.executable).parent)
        return {**own, "PATH": f"{bin_folder}:{own['PATH']}", "TMPDIR": str(self.outside)}

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.path,
            env={**self.environment, **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *command: str, code: int = 0, timeout: float = WAIT, **variables: str) -> str:
        """Run a command in the project, check its exit code and return what it printed."""
        process = self.start(*command, **variables)
        text, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, text
        return text

    def snakemake(self, *arguments: str, code: int = 0, **variables: Any) -> str:
        return self.run("snakemake", "--cores", "2", *arguments, code=code, **variables)

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.path / file).read_text()
        assert old in text
        (self.path / file).write_text(text.replace(old, new))

    def take_notes(self) -> list[str]:
        """Return the lines noted since the last call."""
        ledger = self.outside / "ran"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        ledger.unlink(missing_ok=True)
        return lines

    def commit(self, message: str) -> None:
        self.run("git", "add", ".")
        self.run("git", "commit", "-qm", message)

    def initialise(self) -> None:
        """Give the files a Snakefile and profiles, and put them under git and DVC."""
        for name in ("Snakefile", ".dvcignore"):
            shutil.copy(ROOT / name, self.path)
        shutil.copytree(ROOT / "profiles", self.path / "profiles")
        self.run("git", "init", "-q")
        self.run("git", "config", "user.email", "toy@example.org")
        self.run("git", "config", "user.name", "toy")
        self.run("dvc", "init", "-q")
        self.run("dvc", "config", "core.analytics", "false")
        shutil.copytree(ROOT / ".dvc/plots", self.path / ".dvc/plots")


@dataclass
class Toy(Project):
    """A toy project."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "TOY": str(self.outside)}

    def list_ran(self) -> list[str]:
        """Return the names of the stages whose commands ran since the last call, sorted."""
        return sorted(line.split()[0] for line in self.take_notes())


def build_toy(folder: Path) -> Toy:
    toy = Toy(folder / "project", folder / "outside")
    toy.outside.mkdir(parents=True)
    toy.path.mkdir()
    for name, text in {"dvc.yaml": DVC_YAML, "params.yaml": PARAMS, "step.py": STEP}.items():
        (toy.path / name).write_text(text)
    shutil.copytree(ROOT / "workflow/captions", toy.path / "workflow/captions")
    (toy.path / ".gitignore").write_text("/data/\n/runs/\n/logs/\n/.snakemake/\n/.rca/\n")
    toy.initialise()
    return toy


@dataclass
class RealProject(Project):
    """The pipeline itself on a very small dataset, with a copy of the package to edit."""

    @property
    def environment(self) -> dict[str, str]:
        modules = os.pathsep.join([str(Path(__file__).parent / "spy"), str(self.path)])
        return {**super().environment, "PYTHONPATH": modules, "RCA_LEDGER": str(self.outside / "ran")}

    def rca(self, *arguments: str, code: int = 0) -> str:
        return self.run(sys.executable, "-m", "rca.cli.main", *arguments, code=code)

    def snakemake(self, *arguments: str, code: int = 0, **variables: Any) -> str:
        return super().snakemake(*arguments, "--resources", "gpu=2", code=code, **{"timeout": WAIT, **variables})

    def refresh(self) -> None:
        """Bring the list of instances up to date, as `rca check` does."""
        self.run(sys.executable, "-m", "rca.params.pin", "--refresh")

    def repro(self, *arguments: str, code: int = 0) -> str:
        return self.run("dvc", "repro", *arguments, code=code, timeout=WAIT)

    def set_params(self, values: dict[str, Any]) -> None:
        """Change values in params.yaml by their dotted keys."""
        yaml, path = YAML(), self.path / "params.yaml"
        document = yaml.load(path.read_text())
        for dotted, value in values.items():
            *parents, last = dotted.split(".")
            place = document
            for part in parents:
                place = place.setdefault(part, {})
            place[last] = value
        with path.open("w") as file:
            yaml.dump(document, file)

    def list_ran(self) -> list[str]:
        """Return DVC's names of the stages whose commands ran since the last call, sorted."""
        names = []
        for line in self.take_notes():
            stage, *arguments = line.split()
            item = "-".join(word for word in arguments if not word.startswith("--"))
            names.append(f"{stage}@{item}" if item else stage)
        return sorted(names)

    def read_lock(self) -> dict[str, Any]:
        """Return what dvc.lock records, by the name of the stage."""
        return YAML(typ="safe").load((self.path / "dvc.lock").read_text())["stages"]


def build_real(folder: Path, source: Path = ROOT) -> RealProject:
    """Put a real project down, with the code of another; nothing has run in it."""
    project = RealProject(folder / "project", folder / "outside")
    project.outside.mkdir(parents=True)
    project.path.mkdir()
    for name in ("dvc.yaml", ".gitignore"):
        shutil.copy(source / name, project.path)
    for name in ("rca", "workflow"):
        shutil.copytree(source / name, project.path / name, ignore=shutil.ignore_patterns("__pycache__"))
    project.initialise()
    project.rca("preset", "shapes", *(part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")))
    project.commit("new")
    return project


def copy_project(project: RealProject, folder: Path) -> RealProject:
    shutil.copytree(project.path, folder / "project", symlinks=True)
    (folder / "outside").mkdir()
    return RealProject(folder / "project", folder / "outside")


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder that `build` filled, once for all workers of a session."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not (folder / "built").exists():
            shutil.rmtree(folder, ignore_errors=True)  # another worker failed at it
            build(folder)
            (folder / "built").touch()
    return folder


def name_photograph(number: int) -> str:
    return f"trip/{number:04d}" if number % 3 else f"{number:04d}"


def make_folder(root: Path, numbers: Iterable[int]) -> list[tuple[str, str]]:
    """A miniature of what a user has: photographs, some in a folder of their own, and a table of tags.

    Args:
        root: Where to put it.
        numbers: Of the photographs.

    Returns:
        The id and the tags of each, as the table has them.
    """
    rows = []
    for number in numbers:
        photograph, mask, _ = draw_image(1, "train", number, 48, (1, 2))
        name = name_photograph(number)
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph).save(path)
        rows.append((name, ";".join(CLASS_NAMES[label - 1] for label in np.unique(mask) if 0 < label < 255)))
    write_tags(root, ("id", "tags"), rows)
    return rows


def write_tags(root: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with open(root / "tags.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
