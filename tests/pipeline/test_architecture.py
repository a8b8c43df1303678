"""What the parts may know of each other, and that dvc.yaml declares what the stages read and write."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rca.core.imports import PACKAGE, find_imports
from rca.params.instances import HEADER, list_instances
from rca.params.read import read_params
from rca.params.schema import load_stages
from rca.pipeline.resolve import INSTANCES, resolve_jobs
from rca.stages.base.layout import Layout
from rca.stages.base.stage import list_stages

ROOT = Path(__file__).parents[2]
MODULES = sorted(PACKAGE.rglob("*.py"))
# The rooms from the ground up: a room imports rooms before it, and no room after it.
ROOMS = (
    "core",
    "pipeline",
    "data",
    "labels",
    "models",
    "hosts",
    "methods",
    "training",
    "classifier",
    "segmentation",
    "evaluation",
    "report",
    "prediction",
    "exporting",
    "stages",
    "params",
    "cli",
)
# What knows the params file, the stages and the pipeline's paths. All else is the library.
FRONT = ("stages", "params", "cli", "pipeline")
# The modules that may import DVC.
ADAPTER = {"dvc_project", "dvc_patches", "dvc_job", "rwlock", "whole_lock", "targets"}
LIBRARY = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] not in FRONT]


def name_module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def relate(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def list_imports(path: Path) -> set[str]:
    """The dotted names that a module imports anywhere in its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update({str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


def list_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string in a module that is no docstring; of an f-string the fixed parts."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def read_templates() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml as they are written down, before DVC fills anything in."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: {**stage, **stage.get("do", {})} for name, stage in stages.items()}


TEMPLATES = read_templates()


# --- the house


def test_every_room_is_on_the_list() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)
    assert len(ROOMS) <= 19
    assert len(list(PACKAGE.glob("*.py"))) <= 3


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_upward(room: str) -> None:
    above = tuple(f"rca.{name}" for name in ROOMS[ROOMS.index(room) + 1 :])
    for path in (PACKAGE / room).rglob("*.py"):
        upward = {name for name in list_imports(path) if any(f"{name}.".startswith(f"{one}.") for one in above)}
        assert not upward, f"{relate(path)} imports {sorted(upward)}"


def test_modules_form_no_circle() -> None:
    graph = {path: {*find_imports(path)} - {path, PACKAGE / "__init__.py"} for path in MODULES}
    settled: set[Path] = set()
    while ready := {path for path, needed in graph.items() if path not in settled and needed <= settled}:
        settled |= ready
    assert not graph.keys() - settled


