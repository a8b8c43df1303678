"""Faults of disks and files, for benchmarks/faults.py: a full disk, no inodes, a read-only folder, flipped bytes.

Each is made in a project where one kind of stage has to run again. The plain command must then end with one sentence,
or as if nothing had been; and once the fault is mended as that sentence says, as if nothing had been.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from engine_runs import ENGINES, Project, Run, copy, find_differences, forget, list_files, stop_at

SPARE = 96 * 1024  # bytes that are left on the full disk: enough for DVC to begin
SPARE_INODES = 24
SENTENCE = re.compile(r"^(?:error: |ERROR: ).*$", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: What it is.
        stage: The kind of stage that has to run again.
        make: Makes it, and returns what mends it.
        mounts: Whether the project lies on a file system of its own, for which one has to be root.
    """

    name: str
    stage: str
    make: Callable[[Run], Callable[[], object]]
    mounts: bool = False


def fill_disk(run: Run) -> Callable[[], object]:
    """Leave next to no space."""
    free = os.statvfs(run.project.path)
    filler = run.project.path.parent / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - SPARE)
    return filler.unlink


def use_inodes(run: Run) -> Callable[[], object]:
    """Leave next to no inodes."""
    folder = run.project.path.parent / "filler"
    folder.mkdir()
    for number in range(os.statvfs(run.project.path).f_favail - SPARE_INODES):
        (folder / str(number)).touch()
    return lambda: shutil.rmtree(folder)


def forbid_writing(run: Run) -> Callable[[], object]:
    """Make the folder of a run read-only, also for root."""
    folder = run.project.path / "runs/shapes/cam/0"
    mount("--bind", folder, folder)
    mount("-o", "remount,bind,ro", folder)
    return lambda: subprocess.run(["umount", folder], check=True)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(mode)


def flip_checkpoint(run: Run) -> Callable[[], object]:
    """Stop a training after its first epoch, and change its checkpoint."""
    checkpoints = run.project.path / ".rca/checkpoints"
    stop_at(run, lambda: any(checkpoints.glob("train_cam*.pt")))
    (checkpoint,) = checkpoints.glob("train_cam*.pt")
    flip(checkpoint)
    return checkpoint.unlink


def flip_scores(run: Run) -> Callable[[], object]:
    """Change score maps that a later stage reads."""
    flip(run.project.path / "runs/shapes/cam/0/maps/0/scores.safetensors")
    return lambda: None


def flip_cached(run: Run) -> Callable[[], object]:
    """Change score maps in DVC's cache, from where they have to come."""
    name = "runs/shapes/cam/0/maps/0/scores.safetensors"
    stages = yaml.safe_load((run.project.path / "dvc.lock").read_text())["stages"]
    (md5,) = (out["md5"] for stage in stages.values() for out in stage["outs"] if out["path"] == name)
    cached = run.project.path / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"
    (run.project.path / name).unlink()
    flip(cached)
    return cached.unlink


FAULTS = (
    Fault("disk full", "train_cam", fill_disk, mounts=True),
    Fault("disk full", "make_pseudo", fill_disk, mounts=True),
    Fault("inodes used up", "refine_crf", use_inodes, mounts=True),
    Fault("read-only folder", "choose_threshold", forbid_writing, mounts=True),
    Fault("byte flipped in a checkpoint", "train_cam", flip_checkpoint),
    Fault("byte flipped in score maps", "choose_threshold", flip_scores),
    Fault("byte flipped in a cache object", "choose_threshold", flip_cached),
)


def mount(*arguments: object) -> None:
    """Call mount."""
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def open_disk(folder: Path, mounts: bool) -> Iterator[None]:
    """Put a small file system there where one is asked for."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if mounts:
        mount("-t", "tmpfs", "-o", "size=512M,nr_inodes=20000", "tmpfs", folder)
    try:
        yield
    finally:
        if mounts:
            subprocess.run(["umount", "-l", folder], check=True)


def find_sentence(text: str) -> str:
    """The sentence about a fault that an engine printed: a stage's own, or else the engine's."""
    found = [line for line in SENTENCE.findall(text) if "failed to reproduce" not in line]
    return max(found, key=lambda line: line.startswith("error: "), default="")


def judge(code: int, text: str, finished: bool) -> list[str]:
    """What is wrong with how a command ended."""
    if code == 0:
        return [] if finished else ["it ended well, but with other files"]
    wrong = ["a traceback"] if "Traceback" in text else []
    return wrong if find_sentence(text) else [*wrong, f"no sentence: {text[-300:]}"]


def try_fault(fault: Fault, engine: str, real: Project, folder: Path) -> tuple[str, list[str]]:
    """Make a fault, give the plain command, mend the fault, give the command again; the sentence, and what is wrong."""
    with open_disk(folder, fault.mounts):
        run = Run(copy(real, folder), f"{folder.name}-{engine}-{fault.stage}")
        forget(run.project, fault.stage)
        expected = list_files(real.path)
        mend = fault.make(run)
        code, text = run.finish(*ENGINES[engine])
        finished = code == 0 and not find_differences(expected, list_files(run.project.path))
        wrong = judge(code, text, finished)
        mend()
        code, text_after = run.finish(*ENGINES[engine])
        if code:
            wrong.append(f"the command failed after it: {find_sentence(text_after) or text_after[-300:]}")
        wrong += find_differences(expected, list_files(run.project.path))[:5]
        wrong += [f"TMPDIR has {name}" for name in run.list_left()[:3]]
        if left := run.wait_for_end(5):
            wrong.append(f"{left} processes are left")
    return find_sentence(text) if not finished else "it mends itself", wrong


def try_faults(real: Project, folder: Path) -> int:
    """Print a line for each fault under each engine; how many did not end as they should."""
    failed = 0
    for fault in FAULTS:
        for engine in ENGINES:
            if fault.mounts and os.geteuid() != 0:
                print(f"{fault.name}: left out, since one has to be root to mount a file system")
                continue
            sentence, wrong = try_fault(fault, engine, real, folder)
            failed += bool(wrong)
            what = f"{fault.name} ({fault.stage}, {engine})"
            print(f"{what}: {sentence}; {'; '.join(wrong) or 'then as undisturbed'}", flush=True)
    return failed
