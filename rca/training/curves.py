"""Curves of a running training for TensorBoard; they are no output of a stage, since no result depends on them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rca.core.errors import UserError


@contextmanager
def record_curves(folder: Path | None) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Open a folder of event files and give a function that adds a line of a training's history to it.

    A resumed training adds its history again from the first line, which replaces the earlier curves of the folder: each
    step appears once and none is missing, even if recording starts in the middle of a training.

    Args:
        folder: The folder of this training's event files; None records nothing and needs no TensorBoard.

    Yields:
        The function. A line has the step as `epoch`, and other values by name; `loss_*` are grouped.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written.
    """
    if folder is None:
        yield lambda line: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "RCA_TENSORBOARD is set, but TensorBoard is not installed: install it with `pip install tensorboard`, or"
            " unset RCA_TENSORBOARD."
        ) from None
    try:
        writer = SummaryWriter(str(folder), purge_step=1)
    except OSError as error:
        raise UserError(
            f"No curves can be written to {folder} ({error.strerror}): set RCA_TENSORBOARD to a writable folder."
        ) from None

    def record(line: Mapping[str, float]) -> None:
        for name, value in line.items():
            if name != "epoch":
                writer.add_scalar(name.replace("loss_", "loss/", 1), value, int(line["epoch"]))
        writer.flush()

    with writer:
        yield record
