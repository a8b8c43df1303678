"""Images per second of score maps over a plain loop of one image and one scale at a time, and what methods add to them.

    python benchmarks/score_maps.py
    python benchmarks/score_maps.py --device cuda --backbone resnet50 --images 64

The images are noise of two shapes, each with one to three of the classes, and the weights are random. The plain loop is
what a user would write: the network's own forward pass of each view of an image, its maps after ReLU added up. All take
turns in one process. rca_extended looks at one view of 704 pixels, as in the presets, with a full memory.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from references import write_dataset
from report import Report, add_options, compare_turns
from torch import nn
from torch.nn import functional

from rca.classifier.inference import score_images
from rca.classifier.network import CamNetwork, NetworkDescription, prepare_inference
from rca.classifier.views import InferenceSettings
from rca.core.files import read_photograph
from rca.core.heap import keep_freed_memory
from rca.data.manifest import Manifest

SCALES = (0.5, 1.0, 1.5, 2.0)
MEAN, STD = (0.5,) * 3, (0.25,) * 3
STRIDE = 4
ONE_VIEW = InferenceSettings(longest_side=704, scales=(1.0,), flip=False)


def build_network(backbone: str, method: str, classes: tuple[str, ...], device: str) -> CamNetwork:
    """A network with random weights, and a full memory if it has one."""
    torch.manual_seed(0)
    network = CamNetwork(NetworkDescription(backbone, 16, 0, "cam", method, {}, classes, MEAN, STD, "random weights"))
    settle_statistics(network.backbone)
    if method == "rca_extended":
        network.method.prototypes.normal_()
        network.method.prototypes_usable.fill_(True)
    return network.eval().to(device)


@torch.no_grad()
def settle_statistics(backbone: nn.Module) -> None:
    """Let BatchNorm see some noise, without which random weights make features of zeros."""
    backbone.train()
    for _ in range(20):
        backbone(torch.randn(4, 3, 96, 96))


@torch.no_grad()
def score_plainly(network: CamNetwork, manifest: Manifest) -> dict[str, np.ndarray]:
    """The maps (k, h, w) of each image's k classes, one image and one view at a time."""
    device, found = next(network.parameters()).device, {}
    mean, std = (torch.tensor(part)[:, None, None] for part in (MEAN, STD))
    for record in manifest.images:
        photograph = torch.from_numpy(read_photograph(manifest.photograph(record))).permute(2, 0, 1) / 255
        image = ((photograph - mean) / std)[None].to(device)
        size = (-(-record.height // STRIDE), -(-record.width // STRIDE))
        total = torch.zeros(1, len(manifest.classes), *size, device=device)
        for scale in SCALES:
            shape = (round(record.height * scale), round(record.width * scale))
            scaled = image if scale == 1 else functional.interpolate(image, shape, mode="bilinear", antialias=True)
            for view in (scaled, scaled.flip(3)):
                maps = network(view, torch.ones_like(view[:, :1])).maps.relu()
                total += functional.interpolate(maps if view is scaled else maps.flip(3), size, mode="bilinear")
        tagged = total[0, list(record.tags)]
        peaks = tagged.amax((1, 2), keepdim=True)
        found[record.id] = torch.where(peaks > 0, tagged / peaks, tagged).half().cpu().numpy()
    return found


def make_pass(
    network: CamNetwork, manifest: Manifest, settings: InferenceSettings
) -> Callable[[], dict[str, np.ndarray]]:
    """A function that scores all images as the stage make_cam does."""
    return lambda: {
        record.id: maps.scores for record, maps in score_images(network, manifest, manifest.images, settings, STRIDE)
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--side", type=int, default=320, help="longer side of the images, in pixels")
    parser.add_argument("--images", type=int, default=16, help="their number")
    parser.add_argument("--repeats", type=int, default=2, help="timed repeats")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as a stage does; the plain loop gains nothing by it
    report = Report("Score maps", args)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_dataset(Path(folder), args.images, args.side)
        networks = {
            method: build_network(args.backbone, method, manifest.classes, args.device)
            for method in ("cam", "rca_extended")
        }
        plain = build_network(args.backbone, "cam", manifest.classes, args.device)
        settings = InferenceSettings(scales=SCALES, precision="float32" if args.device == "cpu" else "bfloat16")
        for network in networks.values():
            prepare_inference(network)
        ours = make_pass(networks["cam"], manifest, settings)
        expected, found = score_plainly(plain, manifest), ours()
        furthest = max(float(np.abs(maps - found[name]).max()) for name, maps in expected.items())
        views = {method: make_pass(network, manifest, ONE_VIEW) for method, network in networks.items()}
        calls = {"plain": lambda: score_plainly(plain, manifest), "ours": ours, **views}
        timed = compare_turns(calls, args.device, args.repeats)
    what = f"{args.backbone}, {args.images} images of up to {args.side}x{args.side}, {args.device}"
    rows = [[name, f"{min(seconds) / args.images:.3f}"] for name, seconds in timed.items()]
    report.table(what, ["", "seconds an image"], rows)
    print(f"largest difference of maps in 0..1: {furthest:.4f}")
    asked = 1.5 if args.device == "cpu" else 3
    name = f"score maps: images/s over the plain loop, {args.backbone}, {args.device}"
    report.ratio(name, timed["plain"], timed["ours"], least=asked)
    report.ratio("score maps of rca_extended over cam's", timed["rca_extended"], timed["cam"], most=1.15)
    report.finish()


if __name__ == "__main__":
    main()
