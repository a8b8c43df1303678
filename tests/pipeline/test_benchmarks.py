"""The benchmarks still run on the code as it is, on small sizes: what they print is no test's business."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHARED = os.environ.get("RCA_SHARED", "")
needs_shared = pytest.mark.skipif(not SHARED, reason="set RCA_SHARED to a folder with msrc and ImageNet weights")
INSTALLED = Path(sysconfig.get_path("purelib"), "rca_whole_lock.pth").exists()
needs_installed = pytest.mark.skipif(not INSTALLED, reason="rca is not installed beside this Python: `make setup`")

pytestmark = pytest.mark.slow


def compose(results: list[dict[str, Any]]) -> str:
    """The page of docs/benchmarks.md, as benchmarks/__main__.py puts it together."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_main", ROOT / "benchmarks/__main__.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return str(module.compose(results))


@pytest.mark.parametrize(
    ("script", "arguments", "printed"),
    [
        ("train_step", "--backbone small --side 65 --batch 2 --steps 1 --classes 3", "3 classes"),
        ("pairs", "--backbone small --side 64 --batch 2 --steps 1", "seam_mcis"),
        ("score_maps", "--backbone small --side 64 --images 2 --repeats 1", "rca_extended"),
        ("files", "--masks 4 --images 4 --side 64 --files 3 --large 1 --repeats 1", "cat"),
        ("references", "--backbone small --side 64 --images 3 --repeats 1", "5"),
        ("walk", "--size 96 72 --memory 8", "96x72"),
        ("jobs", "--jobs 6 10 --repeats 1 --cluster 2 --slots 2", "2 jobs of one second in 2 slots"),
        ("scale", "--images 20 40 --repeats 1", "evaluate: slope"),
        ("report_page", "--images 20 40 --side 48", "report: slope"),
        pytest.param("crf", "--images 1 --repeats 1 --workers 1", "81", marks=needs_shared),
    ],
)
def test_a_benchmark_runs(tmp_path: Path, script: str, arguments: str, printed: str) -> None:
    results = tmp_path.with_suffix(".json")
    done = subprocess.run(
        [sys.executable, ROOT / f"benchmarks/{script}.py", *arguments.split(), "--json", results],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert printed in done.stdout
    assert not list(tmp_path.iterdir()), "a benchmark leaves nothing behind"
    page = compose([json.loads(results.read_text())])
    assert printed in page
    assert f"`python benchmarks/{script}.py {arguments}`" in page


@needs_installed
def test_kills_are_tried(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/faults.py", "--kills", "2", "--toy"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("as undisturbed") == 2 + 2  # each kill, and the count of each engine
    assert not list(tmp_path.iterdir()), "a benchmark leaves nothing behind"
