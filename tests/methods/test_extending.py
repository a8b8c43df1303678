"""docs/extending.md: its worked example is installed in a copy of the package, and trained and scored with."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rca.core.imports import PACKAGE
from rca.hosts.base import Host
from rca.methods.base import Method

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs/extending.md").read_text()
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL))
SCRIPT = """
from pathlib import Path
import rca
from rca.params.validate import read_params
from rca.stages.context import Context
from rca.stages.run import run_stage

assert Path(rca.__file__).is_relative_to(Path.cwd())
assert read_params(Path("params.yaml")).runs == ("cam", "centre")
of_run = [Context("train_cam", run="centre", seed=0), Context("make_cam", run="centre", seed=0, shard=0)]
before = [Context("generate_data", item="shapes"), Context("prepare_data"), Context("pin_method", run="centre")]
for context in (*before, Context("fetch_weights", item="train_cam"), Context("cache_features", shard=0), *of_run):
    assert run_stage(context) == 0, context.name
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the package with the example's file, and the embedded preset with its section, cut down."""
    shutil.copytree(PACKAGE, tmp_path / "rca", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rca/methods/centre.py").write_text(BLOCKS["python"])
    text = (ROOT / "workflow/presets/shapes.yaml").read_text()
    for old, new in (
        ("runs: [cam, rca]", "runs: [cam, centre]"),
        ("memory_runs: [rca]", "memory_runs: []"),
        ("train: 400, val: 100, size: 96", "train: 4, val: 2, size: 48"),
        ("epochs: 32\n    batch_size: 8", "epochs: 3\n    batch_size: 2"),
        ("crop: 96", "crop: 48"),
        ("\nprepare_data:", f"{BLOCKS['yaml']}\nprepare_data:"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "params.yaml").write_text(text)
    return tmp_path


def test_the_worked_example_trains_and_scores(project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    command = [sys.executable, "-W", "error::UserWarning:rca", "-c", SCRIPT]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    history = pd.read_csv(project / "runs/shapes/centre/0/train_cam.csv")
    assert len(history) == 3
    assert (history["loss_centre"] > 0).all()
    assert (history["loss_centre"] < 0.05).all()  # the weight, times a distance that is below 1 for close regions
    pinned = json.loads((project / "runs/shapes/methods/centre.json").read_text())
    assert pinned["method"] == "centre"
    assert {"methods/centre.py", "methods/parts/view_contrast.py", "hosts/cam.py"} < pinned["code"].keys()
    assert len(list((project / "runs/shapes/centre/0").glob("scores/*"))) == 1


def test_the_example_is_the_only_one() -> None:
    assert sorted(re.findall(r"```(\w+)", PAGE)) == ["python", "yaml"]


@pytest.mark.parametrize(("kind", "title"), [(Method, "## What a method may do"), (Host, "## What a host may do")])
def test_what_the_tables_name_is_there(kind: type, title: str) -> None:
    table = PAGE.split(title)[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert len(names) > 6
    assert all(hasattr(kind, name) for name in names), names
    public = {name for name in vars(kind) if not name.startswith("_")} - {"host"}
    assert public <= names
