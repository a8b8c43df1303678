"""Run one instance of a stage: `python -m rca.stages train_cam --run rca --seed 0`.

dvc.yaml calls these commands. A stage prints to the terminal and to `logs/<name>.log`; its time and memory go to
`logs/<name>.json`. On bad input it prints one sentence and exits with code 2.
"""

import argparse
import atexit
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from rca.core.errors import UserError, tell
from rca.core.files import write_json
from rca.core.heap import keep_freed_memory
from rca.core.machine import name_processor
from rca.core.progress import DONE, STATUS, print_anything
from rca.core.settings import Settings
from rca.pipeline.orphans import end_with_starter
from rca.stages.base.context import Context
from rca.stages.base.layout import COMPILED, LOGS, PROGRESS
from rca.stages.base.names import add_arguments
from rca.stages.base.pins import Instance, Pins, read_pins
from rca.stages.base.stage import Stage


class Tee:
    """A text stream that writes to the terminal and to a log.

    Args:
        terminal: The terminal.
        log: The log.
        name: What precedes each line on the terminal, if it does not name it itself.

    Attributes:
        terminal: The stream that the user sees, for output that does not belong in the log.
    """

    def __init__(self, terminal: TextIO, log: TextIO, name: str = "") -> None:
        self.terminal, self.log, self.name = terminal, log, name
        self.fresh = True

    def write(self, text: str) -> int:
        """Write to both."""
        for line in text.splitlines(keepends=True) if self.name else [text]:
            prefix = f"{self.name}: " if self.name and self.fresh and line.strip() and self.name not in line else ""
            self.terminal.write(prefix + line)
            self.fresh = line.endswith("\n")
        return self.log.write(text)

    def flush(self) -> None:
        """Flush both."""
        self.terminal.flush()
        self.log.flush()

    def isatty(self) -> bool:
        """Whether the output goes to an interactive terminal."""
        return self.terminal.isatty()


def run_instance(instance: Instance, pins: Pins) -> int:
    """Run one instance of a stage.

    Returns:
        The exit code: 0 on success, 1 after an unexpected exception, 2 on bad input or an error of the system.
    """
    keep_freed_memory()
    try:
        return run_stage(*pins.prepare(instance))
    except Exception as error:  # before the stage began, e.g. its log cannot be written
        sentence = tell(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
    return 2


def run_stage(stage: Stage[Settings], context: Context, task: Settings) -> int:
    """Run a stage and write its log; return the exit code, as `run_instance` does."""
    LOGS.mkdir(exist_ok=True)
    PROGRESS.mkdir(parents=True, exist_ok=True)
    progress = PROGRESS / f"{context.name}.json"
    progress.unlink(missing_ok=True)
    log_file = LOGS / f"{context.name}.log"
    # cuBLAS is deterministic only if its workspace is fixed before the first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch makes this folder as it trains, by default in TMPDIR, where nobody removes it.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(COMPILED.resolve()))
    stdout, stderr = sys.stdout, sys.stderr
    start = time.monotonic()
    with open(log_file, "w", encoding="utf-8", buffering=1) as log:
        os.environ[STATUS] = str(progress)
        DONE.items, DONE.seconds = 0, 0.0
        # Several jobs share the terminal then: each line names its job.
        name = context.name if os.environ.get("RCA_PROGRESS") == "lines" else ""
        sys.stdout, sys.stderr = Tee(stdout, log, name), Tee(stderr, log, name)
        try:
            stage.run(context, task)
            write_json(LOGS / f"{context.name}.json", measure(context, time.monotonic() - start))
        except Exception as error:
            sentence = tell(error)
            if sentence is not None:
                print(f"error: {context.name}: {sentence} (log: {log_file})", file=sys.stderr)
                return 2
            traceback.print_exc()
            print(f"error: {context.name} failed: see {log_file}.", file=sys.stderr)
            return 1
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            os.environ.pop(STATUS, None)
            progress.unlink(missing_ok=True)
    print(f"{context.name}: done in {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0


def measure(context: Context, seconds: float) -> dict[str, object]:
    """Measure time and memory of an instance. They are no output of the stage, since they differ from run to run.

    Returns:
        `dataset`, `stage`, `run`, `seed` and `shard` (null where the stage has none), `seconds` of wall time, the
        `items` that its loops worked on and how many of the seconds all but the first took (`item_seconds`),
        `memory_mb` (peak resident set of the stage's process, or of its largest worker if that is more),
        `gpu_memory_mb` (peak that PyTorch allocated on the current device; null if no GPU was used), when it
        `ended` (ISO 8601, UTC), the name of its `host`, and that of its `device`.
    """
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    torch = sys.modules.get("torch")  # importing it takes seconds; a stage that did not import it used no GPU
    gpu, device = None, name_processor()
    if torch is not None and torch.cuda.is_initialized():
        gpu, device = torch.cuda.max_memory_allocated(), torch.cuda.get_device_name()
    return {
        "dataset": context.dataset,
        "stage": context.stage,
        "run": context.run,
        "seed": context.seed,
        "shard": context.shard,
        "seconds": round(seconds, 2),
        "items": DONE.items,
        "item_seconds": round(DONE.seconds, 3),
        "memory_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1),  # bytes on macOS, KiB elsewhere
        "gpu_memory_mb": None if gpu is None else round(gpu / 1024**2, 1),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "device": device,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments of one instance of a stage and run it."""
    parser = argparse.ArgumentParser(prog="python -m rca.stages", description=__doc__.split("\n")[0])
    parser.add_argument("stage", help="a module of rca/stages")
    add_arguments(parser)
    print_anything()
    if "DVC_STAGE" in os.environ:  # an engine started it: `dvc repro`, or a job of Snakemake
        end_with_starter()
    # Busy-waiting threads of one job slow down other jobs on the same cores (up to 60 times). Before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        pins = read_pins()
    except (UserError, OSError) as error:
        print(f"error: {tell(error)}", file=sys.stderr)
        return 2
    return run_instance(Instance(**vars(parser.parse_args(arguments))), pins)


if __name__ == "__main__":
    code = main()
    # Python would take up to a second to take torch down, object by object. What is registered for the end still runs.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
