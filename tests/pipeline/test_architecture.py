"""What the parts may know of each other, and that dvc.yaml declares what the code reads and writes."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rca.stages.layout import Layout
from rca.stages.run import STAGES

from rca.core.imports import PACKAGE, find_closure
from rca.core.settings import load_params
from rca.pipeline.resolve import resolve_stages

ROOT = Path(__file__).parents[2]
MODULES = sorted(PACKAGE.rglob("*.py"))
# What a person meets: it knows the params file and the stages. All else outside `stages` and `pipeline` is the library.
FRONT = {"cli", "params"}
LIBRARY = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] not in {"pipeline", "stages", *FRONT}]


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
    return {name: stage.get("do", stage) for name, stage in stages.items()}


TEMPLATES = read_templates()


@pytest.mark.parametrize("stage", TEMPLATES)
def test_a_stage_depends_on_the_code_that_it_runs(stage):
    deps = TEMPLATES[stage].get("deps", [])
    declared = {dep for dep in deps if dep.startswith("rca/") and (ROOT / dep).is_file()}
    modules = find_closure([PACKAGE / "stages/run.py", PACKAGE / "stages" / f"{stage}.py"])
    # Templates and styles lie beside the modules that read them.
    beside = {file for module in modules if module.parent != PACKAGE for file in module.parent.iterdir()}
    needed = {relate(path) for path in (*modules, *(file for file in beside if file.suffix not in {".py", ""}))}
    assert declared == needed, (
        f"dvc.yaml, {stage}: missing deps {sorted(needed - declared)}, superfluous deps {sorted(declared - needed)}"
    )
    assert len(deps) == len(set(deps))


def test_stages_depend_on_modules_that_are_imported_by_name():
    methods = "runs/${dataset.name}/methods/${item.run}.json"
    network = PACKAGE / "classifier/network.py"
    builders = {
        stage
        for stage in TEMPLATES
        if network in find_closure([PACKAGE / "stages" / f"{stage}.py"]) and stage != "pin_method"
    }
    assert builders == {"train_cam", "snapshot_memory", "make_cam"}
    for stage in builders:
        assert methods in TEMPLATES[stage]["deps"], (
            f"dvc.yaml: {stage} builds a network but does not depend on {methods}"
        )
    assert {"rca/hosts", "rca/methods"} <= set(TEMPLATES["pin_method"]["deps"])


def test_names_are_computed_in_imports_at_three_known_places():
    places = [
        relate(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "__import__"}
    ]
    assert sorted(places) == ["rca/__init__.py", "rca/classifier/registry.py", "rca/stages/run.py"]


def test_declared_stages_are_those_that_can_be_run():
    assert set(TEMPLATES) == set(STAGES)
    assert {path.stem for path in (PACKAGE / "stages").glob("*.py")} == {
        *STAGES,
        *("__init__", "context", "layout", "run", "switches"),
    }


def test_declared_outputs_are_those_of_the_layout():
    params = load_params(ROOT / "params.yaml")
    layout = Layout(params["dataset"]["name"])
    expected = {layout.manifest, layout.report}
    expected |= {path for shard in params["shards"] for path in layout.feature_shard(shard)}
    expected |= {layout.weights("train_cam"), layout.weights("train_seg")}
    expected |= {Path("data", name) for name in params["generate"]}
    expected |= {layout.method(run) for run in params["runs"]}
    expected |= {layout.results / f"table.{suffix}" for suffix in ("csv", "md", "tex")}
    for run in params["runs"]:
        for seed in params["seeds"]:
            paths = layout.of(run, seed)
            expected |= {
                paths.network,
                paths.cam_history,
                paths.pinned_scores,
                paths.affinity,
                paths.affinity_history,
                paths.threshold,
                paths.threshold_curve,
                paths.segmenter,
            }
            expected |= {
                paths.pinned_masks,
                paths.memory_history,
                paths.seg_history,
                paths.predictions,
                paths.evaluation,
                paths.metrics,
                paths.per_class,
            }
            expected |= {paths.memory} if run in params["memory_runs"] else set()
            for shard in params["shards"]:
                expected |= {
                    paths.score_shard(shard),
                    paths.walked_shard(shard),
                    paths.pseudo / str(shard),
                    paths.refined / str(shard),
                }
    declared = {Path(path) for stage in resolve_stages(ROOT) for path in stage.outputs}
    assert declared == expected, (sorted(declared - expected), sorted(expected - declared))


def test_what_snakemake_reports_has_captions():
    kinds = {kind for stage in resolve_stages(ROOT) for kind in stage.shown.values()}
    assert {f"{kind}.rst" for kind in kinds} | {"workflow.rst"} == {
        path.name for path in (ROOT / "workflow/captions").iterdir()
    }


def test_plots_have_titles_labels_and_known_templates():
    own = {path.stem for path in (ROOT / ".dvc/plots").iterdir()}
    plots = [plot for stage in TEMPLATES.values() for out in stage.get("plots", []) for plot in out.values()]
    assert len(plots) == 5
    for plot in plots:
        assert {"x", "y", "title", "x_label", "y_label"} <= plot.keys()
        assert plot.get("template", "linear") in {"linear", *own}


def test_only_the_bridge_knows_dvc():
    outside = [path for path in MODULES if path.parent != PACKAGE / "pipeline"]
    for path in outside:
        known = {name for name in list_imports(path) if name.split(".")[0] in {"dvc", "snakemake"}}
        assert not known, f"{relate(path)} imports {sorted(known)}"
    for path in (PACKAGE / "pipeline").glob("*.py"):
        inner = {name for name in list_imports(path) if name.startswith("rca.")}
        strange = {name for name in inner if not name.startswith(("rca.pipeline", "rca.core.errors"))}
        assert not strange, f"{relate(path)} imports {sorted(strange)}"


def test_knowledge_flows_one_way():
    """The library knows no stage; a stage knows no other stage, no bridge and nothing of the command line."""
    front = tuple(f"rca.{name}" for name in FRONT)
    shared = {f"rca.stages.{name}" for name in ("context", "layout", "switches")}
    for path in MODULES:
        names = list_imports(path)
        if path in LIBRARY:
            forbidden = {
                name for name in names if name.startswith(("rca.stages", "rca.pipeline")) or name.startswith(front)
            }
        elif path.parent.name == "stages":
            stages = {f"rca.stages.{name}" for name in STAGES}
            forbidden = {name for name in names if name.startswith(("rca.pipeline", *front)) or name in stages - shared}
        else:
            continue
        assert not forbidden, f"{relate(path)} imports {sorted(forbidden)}"


@pytest.mark.parametrize("path", LIBRARY, ids=relate)
def test_the_library_knows_no_path_of_the_pipeline(path):
    pattern = re.compile(r"^(runs|results|data|logs)/|^(runs|results|logs)$|(params|dvc)\.yaml|\.dvc\b|Snakefile")
    known = [f"line {line}: {text!r}" for line, text in list_strings(path) if pattern.search(text)]
    assert not known


def test_the_library_runs_without_the_engines_and_the_crf():
    names = [name_module(path) for path in LIBRARY]
    script = f"""
import importlib, sys
for name in ("dvc", "snakemake", "pydensecrf", "timm"):
    sys.modules[name] = None  # an import of it fails
for name in {names!r}:
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_committed_params_are_the_default_preset():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "workflow/presets/shapes.yaml").read_text()


def test_the_locked_requirements_name_no_place():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--" not in text
    assert " @ " not in text
