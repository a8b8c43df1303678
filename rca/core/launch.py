"""Start the processes of one training on this machine and stand by until they end."""

import io
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from rca.core.errors import UserError

# A process that did not fail itself may hang in a collective with one that did: it is ended after so many seconds.
GRACE = 5.0
# The stream that a text is for, "stdout" or "stderr", or "error" for the sentence of a UserError; and the text.
Messages = SimpleQueue[tuple[str, str]]


def launch(function: Callable[..., None], processes: int, *arguments: object) -> None:
    """Call a function in so many processes that form a process group, or in this one where one is asked for.

    They take a GPU each and talk by NCCL where CUDA is there, else by gloo. What rank 0 prints is printed here, what
    the others print is dropped. Where one process fails all end.

    Args:
        function: A module's own function.
        processes: How many, at least 1.
        arguments: Of the function, the same in each process.

    Raises:
        UserError: there are fewer GPUs than processes, or a process raised it.
    """
    if processes == 1:
        function(*arguments)
        return
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise UserError(
            f"{processes} processes need {processes} GPUs, but this job sees {torch.cuda.device_count()}: lower"
            " optimisation.processes, or raise gpu under resources."
        )
    messages: Messages = multiprocessing.get_context("spawn").SimpleQueue()
    # It warns of each process that it ends; the sentence of the one that failed is enough. In the processes torch would
    # warn of every parameter that might have been idle and was not.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory(prefix="rca-") as folder:
        started = (processes, folder, messages, function, arguments)
        group = start_processes(  # type: ignore[no-untyped-call]  # torch leaves it without types
            _work, started, processes, join=False, start_method="spawn"
        )
        errors: list[str] = []
        try:
            while not group.join(timeout=0.1, grace_period=GRACE):
                errors += _relay(messages)
        except (ProcessRaisedException, ProcessExitedException):
            errors += _relay(messages)
            if errors:
                raise UserError(errors[0]) from None
            raise
        finally:
            for process in group.processes:
                process.terminate()
            _relay(messages)


def _work(
    rank: int,
    processes: int,
    folder: str,
    messages: Messages,
    function: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    """What each process does."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, _Messenger(messages, name) if rank == 0 else open(os.devnull, "w"))  # noqa: SIM115
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    # They meet at a file: a port could be taken.
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("nccl" if on_gpu else "gloo", meeting, rank=rank, world_size=processes)
    try:
        function(*arguments)
    except UserError as error:
        # Sent before this process leaves the group, so before the others fail for want of it.
        messages.put(("error", str(error)))
        sys.exit(2)
    distributed.destroy_process_group()


def _relay(messages: Messages) -> list[str]:
    """Print what the processes sent, except their errors, which are returned."""
    errors = []
    while not messages.empty():
        kind, text = messages.get()
        if kind == "error":
            errors.append(text)
        else:
            print(text, end="", file=getattr(sys, kind), flush=True)
    return errors


class _Messenger(io.TextIOBase):
    """A text stream that sends what is written to the process that launched this one."""

    def __init__(self, messages: Messages, name: str) -> None:
        self.messages, self.name = messages, name

    def write(self, text: str) -> int:
        self.messages.put((self.name, text))
        return len(text)
