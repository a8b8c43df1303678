"""The cost of references at inference: score maps of MCIS beside 1, 3 and 5 references, and of the images alone.

    python benchmarks/references.py
    python benchmarks/references.py --device cuda --backbone resnet50 --side 321 --images 64

The images are noise, each with one to three of the classes, and the weights are random. The numbers of references take
turns in one process. The features of the references are computed once for all images and timed separately, as are those
of the images; the rest grows with the number of references.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from report import CLOCK, Report, add_options
from torch import Tensor

from rca.classifier.inference import score_images
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.classifier.references import References, ReferenceSettings
from rca.classifier.views import InferenceSettings, encode_views, group_by_size
from rca.core.files import read_photograph
from rca.data.loading.features import View
from rca.data.loading.images import normalise
from rca.data.manifest import ImageRecord, Manifest

NUMBERS = (1, 3, 5)
CLASSES = 3  # few, so that each has enough references


def write_dataset(root: Path, images: int, side: int) -> Manifest:
    """Noisy photographs, of two shapes."""
    random = np.random.default_rng(0)
    records = []
    for number in range(images):
        height, width = (side, side * 3 // 4) if number % 2 else (side * 3 // 4, side)
        name = f"image{number:04}"
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(root / f"{name}.png")
        tags = tuple(sorted(int(tag) for tag in random.permutation(CLASSES)[: 1 + number % 3]))
        records.append(ImageRecord(name, f"{name}.png", None, width, height, tags, ("train",), "main", ""))
    return Manifest(root, tuple(f"class {number}" for number in range(CLASSES)), tuple(records))


def build_network(backbone: str, classes: tuple[str, ...], device: str) -> CamNetwork:
    """MCIS with random weights."""
    torch.manual_seed(0)
    options = {"affinity": {"form": "cosine", "temperature": 0.1}}
    statistics = (0.5,) * 3, (0.25,) * 3
    about = NetworkDescription(backbone, 16, 256, "cam", "mcis", options, classes, *statistics, "random weights")  # type: ignore[arg-type]
    return CamNetwork(about).eval().to(device)


class Kept(dict[tuple[str, View], Tensor]):
    """The backbone's features of all views, in memory."""

    def read(self, image_id: str, view: View) -> Tensor:
        """The features of a view (D, h, w)."""
        return self[image_id, view]


def time_backbone(network: CamNetwork, manifest: Manifest, inference: InferenceSettings) -> tuple[Kept, float]:
    """The features of all images, and the seconds to compute them."""
    device = next(network.parameters()).device
    kept, clock = Kept(), CLOCK[device.type]
    start = clock()
    for batch in group_by_size(manifest.images, inference.batch_size):
        photographs = [read_photograph(manifest.photograph(record)) for record in batch]
        images = torch.stack([normalise(photograph, (0.5,) * 3, (0.25,) * 3) for photograph in photographs]).to(device)
        encoded = encode_views(lambda images: network.encode(images)[0], images, inference.views, "bfloat16")
        for view, features in zip(inference.views, encoded, strict=True):
            kept.update({(record.id, view): of_image for record, of_image in zip(batch, features.cpu(), strict=True)})
    return kept, clock() - start


def time_scoring(
    network: CamNetwork, manifest: Manifest, inference: InferenceSettings, numbers: Sequence[int], repeats: int
) -> dict[int, float]:
    """Seconds of the fastest pass over all images by number of references, without the backbone."""
    device = next(network.parameters()).device
    kept, _ = time_backbone(network, manifest, inference)
    references = {}
    for number in numbers:
        settings = ReferenceSettings(number=number)
        references[number] = References(network, manifest, settings, inference.precision, kept) if number else None
    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    for repeat in range(repeats + 1):  # the first one warms up
        for number in numbers if repeat % 2 else reversed(numbers):
            start = CLOCK[device.type]()
            for _ in score_images(network, manifest, manifest.images, inference, 4, kept, references[number]):
                pass  # the copy to the CPU waits for the GPU
            seconds[number].append(CLOCK[device.type]() - start)
    return {number: min(times[1:]) for number, times in seconds.items()}


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--side", type=int, default=256, help="longer side of the images, in pixels")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5, help="number of timed passes; the fastest counts")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    add_options(parser)
    args = parser.parse_args()
    report = Report("References of MCIS at inference", args)
    torch.set_num_threads(args.threads)
    inference = InferenceSettings(scales=(1.0, 1.5), flip=False, batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_dataset(Path(folder), args.images, args.side)
        network = build_network(args.backbone, manifest.classes, args.device)
        # The views of an image, and the single view of a reference; the fastest of three, the first warms up.
        of_images, of_references = (
            min(time_backbone(network, manifest, views)[1] for _ in range(3))
            for views in (inference, InferenceSettings(scales=(1.0,), flip=False, batch_size=8))
        )
        scoring = time_scoring(network, manifest, inference, (0, *NUMBERS), args.repeats)
    alone, rows = of_images + scoring[0], []
    for number in NUMBERS:
        added = (scoring[number] - scoring[0]) / (scoring[1] - scoring[0])
        seconds = of_images + scoring[number]
        rows.append([str(number), f"{seconds:.2f} s", f"{seconds / alone:.2f}", f"{added:.2f}"])
    caption = (
        f"{args.backbone}, {args.images} images of up to {args.side}x{args.side}, {args.device}; alone {alone:.2f} s,"
        f" and {of_references:.2f} s once for the features of all references"
    )
    report.table(caption, ["references", "all images", "of alone", "adds, of what 1 adds"], rows)
    report.finish()


if __name__ == "__main__":
    main()
