"""The cost of the CRF against the plain call of its library on one core, and its scaling over cores.

    RCA_SHARED=../shared python benchmarks/crf.py
    RCA_SHARED=../shared python benchmarks/crf.py --workers 1 2 4 8

The photographs are MSRC's, enlarged to 640x480. The score maps are class activation maps: a linear classifier on the
frozen features of MobileNetV2 (ImageNet weights) learns the tags of the training photographs here, in a minute. The
plain call is that of pydensecrf's own examples, over all labels of a dataset; ours is `refine_masks` over the labels
that an image shows. Each runs in its own process, and they take turns; ours keeps freed memory in its process, as the
stage refine_crf does.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from report import Report, add_options

from rca.core.files import read_photograph
from rca.core.heap import keep_freed_memory
from rca.labels.background import PowerBackground
from rca.labels.crf import CrfSettings
from rca.labels.crf_fast import refine_masks
from rca.labels.score_maps import enlarge

WIDTH, HEIGHT = 640, 480
PRESET = Path(__file__).parent.parent / "workflow/presets/msrc.yaml"
CRF = CrfSettings()  # PSA's energies
BACKGROUND = PowerBackground(kind="power", alpha=8)
THRESHOLDS = (BACKGROUND.find_threshold(), 0.5)


class Task(NamedTuple):
    """One image.

    Attributes:
        photograph: (HEIGHT, WIDTH, 3), uint8.
        probabilities: (L, HEIGHT, WIDTH), float32, for each threshold.
        labels: (L,), uint8, the labels that the image shows, the background first.
    """

    photograph: np.ndarray
    probabilities: list[np.ndarray]
    labels: np.ndarray


class Measurement(NamedTuple):
    """The result of a process: its process seconds, and a mask per threshold."""

    seconds: float
    masks: list[np.ndarray]


def make_tasks(shared: Path, images: int, labels: int) -> list[Task]:
    """Images that show this number of labels, background included, with their class activation maps."""
    import torch
    from PIL import Image
    from torch.nn import functional

    from rca.core.normalisation import normalise_maps
    from rca.core.settings import build_settings, load_params
    from rca.data.formats.dataset import build_dataset_settings, read_dataset
    from rca.data.loading.images import normalise
    from rca.models.backbones import build_backbone
    from rca.models.storage import load_tensors
    from rca.models.weights import BackboneSettings, fetch_weights

    params = load_params(PRESET)
    manifest = read_dataset(shared / "data/msrc", build_dataset_settings(params["dataset"], PRESET))
    settings = build_settings(BackboneSettings, params["train_cam"]["backbone"], "train_cam.backbone", PRESET)
    weights = settings.weights.model_copy(update={"path": shared / "weights" / settings.weights.path.name})
    backbone = build_backbone(settings.name, settings.output_stride).eval()
    with tempfile.TemporaryDirectory() as folder:
        fetch_weights(settings.model_copy(update={"weights": weights}), Path(folder, "weights"))
        backbone.load_state_dict(load_tensors(Path(folder, "weights"), "")[0])

    @torch.no_grad()
    def encode(record):
        photograph = read_photograph(manifest.photograph(record))
        return backbone(normalise(photograph, weights.mean, weights.std)[None])[1][0]

    chosen = [record for record in manifest.images if len(record.tags) == labels - 1][:images]
    records = [record for record in manifest.select("train") if record not in chosen]
    pooled = torch.stack([encode(record).mean((1, 2)) for record in records])
    tags = torch.from_numpy(np.stack([manifest.encode_tags(record) for record in records]))
    classifier = torch.nn.Linear(pooled.shape[1], tags.shape[1])
    optimiser = torch.optim.Adam(classifier.parameters(), 1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        functional.multilabel_soft_margin_loss(classifier(pooled), tags).backward()
        optimiser.step()
    tasks = []
    for record in chosen:
        weight = classifier.weight.detach()[list(record.tags)]
        maps = torch.einsum("kd,dhw->khw", weight, encode(record)).relu()
        scores = enlarge(normalise_maps(maps).numpy(), HEIGHT, WIDTH)
        picture = Image.fromarray(read_photograph(manifest.photograph(record)))
        photograph = np.array(picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        probabilities = [
            np.concatenate([BACKGROUND.score(scores, threshold)[None], scores]) for threshold in THRESHOLDS
        ]
        tasks.append(Task(photograph, probabilities, np.array([0, *(tag + 1 for tag in record.tags)], np.uint8)))
    return tasks


def refine_plainly(task: Task, count: int) -> Measurement:
    """The first mask over all labels of a dataset, as in pydensecrf's examples."""
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    start = time.process_time()
    probabilities = np.zeros((count, HEIGHT, WIDTH), np.float32)
    probabilities[task.labels] = task.probabilities[0] / task.probabilities[0].sum(0)
    field = densecrf.DenseCRF2D(WIDTH, HEIGHT, count)
    field.setUnaryEnergy(unary_from_softmax(probabilities))
    field.addPairwiseGaussian(sxy=CRF.gaussian_sxy, compat=CRF.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=CRF.bilateral_sxy, srgb=CRF.bilateral_srgb, rgbim=task.photograph, compat=CRF.bilateral_weight
    )
    mask = np.argmax(field.inference(CRF.iterations), axis=0).reshape(HEIGHT, WIDTH)
    return Measurement(time.process_time() - start, [mask])


