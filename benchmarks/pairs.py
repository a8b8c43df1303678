"""The cost of each pair of host and method relative to the plain CAM: a training step, and the maps of an image.

    python benchmarks/pairs.py
    python benchmarks/pairs.py --device cuda --backbone resnet50 --side 321 --steps 30

The pairs, their options and their views are those of the runs of the preset msrc. The images are noise, each with one
to three of the classes, and the weights are random. All pairs use the same images in the same batches, in turns in one
process; banks are full and all terms of a loss are on.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from references import write_dataset
from train_step import build_step, fill_memory, time_in_turns

from rca.classifier.inference import score_images
from rca.classifier.losses import SECOND_VIEW
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.references import References, ReferenceSettings
from rca.classifier.views import InferenceSettings
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.manifest import Manifest

PRESET = Path(__file__).parents[1] / "workflow/presets/msrc.yaml"
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


def build_pair(run: dict[str, Any], section: dict[str, Any], backbone: str, classes: tuple[str, ...]) -> Pair:
    """Build the network of a run."""
    torch.manual_seed(0)
    about = NetworkDescription(
        *(backbone, section["backbone"]["output_stride"], section["neck"], run["host"], run["method"], run["options"]),
        *(classes, *STATISTICS, "random weights"),
        host_options=run["host_options"],
    )
    network = CamNetwork(about)
    network.backbone.train_parts(section["backbone"]["trainable"])
    references = ReferenceSettings(**run["make_cam"].get("references", {}))
    return Pair(network, run["train_cam"].get("second_view", SECOND_VIEW), references)


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
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    preset = yaml.safe_load(PRESET.read_text())
    inference = InferenceSettings(**preset["make_cam"]["inference"])
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_dataset(Path(folder), 2 * args.batch, args.side)
        steps, passes = {}, {}
        for name in PAIRS:
            pair = build_pair(preset["run"][name], preset["train_cam"], args.backbone, manifest.classes)
            pair.network.to(args.device)
            if pair.network.method.keeps_memory:
                fill_memory(pair.network.method)
            batch = load_batch(manifest, pair.network, args.batch, args.device)
            optimiser = torch.optim.AdamW(pair.network.parameters(), lr=1e-5)
            steps[name] = build_step(pair.network, optimiser, batch, pair.second_view)
            passes[name] = make_pass(pair, manifest, inference)
        training = time_in_turns(steps, args.device, args.steps)
        scoring = time_in_turns(passes, args.device, args.steps)
    print(f"{args.backbone}, images of up to {args.side}x{args.side}, batches of {args.batch}, {args.device}")
    for name in PAIRS:
        step, image = training[name], scoring[name] / len(manifest.images)
        ratios = step / training["cam"], scoring[name] / scoring["cam"]
        print(f"{name}: {step:.3f} s a step, {ratios[0]:.2f} of cam; {image:.3f} s an image, {ratios[1]:.2f} of cam")
    print(f"took {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
