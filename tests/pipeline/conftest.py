"""A toy project: the root's Snakefile and profiles over stages that take milliseconds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DVC_YAML = """\
stages:
  prepare:
    cmd: python step.py prepare data/images
    params: [size]
    outs: [data/images]
    meta: {resources: {mem_mb: 100, runtime: 5}, directories: [data/images]}
  train:
    matrix: {run: "${runs}", seed: "${seeds}"}
    cmd: python step.py train@${item.run}-${item.seed} runs/${item.run}-${item.seed}/model.txt
    deps: [data/images]
    params: ["run.${item.run}"]
    outs: ["runs/${item.run}-${item.seed}/model.txt"]
    meta: {resources: {gpu: "${gpu}", mem_mb: "${mem_mb}", runtime: 5}, threads: 1}
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
    metrics: [{results/table.json: {cache: false}}]
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


@dataclass
class Toy:
    """A toy project and the folder outside it where its stages note that they ran."""

    path: Path
    outside: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "SLURM_"))}
        bin_folder = str(Path(sys.executable).parent)
        path = f"{bin_folder}:{own['PATH']}"
        return {**own, "TOY": str(self.outside), "PATH": path, "TMPDIR": str(self.outside)}

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

    def run(self, *command: str, code: int = 0, **variables: str) -> str:
        """Run a command in the project, check its exit code and return what it printed."""
        process = self.start(*command, **variables)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == code, text
        return text

    def snakemake(self, *arguments: str, code: int = 0, **variables: str) -> str:
        return self.run("snakemake", "--cores", "2", *arguments, code=code, **variables)

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.path / file).read_text()
        assert old in text
        (self.path / file).write_text(text.replace(old, new))

    def list_ran(self) -> list[str]:
        """Return the names of the stages whose commands ran since the last call, sorted."""
        ledger = self.outside / "ran"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        ledger.unlink(missing_ok=True)
        return sorted(line.split()[0] for line in lines)


def build_toy(folder: Path) -> Toy:
    toy = Toy(folder / "project", folder / "outside")
    toy.outside.mkdir(parents=True)
    toy.path.mkdir()
    for name, text in {"dvc.yaml": DVC_YAML, "params.yaml": PARAMS, "step.py": STEP}.items():
        (toy.path / name).write_text(text)
    (toy.path / ".gitignore").write_text("/data/\n/runs/\n/logs/\n/.snakemake/\n/.rca/\n")
    for name in ("Snakefile", ".dvcignore"):
        shutil.copy(ROOT / name, toy.path)
    shutil.copytree(ROOT / "profiles", toy.path / "profiles")
    toy.run("git", "init", "-q")
    toy.run("git", "config", "user.email", "toy@example.org")
    toy.run("git", "config", "user.name", "toy")
    toy.run("dvc", "init", "-q")
    toy.run("dvc", "config", "core.analytics", "false")
    return toy


@pytest.fixture(scope="session", autouse=True)
def dvc_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what DVC remembers of toy projects out of the machine's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        yield


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A fresh toy project."""
    return build_toy(tmp_path)


@pytest.fixture(scope="session")
def finished_template(dvc_caches: None, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = build_toy(tmp_path_factory.mktemp("finished"))
    toy.run("dvc", "repro", "-q")
    toy.run("git", "add", ".")
    toy.run("git", "commit", "-qm", "finished")
    toy.list_ran()
    return toy


@pytest.fixture
def finished(finished_template: Toy, tmp_path: Path) -> Toy:
    """A toy project that `dvc repro` finished and git committed."""
    shutil.copytree(finished_template.path, tmp_path / "project", symlinks=True)
    (tmp_path / "outside").mkdir()
    return Toy(tmp_path / "project", tmp_path / "outside")
