"""How the time, the size and the first paint of the report grow with the number of photographs.

    python benchmarks/report_page.py
    python benchmarks/report_page.py --images 500 1000 2000

The photographs and masks are a hundred random ones, over and over under other names, as two runs of two seeds with
score maps and three kinds of masks; the gallery shows all of them. The first paint is Chromium's, without a window.
"""

import argparse
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from report import Report, add_options

from rca.core.files import write_mask
from rca.data.manifest import ImageRecord, Manifest, summarise
from rca.evaluation.errors import list_errors
from rca.evaluation.exhibits import write_scores
from rca.evaluation.figures import Counted, list_confusion, list_per_class
from rca.evaluation.image_counts import list_images
from rca.evaluation.mask_counts import Truth
from rca.evaluation.masks import Key
from rca.evaluation.tables import build_table
from rca.report.build import build_report
from rca.report.errors import ErrorTables
from rca.report.gallery import RunExamples
from rca.report.source import SeedResult, Source

CLASSES = tuple(f"class {number}" for number in range(1, 21))
KINDS = {"seed": "best", "refined": "best", "segmentation": ""}
RUNS, SEEDS, DISTINCT = ("cam", "rca"), 2, 100
Drawn = list[tuple[np.ndarray, dict[str, np.ndarray]]]  # truth and masks of the distinct images
SLOPE, PAINT = 1.05, 2.0  # of time on a log-log plot, and seconds to the first paint, at most


