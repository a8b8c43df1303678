"""The curves of a training while it runs, for TensorBoard: no output of a stage, since they change no result."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rca.core.errors import UserError


@contextmanager
def record_curves(folder: Path | None) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Give a function that adds a line of a training's history to the curves that TensorBoard shows.

    A training that is resumed adds its history from the first line on: whatever a folder held before from there on is
    void, so that no step stands there twice and none is missing, whenever the curves were asked for.

    Args:
        folder: Of this training alone, for its event files; None records nothing and needs no TensorBoard.

    Yields:
        The function. A line has `epoch`, which is the step, and other figures by name; `loss_*` share a group.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be made.
    """
    if folder is None:
        yield lambda line: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "RCA_TENSORBOARD asks for curves, which need TensorBoard: install it with `pip install tensorboard`, or"
            " unset RCA_TENSORBOARD."
        ) from None
    try:
        writer = SummaryWriter(str(folder), purge_step=1)
    except OSError as error:
        raise UserError(f"RCA_TENSORBOARD: no curves can be written to {folder} ({error.strerror}).") from None

    def record(line: Mapping[str, float]) -> None:
        for name, value in line.items():
            if name != "epoch":
                writer.add_scalar(name.replace("loss_", "loss/", 1), value, int(line["epoch"]))
        writer.flush()

    with writer:
        yield record
