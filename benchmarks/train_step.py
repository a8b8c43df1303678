"""The cost of RCA relative to the plain CAM: time and memory of a training step, and K-means against scikit-learn.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda

Both methods use the same backbone and the same batch; RCA's bank is full and clustered, and all terms of its loss are
on. Once its heads are linear as the plain CAM's and nothing is projected; once they are the published convolutions,
which cost many times the rest, and whose width is an option. Steps are timed in turns in one process; memory is
measured in a separate process per method.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from report import Report, add_options, compare_turns
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import nn

from rca.classifier.losses import SECOND_VIEW, compute_losses
from rca.classifier.network import CamNetwork, NetworkDescription
from rca.core.heap import keep_freed_memory
from rca.core.precision import choose_precision
from rca.data.loading.images import Sample
from rca.methods.parts.prototypes import cluster_memory

OPTIONS: dict[str, dict[str, object]] = {
    "cam": {},
    "rca": {"contrast": {"projection": "none"}, "head": {"convolutions": 0}},
    "rca, published heads": {},
}
EPOCH = 9  # late enough for all terms of the loss


class Setting(NamedTuple):
    """The setting of a measurement.

    Attributes:
        device: "cpu", in float32, or "cuda", in bfloat16.
        backbone: The backbone's name.
        side: Side of the square images, in pixels.
        batch: Images per step.
        steps: Number of timed steps.
        threads: Number of CPU threads.
        classes: Number of object classes.
    """

    device: str
    backbone: str
    side: int
    batch: int
    steps: int
    threads: int
    classes: int


def make_step(method: str, setting: Setting) -> Callable[[], None]:
    """A function that does one whole training step of a method."""
    torch.manual_seed(0)
    device = torch.device(setting.device)
    names = tuple(f"class {number}" for number in range(setting.classes))
    kind, statistics = method.partition(",")[0], ((0.5,) * 3, (0.25,) * 3)
    about = NetworkDescription(
        setting.backbone, 16, 256, "cam", kind, OPTIONS[method], names, *statistics, "random weights"
    )
    network = CamNetwork(about).to(device, memory_format=torch.channels_last)
    if method != "cam":
        fill_memory(network.method)
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return build_step(network, optimiser, draw_batch(setting, device))


def build_step(
    network: CamNetwork, optimiser: torch.optim.Optimizer, batch: Sample, second_view: float = SECOND_VIEW
) -> Callable[[], None]:
    """A function that does one whole training step on a batch with frozen BatchNorm."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)

    def step() -> None:
        with choose_precision(batch.image.device, "bfloat16"):
            losses = compute_losses(network, batch, EPOCH, second_view)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss.item()  # waits for a GPU, as the trainer does

    return step


def draw_batch(setting: Setting, device: torch.device) -> Sample:
    """Noise with one to three tags per image."""
    image = torch.randn(setting.batch, 3, setting.side, setting.side)
    valid = torch.ones(setting.batch, 1, setting.side, setting.side)
    tags = torch.zeros(setting.batch, setting.classes)
    for number in range(setting.batch):
        tags[number, torch.randperm(setting.classes)[: 1 + number % 3]] = 1
    mask = torch.full(image.shape[:1] + image.shape[2:], 255)
    frame = torch.tensor([1.0, 0, 1, 0]).repeat(setting.batch, 1)
    batch = Sample(image, valid, tags, mask, torch.arange(setting.batch), frame)
    batch = Sample(*(tensor.to(device) for tensor in batch))
    return batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))


def fill_memory(method: Any) -> None:
    """Fill every slot of a method's bank and cluster it."""
    memory = method.memory
    memory.entries.copy_(draw_entries(*memory.entries.shape, seed=0))
    memory.written.fill_(memory.size)
    method.start_epoch(EPOCH, seed=0)


