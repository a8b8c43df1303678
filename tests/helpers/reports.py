"""A small made-up project to report on, and a reader of its page."""

import json
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from snapshots import write_snapshot

from rca.core.files import IGNORE, write_json, write_mask
from rca.data.manifest import ImageRecord, Manifest, read_manifest, write_manifest
from rca.evaluation.errors import list_errors
from rca.evaluation.exhibits import write_memory, write_scores
from rca.evaluation.figures import Counted, list_confusion
from rca.evaluation.image_counts import list_images
from rca.evaluation.mask_counts import Truth
from rca.evaluation.masks import Key
from rca.evaluation.memory_statistics import Snapshot, read_snapshot
from rca.evaluation.tables import build_table
from rca.stages.base.context import Context
from rca.stages.base.names import list_stages
from rca.stages.render_report import STAGE, RenderReportTask

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>"
RUNS, SEEDS, IDS = ("cam", "a<b&c"), (0, 1), ("one", "two", "three.x")
HEIGHT, WIDTH = 48, 64
KINDS = ("seed", "seed_predicted_tags", "pseudo", "refined", "segmentation")
# Fill of a class that has prototypes, and of one that has not.
WRITTEN = (12, 3)
PROTOCOL = {
    "lists": {"train": {"images": 3, "sha256": "0123456789abcdef"}},
    "tags": {"seed": "given", "seed_predicted_tags": "predicted", "segmentation": "none"},
    "tag_threshold": 0.25,
    "predicted_ignore": "count_as_error",
    "best_on": "val",
    "boundary_distance": 0.02,
    "supervision": "tags",
    "initialisation": {"classification": "small (from scratch)"},
}
TASK = RenderReportTask(
    picture_width=64, runs=RUNS, memory_runs=RUNS[-1:], trained_runs=RUNS, seeds=SEEDS, shards=(0,), params_sha256=""
)
NONE = ("take_network", "train_affinity", "pin_scores", "pin_truth", "walk_scores", "cache_features")
INSTANCES = {stage: {"each": {}, "runs": [] if stage in NONE else list(RUNS)} for stage in list_stages()} | {
    "generate_data": {"items": ["shapes"]},
    "fetch_weights": {"items": ["classifier", "segmenter"]},
}
PARAMS = 'runs: [cam, "a<b&c"]\n# <i>a comment</i>\n'  # the page shows it as it is


@dataclass
class Page(HTMLParser):
    """Collects what the tests look at."""

    text: str
    folder: Path
    links: list[str] = field(default_factory=list)
    images: list[dict[str, str | None]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    words: str = ""
    in_cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.links += [value for name in ("src", "data-src", "href", "srcset") if (value := named.get(name))]
        if tag == "img":
            self.images.append(named)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def read_script(self, name: str) -> Any:
        """The data in a script beside the page, from which the page's own script makes its parts."""
        text = (self.folder / f"{name}.js").read_text(encoding="utf-8")
        return json.loads(text.removeprefix(f"globalThis.{name} = ").removesuffix(";\n"))

    @property
    def gallery(self) -> dict[str, Any]:
        """What the page's script makes the gallery of."""
        return self.read_script("gallery")

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        """The specifications of the charts, by name."""
        return self.read_script("charts")

    def find_row(self, name: str) -> list[str]:
        """The cells, white space collapsed, of the first row whose first cell is `name`."""
        return next(row for row in self.list_rows() if row and row[0] == name)

    def list_rows(self) -> list[list[str]]:
        """The cells of all tables, white space collapsed."""
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]


def draw_mask(shift: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:20, 4 + shift : 24 + shift] = 1
    mask[26:44, 30:50] = 2
    mask[26:44, 52:60] = IGNORE
    return mask


def draw_scores(shift: int) -> np.ndarray:
    """Score maps of two classes (2, H, W): lower from left to right, and nothing of the second."""
    scores = np.zeros((2, HEIGHT, WIDTH), np.float32)
    scores[0] = np.linspace(1, 0, WIDTH) / (1 + shift)
    return scores


def find_ious(shift: int) -> dict[int, float]:
    """The IoU of each label of a shifted mask and the one that is not: 20 x 16 pixels of class 1 move."""
    area, moved, total = 20 * 16, shift * 16, HEIGHT * WIDTH
    background = total - area - 20 * 18 - 8 * 18
    return {0: (background - moved) / (background + moved), 1: (area - moved) / (area + moved), 2: 1.0}


