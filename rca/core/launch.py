"""Start the processes of one training on this machine and wait for them."""

import io
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from rca.core.errors import UserError, explain
from rca.core.files import work_in_folder

# When one process fails, the others may hang in a collective with it: they are ended after this many seconds.
GRACE = 5.0
# A text and where it goes: "stdout", "stderr", or "error" for the sentence of a UserError.
Messages = SimpleQueue[tuple[str, str]]


def launch(function: Callable[..., None], processes: int, *arguments: object) -> None:
    """Call a function in several processes that form a process group, or in this one for one process.

    With CUDA, each process takes a GPU and they communicate by NCCL, else by gloo. What rank 0 prints is printed here;
    what the others print is dropped. When one process fails, all end.

    Args:
        function: Defined at the top of a module, so that it can be pickled.
        processes: Their number, at least 1.
        arguments: The function's arguments, the same in each process.

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
    # The sentence of the process that failed is enough: torch would log each process that it ends, and in the processes
    # warn that it searched for unused parameters and found none.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with work_in_folder() as folder:
        started = (processes, str(folder), messages, function, arguments)
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
    """Run the function in one process of the group."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, _Messenger(messages, name) if rank == 0 else open(os.devnull, "w"))  # noqa: SIM115
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    # The processes meet at a file, since a port could be taken.
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("nccl" if on_gpu else "gloo", meeting, rank=rank, world_size=processes)
    try:
        function(*arguments)
    except UserError as error:
        # Sent before this process leaves the group and the others fail without it.
        messages.put(("error", str(error)))
        sys.exit(2)
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        messages.put(("error", sentence))
        sys.exit(2)
    distributed.destroy_process_group()


def _relay(messages: Messages) -> list[str]:
    """Print what the processes sent; their errors are returned instead."""
    errors = []
    while not messages.empty():
        kind, text = messages.get()
        if kind == "error":
            errors.append(text)
        else:
            print(text, end="", file=getattr(sys, kind), flush=True)
    return errors


class _Messenger(io.TextIOBase):
    """A text stream that sends its text to the process that launched this one."""

    def __init__(self, messages: Messages, name: str) -> None:
        self.messages, self.name = messages, name

    def write(self, text: str) -> int:
        self.messages.put((self.name, text))
        return len(text)
