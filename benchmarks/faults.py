"""Whether a run that is stopped or disturbed ends, after the plain command, as if nothing had been.

    python benchmarks/faults.py
    python benchmarks/faults.py --kills 10 --seed 1 --no-faults

It kills runs of both engines by TERM, INT and KILL, the leading process alone or its whole group: in each kind of stage
of the real pipeline on a very small dataset, and in a toy pipeline, half of the time while dvc.lock is written. Then it
gives the plain command, and compares all outputs and dvc.lock with those of an undisturbed run, byte for byte. The
other faults are those of benchmarks/broken.py. It needs the packages of `make setup`, with rca installed by it.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

sys.path[:0] = [str(Path(__file__).parents[1] / "tests/helpers"), str(Path(__file__).parent)]
import broken  # noqa: E402
from projects import Project, RealProject, Toy, build_real, build_toy  # noqa: E402

ENGINES = {"dvc": ("dvc", "repro"), "snakemake": ("snakemake", "--cores", "2", "--resources", "gpu=2")}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
COMPARED = ("data", "runs", "results", "dvc.lock")
# What no run promises: the time and memory of stages, and where Snakemake was.
OTHERS = {"measurements.js", ".snakemake_timestamp"}
PATIENCE = 900.0  # seconds for a command
PADDING = 60  # entries of stages that are gone, so that dvc.lock takes about as long to write as a large one


@dataclass(frozen=True)
class Kill:
    """A kill: of what, how, and when."""

    engine: str
    number: signal.Signals
    group: bool
    stage: str  # a kind of stage of the real pipeline; "lock" or "any" for the toy

    def __str__(self) -> str:
        return f"{self.engine:<9} {self.number.name:<7} {'group' if self.group else 'leader':<6} {self.stage}"


def list_files(root: Path, ordered: bool) -> dict[str, bytes]:
    """The content of all files that are compared, by path.

    Args:
        root: The project's root.
        ordered: Whether dvc.lock is put in order: entries that were taken out of it come back as the last.
    """
    found = {}
    for name in COMPARED:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.name not in OTHERS:
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    if ordered:
        found["dvc.lock"] = json.dumps(yaml.safe_load(found["dvc.lock"]), sort_keys=True).encode()
    return found


def find_differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """The paths that lack, are too many, or have other bytes."""
    return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))


def list_running(token: str) -> list[psutil.Process]:
    """The processes that a run has started, wherever they are now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("RCA_FAULT") == token:
                found.append(process)
        except psutil.Error:
            continue
    return found


class Run:
    """A run in a copy of a project.

    Args:
        project: The copy.
        token: What marks its processes.
    """

    def __init__(self, project: Project, token: str) -> None:
        self.project, self.token = project, token
        self.output = project.outside / "output"
        (project.outside / "tmp").mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**self.project.environment, "RCA_FAULT": self.token, "TMPDIR": str(self.project.outside / "tmp")}

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=self.project.path,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, *command: str) -> tuple[int, str]:
        """Run a command to its end; its exit code and what it printed."""
        process = self.start(*command)
        code = process.wait(timeout=PATIENCE)
        return code, self.output.read_text(errors="replace")

    def wait_for_end(self, seconds: float = 30) -> int:
        """Wait until all processes have gone; the number of those that have not, which are ended."""
        give_up = time.monotonic() + seconds
        while (left := list_running(self.token)) and time.monotonic() < give_up:
            time.sleep(0.2)
        for process in left:
            process.kill()
        return len(left)

    def list_left(self) -> list[str]:
        """What lies in TMPDIR."""
        return sorted(path.name for path in (self.project.outside / "tmp").iterdir())


def strike(run: Run, kill: Kill, is_time: Callable[[], bool], delay: float) -> bool:
    """Start an engine and kill it some time after a moment; False if it had ended before."""
    process = run.start(*ENGINES[kill.engine])
    give_up = time.monotonic() + PATIENCE
    while not is_time() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.005)
    time.sleep(delay)
    alive = process.poll() is None
    if alive:
        (os.killpg if kill.group else os.kill)(process.pid, kill.number)
        process.wait(timeout=PATIENCE)
    return alive


def stop_at(run: Run, is_time: Callable[[], bool]) -> None:
    """Kill `dvc repro` and all its processes at a moment."""
    if not strike(run, Kill("dvc", signal.SIGKILL, True, ""), is_time, 0):
        raise RuntimeError("the run ended before it could be stopped")
    run.wait_for_end()


