"""Take the trained network of another run, for a run whose method needs no training of its own."""

from dataclasses import replace

from rca.classifier.network import CamNetwork, load_network, save_network
from rca.core.errors import UserError
from rca.core.settings import Plain, Settings, Supervision, Train
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class TakeNetworkTask(Settings):
    """All settings of the stage.

    Attributes:
        taken_from: The run whose network this run takes; None if this run trains its own.
        method: The method's module.
        options: The method's options, as given.
        supervision: What the run's networks learn from.
        train: Whether the run trains its network.
    """

    taken_from: str | None
    method: str
    options: Plain
    supervision: Supervision
    train: Train


def run(context: Context, task: TakeNetworkTask) -> None:
    """Write the other run's network with this run's method, whose memory is still empty."""
    paths, source = context.paths, str(task.taken_from)
    trained = load_network(context.layout.of(source, paths.seed).network, {})
    network = CamNetwork(replace(trained.description, method=task.method, options=task.options))
    taken, own = trained.state_dict(), network.state_dict()
    memory = {f"method.{name}" for name in network.method.memory_state()}
    for name in sorted(own.keys() - memory):
        if name not in taken or taken[name].shape != own[name].shape:
            raise UserError(
                f"run {paths.run}: the network of {source} has no {name}, which the method {task.method} trains: remove"
                f" run.{paths.run}.train, so that the run trains a network of its own."
            )
    network.load_state_dict({name: own[name] if name in memory else taken[name] for name in own})
    save_network(paths.network, network)
    print(f"the network of {source}, seed {paths.seed}, with the method {task.method}")


STAGE = Stage(
    task=TakeNetworkTask,
    run=run,
    shared={name: f"run.{name}" for name in ("taken_from", "method", "options", "supervision", "train")},
    axes=("run", "seed"),
    item=lambda task, place: {"taken_from": task.taken_from},
    needed=lambda task: task.supervision == "tags" and task.train == "none",
)