def test_files_and_functions_fit_on_a_screen() -> None:
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 310, relate(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 70, f"{relate(path)}: {node.name}"


def test_tests_mirror_the_rooms() -> None:
    assert set(ROOMS) <= {path.name for path in (ROOT / "tests").iterdir()}
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.relative_to(ROOT / "tests").parts[0]
        assert room in {*ROOMS, "real", "slurm", "benchmarks", "docs"}, path


def test_only_the_adapter_knows_dvc() -> None:
    for path in MODULES:
        known = {name for name in list_imports(path) if name.split(".")[0] in {"dvc", "snakemake"}}
        adapter = path.parent.name == "pipeline" and path.stem in ADAPTER
        assert adapter or not known, f"{relate(path)} imports {sorted(known)}"
    for path in (PACKAGE / "pipeline").glob("*.py"):
        inner = {name for name in list_imports(path) if name.startswith("rca.")}
        strange = {name for name in inner if not name.startswith(("rca.pipeline", "rca.core.errors"))}
        assert not strange, f"{relate(path)} imports {sorted(strange)}"


@pytest.mark.parametrize("stage", list_stages())
def test_a_stage_knows_no_other_stage(stage: str) -> None:
    others = tuple(f"rca.stages.{name}" for name in list_stages() if name != stage)
    known = {name for name in list_imports(PACKAGE / f"stages/{stage}.py") if name.startswith((*others, "rca.params"))}
    assert not known


# DVCLive's list of plots must have the name of the pipeline's file.
NAMESAKE = ("rca/training/curves.py", "dvc.yaml")


@pytest.mark.parametrize("path", LIBRARY, ids=relate)
def test_the_library_knows_no_path_of_the_pipeline(path: Path) -> None:
    # results/VOC2012 is a folder that VOC's server asks for.
    pattern = re.compile(
        r"^(runs|results(?!/VOC2012/)|data|logs)/|^(runs|results|logs)$|(params|dvc)\.yaml|\.dvc\b|Snakefile"
    )
    strings = [(line, text) for line, text in list_strings(path) if (relate(path), text) != NAMESAKE]
    known = [f"line {line}: {text!r}" for line, text in strings if pattern.search(text)]
    assert not known


def test_the_library_runs_without_the_engines_and_the_crf() -> None:
    names = [name_module(path) for path in LIBRARY]
    script = f"""
import importlib, sys
for name in ("dvc", "snakemake", "pydensecrf", "timm"):
    sys.modules[name] = None  # an import of it fails
for name in {names!r}:
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_are_computed_in_imports_at_three_known_places() -> None:
    places = [
        relate(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "__import__"}
    ]
    assert sorted(places) == ["rca/__init__.py", "rca/classifier/registry.py", "rca/stages/base/stage.py"]


# --- the pipeline


def test_dvc_yaml_is_read_by_people() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert len(text.splitlines()) <= 400
    assert text.count("${code}") == 1  # a dep of the first stage alone
    assert not re.findall(r"^ *- rca\b.*$", text, re.MULTILINE)


def test_a_stage_is_a_module_and_an_entry() -> None:
    assert next(iter(TEMPLATES)) == "pin_stages"
    assert {*TEMPLATES} == {"pin_stages", *list_stages()}


def list_further_keys(name: str, folder: Path) -> set[str]:
    """The keys of an instance of a stage of runs besides its axes, of an ensemble, whether the run needs it or not."""
    params, stage = yaml.safe_load((ROOT / "params.yaml").read_text()), load_stages()[name]
    params["run"]["both"] = {"averages": {"runs": params["runs"]}}
    params["runs"] = [*params["runs"], "both"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    task = read_params(folder / "params.yaml").make_task(name, stage, run="both")
    assert stage.item is not None
    part = {} if stage.parts is None else {"item": stage.parts(task, 0)[0]}
    return set(stage.item(task, {**part, "run": "both", "seed": 0, "shard": 0}))


@pytest.mark.parametrize("name", list_stages())
def test_an_entry_fits_its_module(name: str, tmp_path: Path) -> None:
    template, stage = TEMPLATES[name], load_stages()[name]
    axes = template.get("matrix", {"item": template["foreach"]} if "foreach" in template else {})
    lists = {"run": f"${{stages.{name}.runs}}", "seed": "${seeds}", "shard": "${shards}"}
    if stage.item is not None:  # instances by name, each with its axes and further keys
        assert axes == {"item": f"${{stages.{name}.each}}"}
        assert stage.axes in {("run", "seed"), ("run", "seed", "shard"), ("item", "run", "seed", "shard")}
        used = set(re.findall(r"\$\{item\.(\w+)\}", yaml.safe_dump(template["do"])))
        assert used == {*stage.axes, *list_further_keys(name, tmp_path), "place"}
    elif len(axes) == 1:  # a list of its own, which is empty where there is nothing to do
        assert axes == {axis: f"${{stages.{name}.{axis}s}}" for axis in stage.axes}
    else:
        assert axes == {axis: lists[axis] for axis in stage.axes}
    # DVC turns a mapping into options, each quoted for the shell.
    argument = "${item.place}" if stage.item is not None else "${item}" if axes else ""
    assert template["cmd"] == f"python -m rca.stages {name} {argument}".strip()
    key = name + (".${item.run}" if "run" in stage.axes else ".${item.item}" if "item" in stage.axes else "")
    assert {"runs/pins.json": [key]} in template["params"]


def test_declared_outputs_are_those_of_the_layout() -> None:
    params = read_params(ROOT / "params.yaml")
    layout = Layout(params.dataset.name)
    expected = {layout.manifest, layout.report, layout.root, layout.pinned_images, Path("runs/pins.json")}
    expected |= {layout.weights("classifier"), layout.weights("segmenter")}
    expected |= {layout.results / f"table.{suffix}" for suffix in ("csv", "md", "tex")}
    for run in params.runs:
        for seed in params.seeds:
            paths = layout.of(run, seed)
            expected |= {paths.network, paths.cam_history, paths.memory_history, paths.threshold, paths.threshold_curve}
            expected |= {paths.pinned_masks, paths.segmenter, paths.seg_history, paths.predictions}
            expected |= {paths.evaluation, paths.metrics, paths.per_class}
            expected |= {paths.memory} if run in params.memory_runs else set()
            for shard in params.shards:
                expected |= {paths.maps_of(shard, "scores")}
                expected |= {paths.masks_of("pseudo") / str(shard), paths.masks_of("refined") / str(shard)}
    declared = {Path(path) for job in resolve_jobs(ROOT) for path in job.outputs}
    assert declared == expected, (sorted(declared - expected), sorted(expected - declared))


def test_the_committed_instances_are_those_of_the_committed_params() -> None:
    text = (ROOT / INSTANCES).read_text()
    assert text.startswith(HEADER)
    assert yaml.safe_load(text)["stages"] == list_instances(read_params(ROOT / "params.yaml"))


def test_what_snakemake_reports_has_captions() -> None:
    kinds = {kind for job in resolve_jobs(ROOT) for kind in job.shown.values()}
    assert {f"{kind}.rst" for kind in kinds} | {"workflow.rst"} == {
        path.name for path in (ROOT / "workflow/captions").iterdir()
    }


def test_plots_have_titles_labels_and_known_templates() -> None:
    own = {path.stem for path in (ROOT / ".dvc/plots").iterdir()}
    plots = [plot for stage in TEMPLATES.values() for out in stage.get("plots", []) for plot in out.values()]
    assert len(plots) == 5
    for plot in plots:
        assert {"x", "y", "title", "x_label", "y_label"} <= plot.keys()
        assert plot.get("template", "linear") in {"linear", *own}


def test_the_committed_params_are_the_default_preset() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "workflow/presets/shapes.yaml").read_text()


def test_the_locked_requirements_name_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--" not in text
    assert " @ " not in text
