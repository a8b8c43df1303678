"""What work on files costs beside the least that it could: evaluation, prepare_data, rca check, and DVC's cache.

    python benchmarks/files.py
    python benchmarks/files.py --images 2000 --masks 1000

Masks and photographs are generated. The peers are Pillow's decoding of the same files in one loop, and `cat` of them.
Everything runs on one core; times are processor seconds of a process and its children.
"""

import argparse
import contextlib
import io
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from report import Report, add_options
from scale import build_project, prepare, read_processor_time, run_alone, run_stage

from rca.core.files import IGNORE, write_mask
from rca.data.shapes.dataset import generate_shapes
from rca.evaluation.scoring import score_folders

DISTINCT = 40  # masks, and photographs, over and over under other names
SIZE = (500, 375)


def draw_masks(folder: Path, masks: int) -> None:
    """True masks of some regions with undecided contours, and predictions whose contours lie a little beside them."""
    random = np.random.default_rng(0)
    for name in ("truth", "predictions"):
        (folder / name).mkdir()
    for number in range(masks):
        paths = [folder / name / f"{number}.png" for name in ("truth", "predictions")]
        if number >= DISTINCT:
            for path in paths:
                os.link(path.parent / f"{number % DISTINCT}.png", path)
            continue
        fields = random.random((4, 4, 5), np.float32)
        smooth = np.stack([np.array(Image.fromarray(field).resize(SIZE, Image.Resampling.BICUBIC)) for field in fields])
        labels = np.array([0, *random.choice(np.arange(1, 21), 3, replace=False)], np.uint8)
        truth = labels[smooth.argmax(0)]
        best = np.sort(smooth, 0)
        write_mask(paths[1], labels[(smooth + 0.05 * random.random((4, 1, 1))).argmax(0)])
        truth[best[-1] - best[-2] < 0.02] = IGNORE
        write_mask(paths[0], truth)


def decode(folders: list[Path]) -> None:
    """Decode all pictures in some folders with Pillow alone."""
    for folder in folders:
        for path in folder.iterdir():
            with Image.open(path) as image:
                image.load()


def check(folder: Path) -> None:
    """Run `rca check` in a project."""
    from rca.cli.check import check as check_project

    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        check_project(Path("params.yaml"))


def add_to_cache(folder: Path) -> None:
    """Let DVC cache the folder `files` by a link, as the pipeline does."""
    from dvc.repo import Repo

    os.chdir(folder)
    with Repo() as repo:
        repo.add("files")


def add_split(folder: Path) -> None:
    """Make the last image of a project the split val, which `rca check` asks for."""
    lists = folder / "data/shapes/ImageSets/Segmentation"
    *train, last = (lists / "train.txt").read_text().split()
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in train))
    (lists / "val.txt").write_text(f"{last}\n")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["dataset"]["splits"] = ["train", "val"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def cat(folder: Path) -> None:
    """Read all files of a folder with `cat`."""
    command = ["find", str(folder / "files"), "-type", "f", "-exec", "cat", "{}", "+"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def time_alone(function: Callable[..., None], *arguments: object) -> float:
    """Processor seconds of a call in a process of its own, which has imported what it needs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # its process may start workers of its own
        return pool.submit(_time, function, arguments).result()


def _time(function: Callable[..., None], arguments: tuple[object, ...]) -> float:
    before = read_processor_time()
    function(*arguments)
    return read_processor_time() - before


def _score(folder: Path) -> None:
    score_folders([folder / "predictions"], [folder / "truth"])


def write_files(folder: Path, number: int, large: int) -> None:
    """A DVC project with many small files and one large one (MiB)."""
    from dvc.repo import Repo

    folder.mkdir()
    Repo.init(str(folder), no_scm=True).close()
    random = np.random.default_rng(0)
    (folder / "files").mkdir()
    for count in range(number):
        (folder / f"files/{count}.bin").write_bytes(random.bytes(4096))
    (folder / "files/large.bin").write_bytes(random.bytes(large << 20))


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--masks", type=int, default=400, help="masks that are evaluated")
    parser.add_argument("--images", type=int, default=500, help="images of prepare_data and of rca check")
    parser.add_argument("--side", type=int, default=200, help="of these images, in pixels")
    parser.add_argument("--files", type=int, default=1000, help="small files for DVC")
    parser.add_argument("--large", type=int, default=256, help="MiB of the large file for DVC")
    parser.add_argument("--repeats", type=int, default=2)
    add_options(parser)
    args = parser.parse_args()
    report, rows = Report("Work on files", args), []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        draw_masks(work, args.masks)
        folders = [work / "truth", work / "predictions"]
        turns = [(time_alone(_score, work), time_alone(decode, folders)) for _ in range(args.repeats)]
        ours, peer = zip(*turns, strict=True)
        rows.append([f"evaluation of {args.masks} masks", f"{min(ours):.2f}", f"{min(peer):.2f}", "Pillow's decoding"])
        scaled = [10_000 * seconds / args.masks for seconds in ours]
        report.figure("evaluation of 10,000 masks of 500x375, with reading", min(scaled), scaled, unit=" s", most=20)
        report.ratio("evaluation over Pillow's decoding of the same masks", ours, peer)

        generate_shapes(work / "source", train=DISTINCT, val=1, size=args.side, seed=0)
        build_project(work / "project", work / "source", args.images, 1, refined=False)
        add_split(work / "project")
        run_alone(prepare, "prepare_data", work / "project")
        pictures = [work / "project/data/shapes" / part for part in ("JPEGImages", "SegmentationClass")]
        for what, function, given in (
            ("prepare_data", run_stage, ("prepare_data", work / "project")),
            ("rca check", check, (work / "project",)),
        ):
            turns = [(time_alone(function, *given), time_alone(decode, pictures)) for _ in range(args.repeats)]
            ours, peer = zip(*turns, strict=True)
            rows.append([f"{what}, {args.images} images", f"{min(ours):.2f}", f"{min(peer):.2f}", "Pillow's decoding"])
            report.ratio(f"{what} over Pillow's decoding of the same files", ours, peer)

        turns = []
        for number in range(args.repeats):
            folder = work / f"dvc{number}"
            write_files(folder, args.files, args.large)
            read = time_alone(cat, folder)
            turns.append((time_alone(add_to_cache, folder), read))
        ours, peer = zip(*turns, strict=True)
        what = f"DVC caches {args.files} files of 4 KiB and one of {args.large} MiB"
        rows.append([what, f"{min(ours):.2f}", f"{min(peer):.2f}", "cat"])
        report.ratio(f"{what}, over cat", ours, peer)
    report.table("Processor seconds, one core", ["", "ours", "of the peer", "the peer"], rows)
    report.finish()


if __name__ == "__main__":
    main()