def draw_shape(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask with up to three discs."""
    mask, (rows, columns) = np.zeros((height, width), np.uint8), np.indices((height, width))
    for label in random.choice(len(CLASSES), random.integers(1, 4), replace=False) + 1:
        row, column, radius = random.random(3) * (height, width, height / 3)
        mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = label
    return mask


def draw_sources(folder: Path, side: int) -> Drawn:
    """Write the distinct photographs, true masks, masks and score maps, and return the masks."""
    random = np.random.default_rng(0)
    found = []
    for number in range(DISTINCT):
        place = folder / str(number)
        place.mkdir(parents=True)
        noise = random.integers(0, 256, (side // 8, side // 6, 3), np.uint8)
        Image.fromarray(noise).resize((side * 4 // 3, side)).save(place / "photograph.jpg")
        truth = draw_shape(random, side, side * 4 // 3)
        masks = {kind: np.roll(truth, random.integers(0, side // 8), 0) for kind in KINDS}
        for kind, mask in {"truth": truth, **masks}.items():
            write_mask(place / f"{kind}.png", mask)
        write_scores(place / "scores.png", (truth > 0)[None] * np.float32(random.random()))
        found.append((truth, masks))
    return found


def build_source(folder: Path, sources: Path, drawn: Drawn, images: int) -> Source:
    """Put down so many images, each a link to one of the sources, and what evaluate would write of them."""
    names = [f"image_{number:06}" for number in range(images)]
    (folder / "data").mkdir(parents=True)
    for number, name in enumerate(names):
        os.link(sources / str(number % DISTINCT) / "photograph.jpg", folder / "data" / f"{name}.jpg")
    height, width = drawn[0][0].shape
    records = tuple(
        ImageRecord(name, f"{name}.jpg", None, width, height, (number % 20,), ("val",), "main", "")
        for number, name in enumerate(names)
    )
    manifest = Manifest(folder / "data", CLASSES, records)
    results = {
        run: [make_result(folder / f"{run}-{seed}", sources, drawn, names) for seed in range(SEEDS)] for run in RUNS
    }
    metrics = {
        run: [{kind: {"val": {"miou": 0.5 + seed / 100}} for kind in KINDS} for seed in range(SEEDS)] for run in RUNS
    }
    return Source(
        title=None, dataset="generated", manifest=manifest, statistics=summarise(manifest), table=build_table(metrics),
        results=results, memories={}, pipeline={}, measurements=[], commit=None, params="", picture_width=240,
    )  # fmt: skip


def make_result(folder: Path, sources: Path, drawn: Drawn, names: list[str]) -> SeedResult:
    """What evaluate would write of one run and seed."""
    for number, name in enumerate(names):
        (folder / "examples" / name).mkdir(parents=True)
        for file in (sources / str(number % DISTINCT)).glob("*.png"):
            os.link(file, folder / "examples" / name / file.name)
    keys = {kind: Key(kind, "val", choice) for kind, choice in KINDS.items()}
    counts = {key: Counted(len(CLASSES)) for key in keys.values()}
    examples: list[tuple[str, str, int, float]] = []
    for truth, masks in drawn:
        for kind, key in keys.items():
            counts[key].add("", Truth(truth), masks[kind])
    for number, name in enumerate(names):
        for kind in KINDS:
            examples += [
                (name, kind, int(label), 0.5) for label in counts[keys[kind]].images[number % DISTINCT][1][:, 0]
            ]
    confusion, per_class = list_confusion(counts), list_per_class(counts, CLASSES, "count_as_error")
    errors = list_errors({key: each.errors for key, each in counts.items()}, CLASSES)
    by_image = {
        key: [(name, each.images[number % DISTINCT][1]) for number, name in enumerate(names)]
        for key, each in counts.items()
    }
    curve = pd.DataFrame({"threshold": np.arange(1, 50) / 50, "miou": 0.5, "pixels": 100, "right": 50})
    history = pd.DataFrame({"epoch": np.arange(1, 31), "loss_classification": np.arange(30, 0, -1) / 30})
    protocol: Any = {
        "lists": {"val": {"images": len(names), "sha256": "0" * 64}}, "tags": dict.fromkeys(KINDS, "given"),
        "tag_threshold": None, "predicted_ignore": "count_as_error", "best_on": "val", "boundary_distance": 0.02,
        "supervision": "tags", "initialisation": {},
    }  # fmt: skip
    table = pd.DataFrame(examples, columns=["image", "kind", "label", "iou"])
    return SeedResult(
        RunExamples(folder / "examples", table), per_class, list_images(by_image), ErrorTables(errors, confusion),
        protocol, curve, {"best": 0.5, "fixed": 0.3}, {"train_cam": history, "train_seg": history[:0]},
    )  # fmt: skip


def list_files(page: Path) -> Iterator[os.stat_result]:
    """The files of a page."""
    return (path.stat() for path in page.rglob("*") if path.is_file())


def time_paint(page: Path, browser: str) -> float:
    """Seconds from opening a page to its first paint of content, in Chromium without a window."""
    from playwright.sync_api import sync_playwright

    script = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"]).new_page()
        opened.goto((page / "index.html").as_uri())
        opened.locator("#gallery article").first.wait_for()
        return float(opened.evaluate(script)) / 1000


def main() -> None:
    """Print what a report takes, and how that grows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1500, 15000])
    parser.add_argument("--side", type=int, default=180, help="height of the photographs, in pixels")
    add_options(parser)
    given = parser.parse_args()
    report, rows, seconds = Report("The report's growth with the number of photographs", given), [], []
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        drawn = draw_sources(work / "sources", given.side)
        for images in (DISTINCT, *given.images):  # the first ones warm up
            source = build_source(work / str(images), work / "sources", drawn, images)
            page = work / str(images) / "report"
            page.mkdir()
            began = time.process_time()
            build_report(page, source)
            if images == DISTINCT:
                continue
            seconds.append(time.process_time() - began)
            sizes = [file.st_size for file in list_files(page)]
            data = {
                file: (page / f"{file}").stat().st_size / 2**20 for file in ("index.html", "gallery.js", "images.js")
            }
            shown = "not measured: no Chromium"
            if browser:
                paint = time_paint(page, browser)
                shown = f"{paint:.2f} s"
                report.figure(f"report of {images:,} photographs: first paint", paint, unit=" s", most=PAINT)
            rows.append([
                f"{images:,}", f"{seconds[-1]:.1f} s", f"{len(sizes):,}", f"{sum(sizes) / 2**20:.0f} MiB",
                *(f"{size:.2f} MiB" for size in data.values()), shown,
            ])  # fmt: skip
        slope = statistics.linear_regression(*([math.log(n) for n in each] for each in (given.images, seconds))).slope
        report.figure("report: slope of seconds, log-log", slope, most=SLOPE)
        header = ["photographs", "to build", "files", "in all", *data, "first paint"]
        report.table("Two runs of two seeds, all photographs in the gallery, processor seconds", header, rows)
    report.finish()


if __name__ == "__main__":
    main()
