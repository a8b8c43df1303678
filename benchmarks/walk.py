"""The cost of a random walk of score maps: time and peak memory on one photograph, whole and in bands.

    python benchmarks/walk.py
    python benchmarks/walk.py --size 4096 3072 --memory 512 64

Boundaries come from a network on MobileNetV2 with random weights and score maps are noise, since the cost does not
depend on their values. Each line is measured in a separate process; its peak does not count the libraries, the weights
and the photograph. The size of the dense matrix of all pairs of cells, which PSA and IRN use, is only calculated.
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from report import Report, add_options
from train_step import read_status, run_alone

from rca.labels.random_walk import WalkSettings, spread_scores
from rca.models.backbones import build_backbone
from rca.models.boundary_network import BoundaryNetwork


class Cost(NamedTuple):
    """Process seconds, peak bytes, and the result."""

    seconds: float
    peak: int
    result: np.ndarray


def measure(work: Any) -> Cost:
    """Call a function without args."""
    before = read_status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    start = time.process_time()
    result = work()
    return Cost(time.process_time() - start, read_status("VmHWM") - before, result)


def find_boundaries(width: int, height: int, stride: int) -> Cost:
    """The boundaries of a photograph."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = BoundaryNetwork(build_backbone("mobilenet_v2", 16), (0.5,) * 3, (0.25,) * 3).eval()
    image = torch.randn(1, 3, height, width)
    size = (-(-height // stride), -(-width // stride))
    return measure(lambda: network.find_boundaries(image, size)[0].numpy())


def walk(boundary: np.ndarray, labels: int, memory: int) -> Cost:
    """The walk of `labels` maps."""
    scores = np.random.default_rng(0).random((labels, *boundary.shape)).astype(np.float16)
    spread_scores(scores[:, :9, :9], boundary[:9, :9], WalkSettings(steps=1))  # imports modules on first use
    return measure(lambda: spread_scores(scores, boundary, WalkSettings(memory_mb=memory)))


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 768], help="width and height of the photograph")
    parser.add_argument("--stride", type=int, default=4, help="stride of the score maps")
    parser.add_argument("--labels", type=int, default=3, help="maps that walk at once")
    parser.add_argument("--memory", type=int, nargs="+", default=[512, 16, 8], help="walk.memory_mb")
    add_options(parser)
    args = parser.parse_args()
    report = Report("The random walk", args)
    boundaries = run_alone(find_boundaries, *args.size, args.stride)
    height, width = boundaries.result.shape
    cells = height * width
    first, rows = None, [["boundaries", *describe(boundaries), ""]]
    for memory in args.memory:
        cost = run_alone(walk, boundaries.result, args.labels, memory)
        first = cost.result if first is None else first
        same = "the same" if np.array_equal(first, cost.result) else "ANOTHER RESULT"
        rows.append([f"walk, memory_mb {memory}", *describe(cost), same])
    caption = (
        f"{args.size[0]}x{args.size[1]}, {width}x{height} cells, {args.labels} maps, 256 steps; the dense matrix of all"
        f" pairs of cells would be {4 * cells**2 / 2**20:.0f} MiB"
    )
    report.table(caption, ["", "seconds", "peak", "result"], rows)
    report.finish()


def describe(cost: Cost) -> tuple[str, str]:
    """Seconds and peak memory."""
    return f"{cost.seconds:.2f} s", f"{cost.peak / 2**20:.1f} MiB"


if __name__ == "__main__":
    main()
