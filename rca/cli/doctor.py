"""`rca doctor`: what this machine has of all that a run needs; `rca check` asks the same before anything runs."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rca.core.errors import UserError

if TYPE_CHECKING:
    from rca.params.schema import Params

GIGABYTE = 1e9
LEAST_DISK = 5 * GIGABYTE
PACKAGES = (
    "rca",
    "torch",
    "torchvision",
    "numpy",
    "pydantic",
    "dvc",
    "snakemake",
    "pydensecrf2",
    "timm",
    "onnx",
    "scikit-image",
)
EXTRAS = {  # what only some runs need
    "pydensecrf2": "rca[crf]",
    "timm": "rca[timm]",
    "onnx": "rca[export]",
    "scikit-image": "rca[segments]",
}
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Finding:
    """What is known of one thing that a run needs.

    Attributes:
        what: The thing.
        found: What was found.
        problem: What is wrong and what to do; "" if nothing is.
        stops: Whether a run cannot do without.
    """

    what: str
    found: str
    problem: str = ""
    stops: bool = False


def examine_machine() -> Iterator[Finding]:
    """What this machine has, whatever the project."""
    yield Finding("system", f"{platform.platform()}, Python {platform.python_version()}")
    yield from map(find_package, PACKAGES)
    yield find_tool("git", "git", "install git (Debian: apt-get install git)")
    if shutil.which("git"):
        yield find_author()
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), *COMPILERS))), "")
    missing = "" if compiler else "only needed to install pydensecrf2: apt-get install g++ (Debian)"
    yield Finding("C++ compiler", compiler or "none", missing)
    yield from find_devices()
    yield find_memory()
    disk = shutil.disk_usage(".")
    found = f"{disk.free / GIGABYTE:,.0f} of {disk.total / GIGABYTE:,.0f} GB are free here"
    yield Finding("disk", found, "free some space" if disk.free < LEAST_DISK else "")


def find_package(name: str) -> Finding:
    """Whether a package is installed."""
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        wanted = EXTRAS.get(name, name)
        return Finding(name, "not installed", f"pip install '{wanted}'", stops=name not in EXTRAS)


def find_tool(what: str, name: str, remedy: str) -> Finding:
    """Whether a program is installed."""
    place = shutil.which(name)
    return Finding(what, place or "none", "" if place else remedy, stops=not place)


def find_author() -> Finding:
    """Who git says makes commits; `rca init` does without, but the experiments of DVC do not."""
    found = subprocess.run(["git", "config", "user.email"], capture_output=True, text=True).stdout.strip()
    remedy = "`dvc exp run` and `git commit` need it: git config --global user.name NAME, and the same with user.email"
    return Finding("git's author", found or "unknown", "" if found else remedy)


def find_devices() -> Iterator[Finding]:
    """The GPUs, as the driver names them."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield Finding("GPU", f"none: everything runs on {os.cpu_count()} CPU cores")
        return
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        used = f"{memory.free / GIGABYTE:,.0f} of {memory.total / GIGABYTE:,.0f} GB are free"
        yield Finding(f"GPU {number}", f"{name}, {used}, driver {pynvml.nvmlSystemGetDriverVersion()}")
    pynvml.nvmlShutdown()


def find_memory() -> Finding:
    """The main memory."""
    import psutil

    memory = psutil.virtual_memory()
    return Finding("memory", f"{memory.available / GIGABYTE:,.0f} of {memory.total / GIGABYTE:,.0f} GB are free")


