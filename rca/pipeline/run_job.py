"""Reproduce one job through DVC: the command of each rule of the Snakefile.

    python -m rca.pipeline.run_job train_cam@rca-0 --gpus 1

DVC checks again whether the stage must run, runs it or restores its outputs, and writes a record of it.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rca.core.errors import UserError, end_with_sentence, tell
from rca.pipeline.dvc_job import reproduce
from rca.pipeline.gpus import lease_gpus
from rca.pipeline.orphans import end_with_starter
from rca.pipeline.tasks import is_forced, name_log, read_task


def run_job(name: str, gpus: int) -> None:
    """Reproduce one job of the plan in the current folder, without its upstream jobs.

    Args:
        name: DVC's name of the stage.
        gpus: Number of GPUs; the caller has read it from dvc.yaml, which takes DVC seconds.

    Raises:
        UserError: There is no such stage, or it failed.
    """
    task = read_task(Path(), name)
    with lease_gpus(gpus) as variables:
        # DVC passes the environment to the stage's command. Jobs share the terminal, so progress is printed in lines.
        os.environ.update(variables, RCA_PROGRESS="lines")
        try:
            reproduce(Path(), task, is_forced(Path(), name))
        except UserError as error:
            reason = str(error).removeprefix("DVC: ").removesuffix(".")
            raise UserError(f"Stage {name} did not succeed: {reason}; its log is {name_log(name)}.") from error


@contextmanager
def record_messages(log: Path) -> Iterator[None]:
    """Write DVC's messages to the stage's log if the stage's command wrote none.

    Snakemake deletes a job's log before the job. If DVC then restores the outputs from its cache, the log says so.
    """
    messages: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dvc")
    for printer in logger.handlers:
        printer.setLevel(logging.WARNING)  # Snakemake reports what runs
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        if not log.exists():
            append_log(log, "\n".join(message for message in messages if message))


def append_log(log: Path, text: str) -> None:
    """Append text to a log; create the log if it does not exist."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        print(text, file=stream)


def stop_children(number: int, _: object) -> None:
    """Pass a stop signal on to the stage's command, so that DVC sees it fail and releases its locks."""
    import psutil  # imported late, since few jobs are stopped

    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    if not children:
        sys.exit(128 + number)


def main() -> None:
    """Run the stage named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", help="DVC's name of the stage, such as train_cam@rca-0")
    parser.add_argument("--gpus", type=int, default=0, help="number of GPUs (default 0)")
    arguments = parser.parse_args()
    if arguments.gpus < 0:
        parser.error(f"--gpus must be at least 0, not {arguments.gpus}")
    name = arguments.stage
    signal.signal(signal.SIGTERM, stop_children)
    end_with_starter()
    log = Path(name_log(name))
    with end_with_sentence():
        try:
            with record_messages(log):
                run_job(name, arguments.gpus)
        except Exception as error:
            sentence = tell(error)
            if sentence is not None:
                append_log(log, sentence)
            raise


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the record is written: nothing is left to tidy up, module by module
