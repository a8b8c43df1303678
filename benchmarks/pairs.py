"""What each pair of host and method costs beside the plain CAM: a training step, and the score maps of an image.

    python benchmarks/pairs.py
    python benchmarks/pairs.py --device cuda --backbone resnet50 --side 321 --steps 30

The pairs, their options and how they look at an image are those of the runs of the preset msrc. Noise in place of
photographs, each with one to three of the classes, and random weights. All pairs take the same images in the same
batches, in turns in one process; banks are full and all terms of a loss are on.
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
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.references import References, ReferenceSettings
from rca.classifier.views import InferenceSettings
from rca.data.loading.augmentation import AugmentationSettings
from rca.data.loading.images import Sample, TrainingImages, make_loader
from rca.data.manifest import Manifest
from rca.stages.train_cam import SECOND_VIEW

PRESET = Path(__file__).parents[1] / "workflow/presets/msrc.yaml"
PAIRS = ("cam", "rca", "hsc", "mcis", "seam", "seam_rca", "seam_hsc", "seam_mcis")
STATISTICS = ((0.5,) * 3, (0.25,) * 3)


class Pair(NamedTuple):
    """A run of the preset.

    Attributes:
        network: With random weights.
        second_view: The scale of the second view of a batch, where there is one.
        references: What images are seen beside at inference.
    """

    network: CamNetwork
    second_view: float
    references: ReferenceSettings


def build_pair(run: dict[str, Any], section: dict[str, Any], backbone: str, classes: tuple[str, ...]) -> Pair:
    """The network of a run, and how it looks at images."""
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
        # Anew for each pass: the references' features are a part of what it costs.
        paired = network.method.pairs_images and pair.references.number
        beside = References(network, manifest, pair.references, inference.precision, None) if paired else None
        for _ in score_images(network, manifest, manifest.images, inference, 4, references=beside):
            pass  # each is brought to the CPU, which waits for a GPU

    return score


def load_batch(manifest: Manifest, network: CamNetwork, size: int, device: str) -> Sample:
    """The first batch that a pair trains on; one whose method pairs images has their partners in it."""
    images = TrainingImages(manifest, manifest.images, AugmentationSettings(), *STATISTICS, 0)
    loader, _ = make_loader(images, size, 0, network.method.pairs_images)
    return Sample(*(tensor.to(device) for tensor in next(iter(loader))))


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--side", type=int, default=320, help="the longer one of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images in a step, partners not counted")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, and passes over the images, of each pair")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    preset = yaml.safe_load(PRESET.read_text())
    inference = InferenceSettings(**preset["make_cam"]["inference"])
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_dataset(Path(folder), 2 * given.batch, given.side)
        steps, passes = {}, {}
        for name in PAIRS:
            pair = build_pair(preset["run"][name], preset["train_cam"], given.backbone, manifest.classes)
            pair.network.to(given.device)
            if pair.network.method.keeps_memory:
                fill_memory(pair.network.method)
            batch = load_batch(manifest, pair.network, given.batch, given.device)
            optimiser = torch.optim.AdamW(pair.network.parameters(), lr=1e-5)
            steps[name] = build_step(pair.network, optimiser, batch, pair.second_view)
            passes[name] = make_pass(pair, manifest, inference)
        training = time_in_turns(steps, given.device, given.steps)
        scoring = time_in_turns(passes, given.device, given.steps)
    print(f"{given.backbone}, images of up to {given.side}x{given.side}, batches of {given.batch}, {given.device}")
    for name in PAIRS:
        step, image = training[name], scoring[name] / len(manifest.images)
        ratios = step / training["cam"], scoring[name] / scoring["cam"]
        print(f"{name}: {step:.3f} s a step, {ratios[0]:.2f} of cam; {image:.3f} s an image, {ratios[1]:.2f} of cam")
    print(f"took {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