def draw_entries(classes: int, slots: int, channels: int, seed: int) -> torch.Tensor:
    """Unit vectors (classes, slots, channels) around 15 directions per class, spread as widely as the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(classes, 15, channels, generator=generator)
    chosen = torch.randint(15, (classes, slots), generator=generator)
    around = torch.stack([of_class[index] for of_class, index in zip(directions, chosen, strict=True)])
    noise = torch.randn(classes, slots, channels, generator=generator)
    return nn.functional.normalize(around + noise, dim=2)


def time_steps(setting: Setting) -> dict[str, list[float]]:
    """Seconds of the steps of each method."""
    torch.set_num_threads(setting.threads)
    keep_freed_memory()  # as a stage does
    steps = {method: make_step(method, setting) for method in OPTIONS}
    return compare_turns(steps, setting.device, setting.steps)


def measure_memory(method: str, setting: Setting) -> int:
    """Bytes at the peak of two steps.

    On a GPU all that torch has allocated; on a CPU (Linux alone) what the process holds beyond what it held before,
    which leaves out the libraries, the weights and the bank.
    """
    torch.set_num_threads(setting.threads)
    step = make_step(method, setting)
    before = 0 if setting.device == "cuda" else read_status("VmRSS")
    if setting.device == "cpu":
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forget the peak so far
    for _ in range(2):
        step()
    peak = torch.cuda.max_memory_allocated() if setting.device == "cuda" else read_status("VmHWM")
    return peak - before


def read_status(key: str) -> int:
    """A memory size of this process, as Linux reports it, in bytes."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def compare_clusterings(repeats: int) -> tuple[list[float], list[float], float]:
    """Our K-means and scikit-learn's, on one thread.

    Returns:
        Our seconds and those of scikit-learn for each dataset, and the mean ratio of our inertia to theirs.
    """
    torch.set_num_threads(1)
    ours, theirs, inertia = [], [], []
    for seed in range(repeats + 1):  # the first one warms up
        entries = draw_entries(20, 500, 512, seed)
        start = time.process_time()
        centres, _ = cluster_memory(entries, torch.ones(20, 500, dtype=torch.bool), 10, iterations=50, seed=seed)
        middle = time.process_time()
        with threadpool_limits(1):
            fitted = [
                KMeans(10, init="k-means++", n_init=1, max_iter=50, tol=0, random_state=seed).fit(of_class)
                for of_class in entries.numpy()
            ]
        end = time.process_time()
        ours.append(middle - start)
        theirs.append(end - middle)
        inertia_of_ours = torch.cdist(entries.double(), centres.double()).amin(2).square().sum()
        inertia.append(float(inertia_of_ours) / sum(model.inertia_ for model in fitted))
    return ours[1:], theirs[1:], statistics.mean(inertia[1:])


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a separate process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--side", type=int, default=321, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--steps", type=int, help="timed steps; default: 2 on a CPU, 30 on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 80])
    add_options(parser)
    args = parser.parse_args()
    steps = args.steps or (2 if args.device == "cpu" else 30)
    precision = "bfloat16" if args.device == "cuda" else "float32"
    report, rows = Report("A training step", args), []
    for classes in args.classes:
        setting = Setting(args.device, args.backbone, args.side, args.batch, steps, args.threads, classes)
        seconds = run_alone(time_steps, setting)
        memory = {method: run_alone(measure_memory, method, setting) for method in OPTIONS}
        for method, of_step in seconds.items():
            costs = [f"{min(of_step):.3f} s", f"{args.batch / min(of_step):.1f}", f"{memory[method] / 2**20:.0f} MiB"]
            rows.append([f"{classes} classes, {method}", *costs])
        for method in ("rca", "rca, published heads"):
            what = f"a step of {method} over cam's, {args.backbone}, {classes} classes"
            report.ratio(what, seconds[method], seconds["cam"], most=1.1)
        what = f"memory of a step of rca over cam's, {args.backbone}, {classes} classes"
        report.figure(what, memory["rca"] / memory["cam"])
    caption = f"{args.backbone}, {args.batch} images of {args.side}x{args.side}, {args.device}, {precision}"
    report.table(caption, ["", "a step", "images/s", "peak of memory"], rows)
    ours, theirs, inertia = run_alone(compare_clusterings, 5)
    report.ratio("K-means of 20 x 500 x 512 into 10 over scikit-learn's, time", ours, theirs)
    report.figure("K-means over scikit-learn's, inertia", inertia)
    report.finish()


if __name__ == "__main__":
    main()