def forget(project: Project, stage: str) -> str:
    """Take the records of one kind of stage and what it wrote away, as if it had not run; the name of its first log."""
    lock = project.path / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    names = [name for name in content["stages"] if name.partition("@")[0] == stage]
    commands = {content["stages"][name]["cmd"] for name in names}
    for name in names:
        for out in content["stages"].pop(name)["outs"]:
            path = project.path / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (project.path / f"logs/{name.replace('@', '.')}.log").unlink(missing_ok=True)
    lock.write_text(yaml.safe_dump(content, sort_keys=False))
    for path in sorted((project.path / ".dvc/cache/runs").rglob("*")):
        if path.is_file() and yaml.safe_load(path.read_text())["cmd"] in commands:
            path.unlink()
            path.parent.rmdir()
    return f"logs/{names[0].replace('@', '.')}.log"


def copy(template: Project, folder: Path) -> Project:
    """Copy a project."""
    shutil.copytree(template.path, folder / "project", symlinks=True)
    (folder / "outside").mkdir()
    return type(template)(folder / "project", folder / "outside")


def pad(toy: Toy) -> None:
    """Give dvc.lock entries of stages that are gone."""
    out = {"path": "gone/out.txt", "hash": "md5", "md5": "0" * 32, "size": 1}
    entry = {"cmd": "gone", "deps": [out, out, out], "outs": [out]}
    gone = {"schema": "2.0", "stages": {f"gone@{number}": entry for number in range(PADDING)}}
    yaml.Dumper.ignore_aliases = lambda *_: True
    (toy.path / "dvc.lock").write_text(yaml.dump(gone, sort_keys=False))


def strike_toy(run: Run, kill: Kill, choice: random.Random) -> bool:
    """Kill a run of the toy pipeline: at any time, or while it writes dvc.lock."""
    if kill.stage == "any":
        return strike(run, kill, lambda: True, choice.uniform(0.5, 12))
    part = run.project.path / ".dvc/tmp/.dvc.lock.part"
    if kill.engine == "snakemake":  # which writes it once, at the end
        if choice.random() < 0.5:
            return strike(run, kill, part.exists, 0)
        return strike(run, kill, lambda: b"(100%) done" in run.output.read_bytes(), choice.uniform(0, 0.6))
    if choice.random() < 0.5:
        return strike(run, kill, part.exists, 0)
    count = choice.randint(1, 8)
    message = b"lock file 'dvc.lock'"  # it follows
    return strike(run, kill, lambda: run.output.read_bytes().count(message) >= count, choice.uniform(0, 0.6))


def strike_real(run: Run, kill: Kill, choice: random.Random) -> bool:
    """Kill a run of the real pipeline in a kind of stage, or just after it."""
    log = run.project.path / forget(run.project, kill.stage)
    return strike(run, kill, log.exists if kill.stage != "pin_stages" else lambda: True, choice.uniform(0, 3))


