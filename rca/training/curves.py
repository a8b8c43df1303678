"""Curves of a running training, for TensorBoard, DVCLive and MLflow, by one interface: a line of its history each.

They are no output of a stage, since no result depends on them. A resumed training adds its history again from the first
line, which replaces earlier curves: each step appears once and none is missing, even if recording starts in the middle.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from rca.core.errors import UserError

Record = Callable[[Mapping[str, float]], None]
"""Adds a line of a history: the step as `epoch`, other values by name."""
Curves = Mapping[str, tuple[str, str]]
"""By the environment variable that asks for them: its value, and the training as `<dataset>/<run>/<seed>/<stage>`."""


@contextmanager
def record_curves(curves: Curves) -> Iterator[Record]:
    """Open all trackers that are asked for, and give a function that adds a line of a training's history to each.

    Args:
        curves: What is asked for; nothing of it needs no package.

    Yields:
        The function.

    Raises:
        UserError: a package is not installed, or a folder or server takes nothing.
    """
    with ExitStack() as stack:
        records = [stack.enter_context(TRACKERS[name](target, place)) for name, (target, place) in curves.items()]

        def record(line: Mapping[str, float]) -> None:
            for each in records:
                each(line)

        yield record


def name_curves(line: Mapping[str, float]) -> dict[str, float]:
    """The values of a line by the names of their curves; `loss_*` are grouped."""
    return {name.replace("loss_", "loss/", 1): value for name, value in line.items() if name != "epoch"}


@contextmanager
def open_tensorboard(folder: str, place: str) -> Iterator[Record]:
    """Record into event files in a folder below that of TensorBoard."""
    with _tell_missing("RCA_TENSORBOARD", "TensorBoard", "tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    own = Path(folder, place)
    with _tell_refusal("RCA_TENSORBOARD", own, OSError):
        writer = SummaryWriter(str(own), purge_step=1)

    def record(line: Mapping[str, float]) -> None:
        for name, value in name_curves(line).items():
            writer.add_scalar(name, value, int(line["epoch"]))
        writer.flush()

    with writer:
        yield record


@contextmanager
def open_dvclive(folder: str, place: str) -> Iterator[Record]:
    """Record into a folder of DVCLive, whose own dvc.yaml lists the plots; the project's dvc.yaml stays as it is."""
    with _tell_missing("RCA_DVCLIVE", "DVCLive", "dvclive"):
        from dvclive import Live
        from scmrepo.exceptions import SCMError
    own = Path(folder, place)
    with _tell_refusal("RCA_DVCLIVE", own, OSError, SCMError):  # git must hold a commit
        live = Live(dir=str(own), dvcyaml=str(own / "dvc.yaml"), save_dvc_exp=False, report=None)

    def record(line: Mapping[str, float]) -> None:
        live.step = int(line["epoch"])
        for name, value in name_curves(line).items():
            live.log_metric(name, value)
        live.make_summary()
        live.make_dvcyaml()

    with live:
        yield record


@contextmanager
def open_mlflow(server: str, place: str) -> Iterator[Record]:
    """Record a run on a server of MLflow, or in a database: one for each start, with the whole history."""
    with _tell_missing("RCA_MLFLOW", "MLflow", "mlflow"):
        from filelock import FileLock
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException
    dataset, run, seed, stage = place.split("/")
    lock = Path(tempfile.gettempdir(), f"rca-mlflow-{hashlib.sha256(server.encode()).hexdigest()[:16]}.lock")
    # One training at a time, since the first one makes the database.
    with _tell_refusal("RCA_MLFLOW", server, OSError, MlflowException), FileLock(lock):
        client = MlflowClient(server)
        experiment = client.get_experiment_by_name(f"rca/{dataset}")
        if experiment is None:
            with suppress(MlflowException):  # another machine was faster
                client.create_experiment(f"rca/{dataset}")
            experiment = client.get_experiment_by_name(f"rca/{dataset}")
        tags = {"dataset": dataset, "run": run, "seed": seed, "stage": stage}
        own = client.create_run(experiment.experiment_id, run_name=place, tags=tags).info.run_id

    def record(line: Mapping[str, float]) -> None:
        now, step = int(time.time() * 1000), int(line["epoch"])
        client.log_batch(own, [Metric(name, value, now, step) for name, value in name_curves(line).items()])

    try:
        with _tell_refusal("RCA_MLFLOW", server, MlflowException):
            yield record
    except BaseException:
        with suppress(MlflowException):  # what stopped the training is what the user reads
            client.set_terminated(own, "FAILED")
        raise
    client.set_terminated(own, "FINISHED")


TRACKERS: dict[str, Callable[[str, str], AbstractContextManager[Record]]] = {
    "RCA_TENSORBOARD": open_tensorboard,
    "RCA_DVCLIVE": open_dvclive,
    "RCA_MLFLOW": open_mlflow,
}


@contextmanager
def _tell_missing(variable: str, name: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise UserError(
            f"{variable} is set, but {name} is not installed: install it with `pip install 'rca[{extra}]'`, or unset"
            f" {variable}."
        ) from None


@contextmanager
def _tell_refusal(variable: str, target: object, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).split("\n")[0].rstrip(".")
        raise UserError(f"No curves can be written to {target} ({reason}): correct {variable}, or unset it.") from None