def refine(task: Task, masks: int) -> Measurement:
    """The first masks over the labels that the image shows, as the pipeline computes them."""
    import pydensecrf.densecrf  # noqa: F401 - its import is not timed

    keep_freed_memory()
    start = time.process_time()
    refined = refine_masks(task.photograph, task.probabilities[:masks], task.labels, CRF)
    return Measurement(time.process_time() - start, refined)


# By name: the function, its argument, and the number of masks.
VARIANTS = {
    "plain, 21 labels": (refine_plainly, 21, 1),
    "plain, 81 labels": (refine_plainly, 81, 1),
    "ours, one mask": (refine, 1, 1),
    "ours, two masks": (refine, 2, 2),
}


def compare(report: Report, tasks: list[Task], repeats: int) -> None:
    """Report seconds, ratios and agreement."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    masks: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for name in VARIANTS
        }
        for task in tasks:
            for name in VARIANTS:
                seconds[name].append([])
            for repeat in range(repeats):
                for name, (function, argument, count) in VARIANTS.items():
                    measured = processes[name].submit(function, task, argument).result()
                    seconds[name][-1].append(measured.seconds / count)
                    if not repeat:
                        masks[name].append(measured.masks[0])
    fastest = {name: [min(times) for times in of_images] for name, of_images in seconds.items()}
    rows = [[name, f"{statistics.mean(times):.3f}"] for name, times in fastest.items()]
    caption = f"{len(tasks)} images of {WIDTH}x{HEIGHT} with {len(tasks[0].labels)} labels, {CRF.iterations} iterations"
    report.table(caption, ["", "processor seconds a mask"], rows)
    for ours in ("ours, two masks", "ours, one mask"):
        for plain, least in (("plain, 21 labels", 4.0), ("plain, 81 labels", 12.0)):
            ratios = [slow / fast for slow, fast in zip(fastest[plain], fastest[ours], strict=True)]
            least_of_ours = least if ours == "ours, two masks" else None
            report.figure(f"CRF: {plain} over {ours}", statistics.mean(ratios), ratios, least=least_of_ours)
            equal = [float((mask == other).mean()) for mask, other in zip(masks[plain], masks[ours], strict=True)]
            report.figure(f"CRF: pixels of {ours} equal to {plain}", min(equal), equal, least=0.999)


def scale(report: Report, tasks: list[Task], workers: list[int]) -> None:
    """Report the images per second that each number of processes refines, two masks per image."""
    alone, rows = 0.0, []
    for number in workers:
        many = [tasks[index % len(tasks)] for index in range(4 * number)]
        with ProcessPoolExecutor(number, mp_context=get_context("spawn")) as pool:
            list(pool.map(refine, many, [2] * len(many)))  # warms up
            start = time.perf_counter()
            spent = sum(measured.seconds for measured in pool.map(refine, many, [2] * len(many)))
            seconds = time.perf_counter() - start
        rate = len(many) / seconds
        alone = alone or rate / number
        rows.append([str(number), f"{rate:.2f}", f"{rate / alone:.2f}", f"{spent / len(many):.3f}"])
    header = ["workers", "images/s", "of one", "processor seconds an image"]
    report.table("Two masks an image, on the clock", header, rows)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[3], help="labels per image, background included")
    parser.add_argument("--images", type=int, default=4, help="images per number of labels")
    parser.add_argument("--repeats", type=int, default=3, help="timed repeats; the fastest counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of processes for the scaling")
    add_options(parser)
    args = parser.parse_args()
    report = Report("The CRF", args)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    shared = Path(os.environ.get("RCA_SHARED", "../shared"))
    for labels in args.labels:
        tasks = make_tasks(shared, args.images, labels)
        compare(report, tasks, args.repeats)
    if args.workers:
        scale(report, tasks, args.workers)
    report.finish()


if __name__ == "__main__":
    main()
