"""docs/extending.md: its worked example is installed in a copy of the package, and trained and scored with."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from rca.core.imports import PACKAGE
from rca.hosts.base import Host
from rca.methods.base import Method
from rca.stages.base.stage import Stage

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs/extending.md").read_text()
METHOD_PART, STAGE_PART = PAGE.split("## A stage of your own")
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", METHOD_PART, re.DOTALL))
SCRIPT = """
import sys
from pathlib import Path
import rca
from stages import PREPARE, run_stages
from rca.params.read import read_params
from rca.stages.base.pins import Instance

assert Path(rca.__file__).is_relative_to(Path.cwd())
name, *stages = sys.argv[1:]
assert read_params().runs == ("cam", name)
of_run = [Instance("train_cam", run=name, seed=0), Instance("make_cam", run=name, seed=0, shard=0)]
run_stages(*(instance for instance in (*PREPARE, *of_run) if not stages or instance.stage in stages))
"""
EDIT = """
import json
from pathlib import Path
from rca.params.pin import pin

def read_pins():
    pin()
    return json.loads(Path("runs/pins.json").read_text())

pins = [read_pins()]
for name in ("methods/centre.py", "methods/parts/view_contrast.py"):  # the method, and what it imports
    with open(f"rca/{name}", "a") as file:
        file.write("# an edit")
    pins.append(read_pins())
print(json.dumps(pins))
"""


# A method that asks for all that the interface offers: pairs of images, a second view, a head and a memory of its own.
FIFTH = """
import torch
from torch import Tensor, nn

from rca.core.settings import Settings
from rca.data.loading.images import Sample
from rca.hosts.base import MakeHost
from rca.methods.base import Method
from rca.models.output import Output


class FifthOptions(Settings):
    weight: float = 1.0


class Fifth(Method):
    Options = FifthOptions
    needs_second_view = True
    pairs_images = True

    def __init__(self, options: FifthOptions, channels: int, classes: int, make_host: MakeHost) -> None:
        super().__init__(options, channels, classes, make_host)
        self.options = options
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, features: Tensor, valid: Tensor) -> Output:
        return super().forward(features, valid)._replace(extras={"head": self.head(features)})

    def compute_losses(self, output: Output, batch: Sample, epoch: int) -> dict[str, Tensor]:
        losses = super().compute_losses(output, batch, epoch)
        first, second = batch.tags.chunk(2)
        assert ((first * second).sum(1) > 0).all()  # partners share a class
        assert output.second.maps.shape[0] == len(batch.tags)
        assert output.second.maps.shape[2:] < output.maps.shape[2:]
        views = [view.extras["head"].mean((2, 3)) for view in (output, output.second)]
        losses["views"] = self.options.weight * (views[0] - views[1]).square().mean()
        beside = self.score_beside(output.features, output.features.roll(len(first), 0), output.valid)
        losses["pairs"] = self.host.classification_loss(beside, output.valid, batch.tags, batch.weight)
        return losses

    def score_beside(self, features: Tensor, others: Tensor, valid: Tensor) -> Tensor:
        share = (others * valid).sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True)
        return self.head(features * share)


METHOD = Fifth
"""
FIFTH_SECTION = """
  fifth:
    method: fifth
    options: {weight: 0.5}
    train_cam: {second_view: 0.5}
"""
ALONE = "    make_cam: {references: {number: 0}}\n"


def make_project(folder: Path, name: str, code: str, section: str) -> Path:
    """A copy of the package with a method's file, and the embedded preset with its section, cut down."""
    shutil.copytree(PACKAGE, folder / "rca", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / f"rca/methods/{name}.py").write_text(code)
    text = (ROOT / "workflow/presets/shapes.yaml").read_text()
    for old, new in (
        ("runs: [cam, rca]", f"runs: [cam, {name}]"),
        ("train: 400, val: 100, size: 96", "train: 4, val: 2, size: 48"),
        ("epochs: 32, batch_size: 8", "epochs: 3, batch_size: 2"),
        ("crop: 96", "crop: 48"),
        ("\nprepare_data:", f"{section}\nprepare_data:"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the worked example."""
    return make_project(tmp_path, "centre", BLOCKS["python"], BLOCKS["yaml"])


def run_python(project: Path, script: str, *arguments: str) -> str:
    """What a script prints that imports the copy of the package."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), str(ROOT / "tests/helpers")])}
    command = [sys.executable, "-W", "error::UserWarning:rca", "-c", script, *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_worked_example_trains_and_scores(project: Path) -> None:
    run_python(project, SCRIPT, "centre")
    history = pd.read_csv(project / "runs/shapes/centre/0/train_cam.csv")
    assert len(history) == 3
    assert (history["loss_centre"] > 0).all()
    assert (history["loss_centre"] < 0.05).all()  # the weight, times a distance that is below 1 for close regions
    assert (project / "runs/shapes/centre/0/maps/0/scores.safetensors").is_file()


def test_a_method_with_pairs_a_second_view_and_a_head_is_one_file(tmp_path: Path) -> None:
    make_project(tmp_path, "fifth", FIFTH, FIFTH_SECTION)
    run_python(tmp_path, SCRIPT, "fifth")
    of_run = tmp_path / "runs/shapes/fifth/0"
    history = pd.read_csv(of_run / "train_cam.csv")
    assert {"loss_classification", "loss_views", "loss_pairs"} <= set(history)
    assert (history[["loss_views", "loss_pairs"]] > 0).all(axis=None)
    assert any(name == "method.head.weight" for name in load_file(of_run / "model/network.safetensors"))
    beside = load_file(of_run / "maps/0/scores.safetensors")
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace(FIFTH_SECTION, FIFTH_SECTION + ALONE))
    run_python(tmp_path, SCRIPT, "fifth", "make_cam")
    alone = load_file(of_run / "maps/0/scores.safetensors")
    assert beside.keys() == alone.keys()
    assert all((beside[name] == alone[name]).all() for name in ("logits", "tags"))
    assert any((beside[name] != alone[name]).any() for name in beside if name.startswith("maps/"))
    named = {path for path in (tmp_path / "rca").rglob("*.py") if "fifth" in path.read_text().lower()}
    assert named == {tmp_path / "rca/methods/fifth.py"}


def test_an_edit_to_the_method_concerns_its_own_runs_alone(project: Path) -> None:
    before, *after = json.loads(run_python(project, EDIT))
    assert len(after) == 2
    for edited in after:
        for stage in ("train_cam", "make_cam"):
            assert edited[stage]["cam"] == before[stage]["cam"]
            assert edited[stage]["centre"]["code"] != before[stage]["centre"]["code"]
            assert edited[stage]["centre"]["settings"] == before[stage]["centre"]["settings"]
        assert edited["make_pseudo"] == before["make_pseudo"]
        before = edited


def test_each_example_has_a_module_and_an_entry() -> None:
    for part in (METHOD_PART, STAGE_PART):
        assert sorted(re.findall(r"```(\w+)", part)) == ["python", "yaml"]


def test_the_page_names_the_fields_of_a_stage() -> None:
    rows = re.findall(r"^\| (`.*?) \|", STAGE_PART, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {field.name for field in fields(Stage)}


@pytest.mark.parametrize("kind", [Method, Host])
def test_the_tables_list_exactly_what_can_be_overridden(kind: type) -> None:
    table = PAGE.split(f"## What a {kind.__name__.lower()} can override")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert len(names) > 6
    assert all(hasattr(kind, name) for name in names), names
    public = {name for name in vars(kind) if not name.startswith("_")}
    assert public <= names