def plan_kills(count: int, kinds: Iterable[str], choice: random.Random) -> list[Kill]:
    """Draw kills, spread over engines, signals, leader and group, and all kinds of stage."""
    stages = list(kinds)
    choice.shuffle(stages)
    targets = stages[: count // 2]
    targets += ["lock" if number % 4 else "any" for number in range(count - len(targets))]
    ways = [(engine, number, group) for group in (False, True) for number in SIGNALS for engine in ENGINES]
    choice.shuffle(ways)
    return [Kill(*ways[number % len(ways)], stage) for number, stage in enumerate(targets)]


def try_kill(kill: Kill, templates: dict[str, Project], folder: Path, choice: random.Random) -> list[str]:
    """Kill a run, give the plain command, and say what is not as it should be."""
    toy = kill.stage in {"lock", "any"}
    strikes = strike_toy if toy else strike_real
    for attempt in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        run = Run(copy(templates["toy" if toy else "real"], folder), f"{folder.name}-{attempt}")
        if strikes(run, kill, choice):
            break
    else:
        return ["it was never alive at that time"]
    wrong = []
    if left := run.wait_for_end():
        wrong.append(f"{left} processes went on")
    code, text = run.finish(*ENGINES[kill.engine])
    if code:
        lines = [line for line in text.splitlines() if "did not succeed" in line or "ERROR" in line]
        wrong.append(f"the plain command failed: {(lines or text.splitlines()[-3:])[0]}")
    finished = templates["finished toy" if toy else "real"]
    wrong += find_differences(list_files(finished.path, not toy), list_files(run.project.path, not toy))[:5]
    wrong += [f"TMPDIR has {name}" for name in run.list_left()[:3]]
    if left := run.wait_for_end(5):
        wrong.append(f"{left} processes are left")
    return wrong


def try_fault(fault: broken.Fault, engine: str, real: Project, folder: Path) -> tuple[str, list[str]]:
    """Make a fault, give the plain command, mend the fault, give the command again; the sentence, and what is wrong."""
    with broken.open_disk(folder, fault.mounts):
        run = Run(copy(real, folder), f"{folder.name}-{engine}-{fault.stage}")
        forget(run.project, fault.stage)
        expected = list_files(real.path, True)
        mend = fault.make(run)
        code, text = run.finish(*ENGINES[engine])
        finished = code == 0 and not find_differences(expected, list_files(run.project.path, True))
        wrong = broken.judge(code, text, finished)
        mend()
        code, text_after = run.finish(*ENGINES[engine])
        if code:
            wrong.append(f"the command failed after it: {broken.find_sentence(text_after) or text_after[-300:]}")
        wrong += find_differences(expected, list_files(run.project.path, True))[:5]
        wrong += [f"TMPDIR has {name}" for name in run.list_left()[:3]]
        if left := run.wait_for_end(5):
            wrong.append(f"{left} processes are left")
    return broken.find_sentence(text) if not finished else "it mends itself", wrong


def try_faults(real: Project, folder: Path) -> int:
    """Print a line for each fault under each engine; how many did not end as they should."""
    failed = 0
    for fault in broken.FAULTS:
        for engine in ENGINES:
            if fault.mounts and os.geteuid() != 0:
                print(f"{fault.name}: left out, since one has to be root to mount a file system")
                continue
            sentence, wrong = try_fault(fault, engine, real, folder)
            failed += bool(wrong)
            what = f"{fault.name} ({fault.stage}, {engine})"
            print(f"{what}: {sentence}; {'; '.join(wrong) or 'then as undisturbed'}", flush=True)
    return failed


def build_templates(folder: Path, toy_alone: bool) -> dict[str, Project]:
    """Projects that nothing has disturbed: a toy before and after its run, and the real pipeline after it."""
    places = [(folder / name / "project", folder / name / "outside") for name in ("toy", "finished", "real")]
    found = {"toy": Toy(*places[0]), "finished toy": Toy(*places[1]), "real": RealProject(*places[2])}
    if not places[1][0].exists():
        pad(build_toy(folder / "toy"))
        copy(found["toy"], folder / "finished").run("dvc", "repro", "-q")
    if not toy_alone and not places[2][0].exists():
        build_real(folder / "real").run(*ENGINES["snakemake"])
        found["real"].commit("finished")
    return found


def list_kinds(real: Project) -> list[str]:
    """The kinds of stage that the real pipeline has run."""
    stages = yaml.safe_load((real.path / "dvc.lock").read_text())["stages"]
    return sorted({name.partition("@")[0] for name in stages})


def main() -> int:
    """Print a line for each fault and the counts; 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the times and of the order")
    keep = "folder that keeps the projects for another time (default: none is kept)"
    parser.add_argument("--folder", type=Path, help=keep)
    parser.add_argument("--toy", action="store_true", help="disturb the toy pipeline alone")
    parser.add_argument("--no-faults", action="store_true", help="leave the other faults out")
    args = parser.parse_args()
    if not Path(sysconfig.get_path("purelib"), "rca_whole_lock.pth").exists():
        sys.exit("rca is not installed beside this Python: run `make setup` first.")
    with tempfile.TemporaryDirectory(prefix="rca-faults-") as name:
        kept = (args.folder or Path(name)).resolve()
        os.environ["DVC_SITE_CACHE_DIR"] = f"{kept}/dvc"
        templates = build_templates(kept, args.toy)
        good: Counter[str] = Counter()
        kinds = [] if args.toy else list_kinds(templates["real"])
        kills = plan_kills(args.kills, kinds, random.Random(args.seed))
        for number, kill in enumerate(kills):
            wrong = try_kill(kill, templates, Path(name, "kill"), random.Random(f"{args.seed} {number}"))
            good[kill.engine] += not wrong
            print(f"{number + 1:3} {kill!s:<45} {'; '.join(wrong) or 'as undisturbed'}", flush=True)
        for engine in ENGINES:
            print(f"{engine}: {good[engine]} of {sum(kill.engine == engine for kill in kills)} as undisturbed")
        failed = args.kills - good.total()
        if not args.no_faults and not args.toy:
            failed += try_faults(templates["real"], Path(name, "fault"))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