def examine_project(settings: "Params") -> Iterator[Finding]:
    """What the runs of a project need of this machine: engines, weights, the CRF and memory."""
    import psutil

    from rca.labels.segments import Superpixels
    from rca.models.probing import probe_weights
    from rca.stages.base.layout import Layout
    from rca.stages.refine_crf import RefineCrfSettings

    for engine in ("dvc", "snakemake"):
        if find_spec(engine) is None:
            yield Finding(engine, "not installed", f"{engine} is not installed: pip install {engine}", stops=True)
    layout = Layout(settings.dataset.name)
    needed = {"classifier": settings.classifier_needed, "segmenter": settings.segmenter_needed}
    for name, network in (("classifier", settings.classifier), ("segmenter", settings.segmenter)):
        if needed[name]:
            try:
                found = probe_weights(network.backbone, made=layout.weights(name))
                yield Finding(f"weights of the {name}", found)
            except UserError as error:
                yield Finding(f"weights of the {name}", "missing", str(error), stops=True)
    wishes = list_crfs(settings)
    if wishes and find_spec("pydensecrf") is None:
        remedy = "pydensecrf2 is not installed: pip install 'rca[crf]' (it takes a C++ compiler), or set "
        yield Finding("CRF", "not installed", remedy + " and ".join(wishes), stops=True)
    if find_spec("skimage") is None and any(
        isinstance(run.section(RefineCrfSettings).segments, Superpixels) for run in settings.weak_runs
    ):
        remedy = "scikit-image is not installed: pip install 'rca[segments]', or set refine_crf.segments to null"
        yield Finding("superpixels", "not installed", remedy, stops=True)
    total = psutil.virtual_memory().total / 1e6
    for stage, resources in settings.project.resources.items():
        if resources.mem_mb > total:
            remedy = f"resources.{stage}.mem_mb is {resources.mem_mb}, but this machine has {total:.0f} MB"
            yield Finding("memory", f"{total:.0f} MB", f"{remedy}: lower it, or run on a cluster")


def list_crfs(settings: "Params") -> list[str]:
    """What to set so that no run asks for a CRF; empty if none does."""
    from rca.stages.predict_seg import PredictSegSettings
    from rca.stages.refine_crf import RefineCrfSettings
    from rca.stages.relabel_masks import RelabelMasksSettings
    from rca.stages.train_affinity import TrainAffinitySettings

    weak, segmented = settings.weak_runs, settings.described.values() if settings.segmenter_needed else ()
    asked = {
        "refine_crf.enabled to false": any(
            refining.enabled and refining.segments is None
            for refining in (run.section(RefineCrfSettings) for run in weak)
        ),
        "train_affinity.labels.crf to null": any(
            run.maps == "walked" and run.section(TrainAffinitySettings).labels.crf for run in weak
        ),
        "relabel_masks.prediction.crf to null": any(
            "relabelled" in run.made_masks and own.crf
            for run in segmented
            if (own := run.section(RelabelMasksSettings).prediction)  # without its own, it is that of predict_seg
        ),
        "predict_seg.prediction.crf to null": any(run.section(PredictSegSettings).prediction.crf for run in segmented),
    }
    return [remedy for remedy, wish in asked.items() if wish]


def check_machine(settings: "Params") -> None:
    """Check that this machine has what the runs of a project need; print warnings.

    Raises:
        UserError: something without which a run would fail is missing.
    """
    for finding in examine_project(settings):
        if finding.stops:
            raise UserError(f"{finding.problem.removesuffix('.')}.")
        if finding.problem:
            print(f"warning: {finding.problem}.")


def diagnose() -> bool:
    """Print all that is known of this machine and, in a project, of what it needs.

    Returns:
        Whether nothing is missing without which a run would fail.
    """
    findings = list(examine_machine())
    if Path("params.yaml").is_file():
        from rca.params.read import read_params

        try:
            findings += examine_project(read_params())
        except UserError as error:
            findings.append(Finding("params.yaml", "not valid", str(error), stops=True))
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        mark = "MISSING" if finding.stops else "note" if finding.problem else "ok"
        print(f"{finding.what:{width}s}  {mark:7s}  {finding.found}")
        if finding.problem:
            print(f"{'':{width}s}           {finding.problem}")
    return not any(finding.stops for finding in findings)
