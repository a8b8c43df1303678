"""Whether a run that is stopped or disturbed ends, after the plain command, as if nothing had been.

    python benchmarks/faults.py
    python benchmarks/faults.py --kills 10 --seed 1 --no-faults

It kills runs of both engines by TERM, INT and KILL, the leading process alone or its whole group: in each kind of stage
of the real pipeline on a very small dataset, and in a toy pipeline, half of the time while dvc.lock is written. Then it
gives the plain command, and compares all outputs and dvc.lock with those of an undisturbed run, byte for byte. The
other faults are those of benchmarks/broken.py. It needs the packages of `make setup`, with rca installed by it.
"""

import argparse
import os
import random
import shutil
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import yaml
from broken import try_faults
from engine_runs import ENGINES, SIGNALS, Kill, Run, copy, find_differences, forget, list_files, strike
from projects import Project, RealProject, Toy, build_real, build_toy  # engine_runs.py says where they are

PADDING = 60  # entries of stages that are gone, so that dvc.lock takes about as long to write as a large one


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
    wrong += find_differences(list_files(finished.path), list_files(run.project.path))[:5]
    wrong += [f"TMPDIR has {name}" for name in run.list_left()[:3]]
    if left := run.wait_for_end(5):
        wrong.append(f"{left} processes are left")
    return wrong


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
