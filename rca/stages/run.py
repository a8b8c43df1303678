"""Run one stage: `python -m rca.stages.run train_cam --run rca --seed 0`.

What DVC's commands call. What the stage prints goes to the terminal and to `logs/<name>.log`, what it took to
`logs/<name>.json`; bad input ends it with one sentence and exit code 2.
"""

import argparse
import importlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, TextIO

from rca.core.errors import UserError
from rca.core.files import keep_only, write_json
from rca.stages.context import Context
from rca.stages.layout import LOGS
from rca.stages.switches import write_nothing

# Each stage, and what tells its instances apart.
STAGES: dict[str, tuple[str, ...]] = {
    "generate_data": ("item",),
    "prepare_data": (),
    "fetch_weights": ("item",),
    "cache_features": ("shard",),
    "pin_method": ("run",),
    "train_cam": ("run", "seed"),
    "snapshot_memory": ("run", "seed"),
    "make_cam": ("run", "seed", "shard"),
    "pin_scores": ("run", "seed"),
    "train_affinity": ("run", "seed"),
    "walk_scores": ("run", "seed", "shard"),
    "choose_threshold": ("run", "seed"),
    "make_pseudo": ("run", "seed", "shard"),
    "refine_crf": ("run", "seed", "shard"),
    "pin_masks": ("run", "seed"),
    "train_seg": ("run", "seed"),
    "predict_seg": ("run", "seed"),
    "evaluate": ("run", "seed"),
    "tabulate": (),
    "render_report": (),
}
# Folders with a part for each shard, by the stage that is the first to depend on them as a whole.
SHARD_FOLDERS = {"pin_scores": ("scores",), "choose_threshold": ("walked",), "pin_masks": ("pseudo", "refined")}
HELP = {
    "run": "one of the runs that params.yaml lists",
    "seed": "the run's random seed, a whole number",
    "shard": "which part of the images, counted from 0",
    "item": "which instance",
}


class Tee:
    """A text stream that writes to the terminal and to a log.

    Attributes:
        terminal: The stream that a person sees, for what does not belong in the log.
    """

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self.terminal, self.log = terminal, log

    def write(self, text: str) -> int:
        """Write to both."""
        self.terminal.write(text)
        return self.log.write(text)

    def flush(self) -> None:
        """Flush both."""
        self.terminal.flush()
        self.log.flush()

    def isatty(self) -> bool:
        """Whether a person looks on."""
        return self.terminal.isatty()


def add_arguments(parser: argparse.ArgumentParser, stage: str) -> None:
    """Give a parser the arguments that a stage takes."""
    for name in STAGES[stage]:
        if name == "item":
            parser.add_argument("item", help=HELP[name])
        else:
            parser.add_argument(f"--{name}", required=True, type=str if name == "run" else int, help=HELP[name])


def run_stage(context: Context) -> int:
    """Run one instance of a stage.

    Returns:
        The exit code: 0, 1 where the stage has a defect, 2 where its input is bad.
    """
    LOGS.mkdir(exist_ok=True)
    log_file = LOGS / f"{context.name}.log"
    # cuBLAS is reproducible only with a workspace that is fixed before the first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    stdout, stderr = sys.stdout, sys.stderr
    start = time.monotonic()
    with open(log_file, "w", encoding="utf-8", buffering=1) as log:
        sys.stdout, sys.stderr = Tee(stdout, log), Tee(stderr, log)  # type: ignore[assignment]
        try:
            drop_old_shards(context)
            if write_nothing(context):
                print("switched off")
            else:
                importlib.import_module(f"rca.stages.{context.stage}").run(context)
            write_json(LOGS / f"{context.name}.json", measure(context, time.monotonic() - start))
        except UserError as error:
            print(f"error: {context.name}: {error} (log: {log_file})", file=sys.stderr)
            return 2
        except Exception:
            traceback.print_exc()
            print(f"error: {context.name} failed: see {log_file}.", file=sys.stderr)
            return 1
        finally:
            sys.stdout, sys.stderr = stdout, stderr
    print(f"{context.name}: done in {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0


def drop_old_shards(context: Context) -> None:
    """Delete what more shards than there are now have left behind, before any stage that takes it up is recorded."""
    for name in SHARD_FOLDERS.get(context.stage, ()):
        shards = [str(shard) for shard in context.read("shards")]
        keep_only(getattr(context.paths, name), [*shards, *(f"{shard}.safetensors" for shard in shards)])


def measure(context: Context, seconds: float) -> dict[str, Any]:
    """What an instance of a stage took: not an output, since it differs from one run to the next.

    Returns:
        `dataset`, `stage`, `run`, `seed` and `shard` (null where the stage has none), `seconds` of wall time,
        `memory_mb` (peak resident set of the stage's process, or of its largest worker if that is more), and
        `gpu_memory_mb` (peak that PyTorch allocated on the current device; null where none was used).
    """
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    torch = sys.modules.get("torch")  # importing it takes seconds; a stage that has not, used no GPU
    gpu = torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_initialized() else None
    return {
        "dataset": context.layout.dataset,
        "stage": context.stage,
        "run": context.run,
        "seed": context.seed,
        "shard": context.shard,
        "seconds": round(seconds, 2),
        "memory_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1),  # bytes there, KiB elsewhere
        "gpu_memory_mb": None if gpu is None else round(gpu / 1024**2, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments of one stage and run it."""
    parser = argparse.ArgumentParser(prog="python -m rca.stages.run", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="stage", required=True)
    for stage in STAGES:
        add_arguments(commands.add_parser(stage), stage)
    return run_stage(Context(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