def write_evaluation(directory: Path, run: str, seed: int) -> dict:
    rng = np.random.default_rng([RUNS.index(run), seed])
    metrics = {
        "seed": {"train": {"best": {"miou": rng.random(), "precision": 0.5}, "fixed": {"miou": rng.random()}}},
        "segmentation": {"val": {"miou": rng.random()}},
        "classification": {"val": {"map": rng.random() if run == "cam" else None}},
    }
    lines = []
    for number, image_id in enumerate(IDS):
        lines += [(image_id, kind, label, iou) for kind in KINDS for label, iou in find_ious(number).items()]
        folder = directory / "examples" / image_id
        folder.mkdir(parents=True)
        write_mask(folder / "truth.png", draw_mask(0))
        write_scores(folder / "scores.png", draw_scores(number))
        for kind in KINDS:
            write_mask(folder / f"{kind}.png", draw_mask(number))
    pd.DataFrame(lines, columns=["image", "kind", "label", "iou"]).to_csv(directory / "examples.csv", index=False)
    figures = pd.DataFrame({"class": ["background", EVIL, "cat", "mean"], "iou": [0.9, rng.random(), None, 0.5]})
    groups = [("seed", "train", "best"), ("seed", "train", "fixed"), ("segmentation", "val", None)]
    tables = [figures.assign(kind=kind, split=split, threshold=choice) for kind, split, choice in groups]
    pd.concat(tables).to_csv(directory / "per_class.csv", index=False)
    write_counts(directory)
    write_json(directory / "evaluation.json", {"metrics": metrics, "protocol": PROTOCOL})
    curve = pd.DataFrame({"threshold": [0.25, 0.5, 0.75], "miou": rng.random(3), "precision": 0.5})
    curve = curve.assign(pixels=[40, 0, 20], right=[10, 0, 20 - seed])
    write_json(directory / "threshold.json", {"best": 0.5, "fixed": 0.375 + 0.125 * seed})
    curve.to_csv(directory / "threshold.csv", index=False)
    history = pd.DataFrame({"epoch": [1, 2], "learning_rate": 0.1, "loss_classification": rng.random(2)})
    history.to_csv(directory / "train_cam.csv", index=False)
    history.rename(columns={"loss_classification": "loss_cross_entropy"}).to_csv(
        directory / "train_seg.csv", index=False
    )
    return metrics


def write_counts(directory: Path) -> None:
    """Count the masks of all examples, as seeds and as segmentation."""
    counts = Counted(2)
    for number, image_id in enumerate(IDS):
        counts.add(image_id, Truth(draw_mask(0)), draw_mask(number))
    counted = dict.fromkeys((Key("seed", "train", "best"), Key("segmentation", "val", "")), counts)
    list_confusion(counted).to_csv(directory / "confusion.csv", index=False)
    list_errors({key: each.errors for key, each in counted.items()}, (EVIL, "cat")).to_csv(
        directory / "errors.csv", index=False
    )
    list_images({key: each.images for key, each in counted.items()}).to_csv(directory / "images.csv", index=False)


def remember(written: tuple[int, int]) -> Snapshot:
    """Put down what evaluate leaves of a memory of the last run's first seed."""
    path = write_snapshot(Path("memory.safetensors"), (EVIL, "cat"), IDS, written, size=12)
    directory = Path(f"runs/toy/evaluation/{RUNS[-1]}-0/memory")
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    write_memory(directory, path, read_manifest(Path("runs/toy/data")))
    return read_snapshot(path)


def build_project(folder: Path) -> None:
    """Write all that the report is made of into the current folder."""
    (folder / "data/toy").mkdir(parents=True)
    records = []
    for image_id in IDS:
        photograph = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(photograph).save(folder / f"data/toy/{image_id}.png")
        record = ImageRecord(image_id, f"{image_id}.png", None, WIDTH, HEIGHT, (0, 1), ("train", "val"), "main", "")
        records.append(record)
    (folder / "runs/toy/data").mkdir(parents=True)
    write_manifest(folder / "runs/toy/data", Manifest(Path("data/toy"), (EVIL, "cat"), tuple(records)))
    (folder / "params.yaml").write_text(PARAMS)
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "workflow").mkdir()
    write_json(folder / "workflow/instances.yaml", {"stages": INSTANCES})  # YAML as well
    remember(WRITTEN)
    metrics = {
        run: [write_evaluation(Path("runs/toy/evaluation") / f"{run}-{seed}", run, seed) for seed in SEEDS]
        for run in RUNS
    }
    (folder / "results/toy").mkdir(parents=True)
    build_table(metrics).to_csv("results/toy/table.csv", index=False, float_format="%.6f")


def render(project: Path, **changes: Any) -> Page:
    """Run the stage; `changes` are of its task."""
    STAGE.run(Context("render_report", "toy"), TASK.model_copy(update=changes))
    folder = project / "runs/toy/report"
    return Page((folder / "index.html").read_text(encoding="utf-8"), folder)
