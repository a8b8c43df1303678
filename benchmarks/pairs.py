"""The cost of each pair of host and method relative to the plain CAM: a training step, and the maps of an image.

    python benchmarks/pairs.py
    python benchmarks/pairs.py --device cuda --backbone resnet50 --side 321 --steps 30

The pairs, their options and their views are those of the runs of the preset msrc. The images are noise, each with one
to three of the classes, and the weights are random. All pairs use the same images in the same batches, in turns in one
process; banks are full and all terms of a loss are on.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
import yaml
from references import write_dataset
from report import Report, add_options, compare_turns
from train_step import build_step, fill_memory

from rca.classifier.inference import score_images
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.references import References, ReferenceSettings
from rca.classifier.views import InferenceSettings
from rca.core.heap import keep_freed_memory
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.manifest import Manifest
from rca.params.read import read_params
from rca.params.schema import Run
from rca.stages.make_cam import MakeCamSettings
from rca.stages.train_cam import TrainCamSettings

PRESET = Path(__file__).parents[1] / "workflow/presets/msrc.yaml"
# The most that a step may cost, of the plain CAM's.
LIMITS = {"contrast": 1.1, "hsc": 1.4, "mcis": 2.0, "seam_mcis": 2.5}
PAIRS = ("cam", "contrast", "hsc", "mcis", "seam", "seam_hsc", "seam_mcis")
STATISTICS = ((0.5,) * 3, (0.25,) * 3)


class Pair(NamedTuple):
    """A run of the preset.

    Attributes:
        network: The network, with random weights.
        second_view: The scale of the second view of a batch, if there is one.
        references: The references at inference.
    """

    network: CamNetwork
    second_view: float
    references: ReferenceSettings


def read_runs(folder: Path) -> Mapping[str, Run]:
    """The runs of the preset, with all their settings."""
    os.environ.setdefault("RCA_SHARED", "../shared")
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(PRESET.read_text()) | {"runs": list(PAIRS)}))
    return read_params(path).described


def build_pair(run: Run, backbone: str, classes: tuple[str, ...]) -> Pair:
    """Build the network of a run."""
    torch.manual_seed(0)
    training, inference = cast(TrainCamSettings, run.sections["train_cam"]), run.sections["make_cam"]
    about = NetworkDescription(
        *(backbone, training.backbone.output_stride, training.neck, run.host, run.method, run.options),
        *(classes, *STATISTICS, "random weights"),
        host_options=run.host_options,
    )
    network = CamNetwork(about)
    network.backbone.train_parts(training.backbone.trainable)
    return Pair(network, training.second_view, cast(MakeCamSettings, inference).references)


def make_pass(pair: Pair, manifest: Manifest, inference: InferenceSettings) -> Callable[[], None]:
    """A function that makes the score maps of all images."""
    network = pair.network

    def score() -> None:
        network.eval()
        # New references in each pass, since their features are part of the cost.
        paired = network.method.pairs_images and pair.references.number
        beside = References(network, manifest, pair.references, inference.precision, None) if paired else None
        for _ in score_images(network, manifest, manifest.images, inference, 4, references=beside):
            pass  # the copy to the CPU waits for the GPU

    return score


def load_batch(manifest: Manifest, network: CamNetwork, size: int, device: str) -> Sample:
    """The first training batch of a pair, with partners if its method pairs images."""
    images = TrainingImages(manifest, manifest.images, AugmentationSettings(), *STATISTICS, 0)
    loader, _ = make_loader(images, size, 0, network.method.pairs_images)
    return Sample(*(tensor.to(device) for tensor in next(iter(loader))))


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--side", type=int, default=320, help="longer side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images per step, without partners")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, and passes over the images, per pair")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as a stage does
    report = Report("Pairs of host and method", args)
    with tempfile.TemporaryDirectory() as folder:
        runs = read_runs(Path(folder))
        inference = cast(MakeCamSettings, runs["cam"].sections["make_cam"]).inference
        manifest = write_dataset(Path(folder), 2 * args.batch, args.side)
        steps, passes = {}, {}
        for name in PAIRS:
            pair = build_pair(runs[name], args.backbone, manifest.classes)
            pair.network.to(args.device)
            if pair.network.method.keeps_memory:
                fill_memory(pair.network.method)
            batch = load_batch(manifest, pair.network, args.batch, args.device)
            optimiser = torch.optim.AdamW(pair.network.parameters(), lr=1e-5)
            steps[name] = build_step(pair.network, optimiser, batch, pair.second_view)
            passes[name] = make_pass(pair, manifest, inference)
        training = compare_turns(steps, args.device, args.steps)
        scoring = compare_turns(passes, args.device, args.steps)
    rows = []
    for name in PAIRS:
        step, image = min(training[name]), min(scoring[name]) / len(manifest.images)
        ratios = step / min(training["cam"]), min(scoring[name]) / min(scoring["cam"])
        rows.append([name, f"{step:.3f} s", f"{ratios[0]:.2f}", f"{image:.3f} s", f"{ratios[1]:.2f}"])
    caption = f"{args.backbone}, images of up to {args.side}x{args.side}, batches of {args.batch}, {args.device}"
    report.table(caption, ["run of msrc", "a step", "of cam", "maps of an image", "of cam"], rows)
    for name, most in LIMITS.items():
        report.ratio(f"a step of {name} over cam's", training[name], training["cam"], most=most)
    report.finish()


if __name__ == "__main__":
    main()
