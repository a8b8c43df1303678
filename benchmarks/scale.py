"""How time and memory of the stages that work on every image grow with the number of images.

    python benchmarks/scale.py
    python benchmarks/scale.py --images 100 200 400
    python benchmarks/scale.py --stages refine_crf
    python benchmarks/scale.py --images 1000 10582 82081 --stages prepare_data evaluate   # VOC's and COCO's sizes

The images are the embedded dataset's, over and over under other names, in one shard. Each stage runs in a process of
its own, which has run it on a few images before it is measured: what is loaded once does not count as growth.
"""

import argparse
import math
import multiprocessing
import os
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from report import Report, add_options

from rca.core.settings import load_params
from rca.data.shapes.dataset import generate_shapes
from rca.stages.base.layout import Layout
from rca.stages.base.pins import Instance, read_pins

STAGES = ("prepare_data", "make_cam", "make_pseudo", "refine_crf", "evaluate")
PRESET = Path(__file__).parents[1] / "workflow/presets/shapes.yaml"
PLACE: dict[str, Any] = {"run": "cam", "seed": 0}
PATHS = Layout("shapes").of(**PLACE)
DISTINCT, WARM_UP = 100, 16  # images
SLOPE, MEMORY = 1.05, 8192  # of time on a log-log plot, and bytes that an image adds to the peak of memory, at most


class Cost(NamedTuple):
    """What a stage took.

    Attributes:
        seconds: Of the processor, those of worker processes among them.
        peak: Bytes in memory at most.
    """

    seconds: float
    peak: int


def build_project(folder: Path, source: Path, images: int, workers: int, refined: bool) -> None:
    """Put down a project whose dataset has so many images, each a link to one of the source's.

    Refined masks are scored if they are made.
    """
    names = sorted(path.stem for path in (source / "JPEGImages").iterdir())
    root = folder / "data/shapes"
    for part in ("JPEGImages", "SegmentationClass"):
        (root / part).mkdir(parents=True)
        for number in range(images):
            os.link(source / part / f"{names[number % len(names)]}.png", root / part / f"image_{number:06}.png")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"image_{n:06}\n" for n in range(images)))
    (root / "classes.txt").write_text((source / "classes.txt").read_text())
    params = load_params(PRESET)
    params["dataset"]["splits"] = ["train"]
    params["generate_data"]["train"] = 0
    params["shards"] = [0]
    params["prepare_data"]["workers"] = params["refine_crf"]["workers"] = workers
    params["refine_crf"]["crf"]["iterations"] = 2  # how long a CRF takes, benchmarks/crf.py says
    params["make_cam"]["splits"] = ["train"]
    params["make_cam"]["inference"] = {"scales": [1.0], "flip": False, "batch_size": 8}
    params["train_seg"]["enabled"] = False
    kinds = {"seed": True, "pseudo": True, "refined": refined, "classification": True, "segmentation": False}
    params["evaluate"] = {**{kind: ["train"] if scored else [] for kind, scored in kinds.items()}, "examples": 4}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def run_stage(name: str, folder: Path) -> None:
    """Run one instance of a stage in a project."""
    os.chdir(folder)
    place = {} if name == "prepare_data" else dict(PLACE)
    if name in ("make_cam", "make_pseudo", "refine_crf"):
        place["shard"] = 0
    stage, context, task = read_pins().prepare(Instance(name, **place))
    stage.run(context, task)


def prepare(stage: str, folder: Path) -> None:
    """Run what comes between the measured stages, before one of them."""
    os.chdir(folder)
    if stage == "prepare_data":
        from rca.params.pin import pin  # here alone, since it imports all stages: their memory is not to be measured

        pin()
    if stage == "make_cam":
        write_network()
    if stage == "make_pseudo":
        run_stage("choose_threshold", folder)


def write_network() -> None:
    """Write a small network with random weights, for the project in the current folder."""
    import torch

    from rca.classifier.network import CamNetwork, NetworkDescription, save_network
    from rca.data.manifest import read_manifest

    classes = read_manifest(PATHS.dataset.manifest).classes
    torch.manual_seed(0)
    about = NetworkDescription(
        backbone="small",
        output_stride=8,
        neck=0,
        host="cam",
        method="cam",
        options={},
        classes=classes,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        initialisation="random weights",
    )
    save_network(PATHS.network, CamNetwork(about))


def measure(stage: str, few: Path, folder: Path) -> Cost:
    """Run a stage on a few images, then measure it on all."""
    run_stage(stage, few)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = read_processor_time()
    run_stage(stage, folder)
    seconds = read_processor_time() - before
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
    return Cost(seconds, int(line.split()[1]) * 1024)


def read_processor_time() -> float:
    """Seconds of the processor that this process and its ended children took."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def fit_slope(images: list[int], seconds: list[float]) -> float:
    """The slope of the straight line through the points on a log-log plot, by least squares."""
    return statistics.linear_regression([math.log(n) for n in images], [math.log(s) for s in seconds]).slope


def main() -> None:
    """Print what each stage takes, its slope and how far its memory grows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--side", type=int, default=96, help="of the images, in pixels")
    parser.add_argument("--workers", type=int, default=1, help="of prepare_data and refine_crf")
    parser.add_argument("--repeats", type=int, default=2, help="the fastest counts, and the highest peak")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which are measured")
    add_options(parser)
    given = parser.parse_args()
    report, rows = Report("Growth with the number of images", given), []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        generate_shapes(work / "source", train=DISTINCT, val=1, size=given.side, seed=0)
        folders = {images: work / str(images) for images in (WARM_UP, *given.images)}
        for images, folder in folders.items():
            build_project(folder, work / "source", images, given.workers, "refine_crf" in given.stages)
        few = folders.pop(WARM_UP)
        for stage in STAGES:
            if stage == "refine_crf" and stage not in given.stages:
                continue  # a CRF of so many images takes hours, and evaluate need not have it
            for folder in (few, *folders.values()):
                run_alone(prepare, stage, folder)
            run_alone(run_stage, stage, few)
            if stage not in given.stages:  # the stages after it need what it writes
                for folder in folders.values():
                    run_alone(run_stage, stage, folder)
                continue
            costs = []
            for folder in folders.values():
                found = [run_alone(measure, stage, few, folder) for _ in range(given.repeats)]
                costs.append(Cost(min(one.seconds for one in found), max(one.peak for one in found)))
            slope = fit_slope(given.images, [one.seconds for one in costs])
            each = max((costs[-1].peak - costs[0].peak) / (given.images[-1] - given.images[0]), 0.0)
            report.figure(f"{stage}: slope of seconds, log-log", slope, most=SLOPE)
            report.figure(f"{stage}: memory that an image adds", each, most=MEMORY, unit=" bytes")
            cells = [f"{one.seconds:.2f} s, {one.peak / 2**20:.1f} MiB" for one in costs]
            rows.append([stage, *cells, f"{each:.0f}"])
    caption = f"{given.side}x{given.side}, {given.workers} worker(s), processor seconds and peak of resident memory"
    header = ["", *(f"{images:,} images" for images in given.images), "bytes an image"]
    report.table(caption, header, rows)
    report.finish()


if __name__ == "__main__":
    main()
