"""Fetch the initial weights of each network's backbone once, for all runs and seeds."""

from rca.core.settings import Settings
from rca.models.weights import BackboneSettings, describe, fetch_weights
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class FetchWeightsTask(Settings):
    """All settings of the stage.

    Attributes:
        backbone: The backbone and where its weights come from.
        network_needed: Whether any run has this network.
    """

    backbone: BackboneSettings
    network_needed: bool


def run(context: Context, task: FetchWeightsTask) -> None:
    """Write the weights of one network's backbone."""
    fetch_weights(task.backbone, context.layout.weights(str(context.item)))
    print(f"{context.item}: {describe(task.backbone)}")


STAGE = Stage(
    task=FetchWeightsTask,
    run=run,
    shared={"backbone": "{item}.backbone", "network_needed": "{item}_needed"},
    axes=("item",),
    items=("classifier", "segmenter"),
    needed=lambda task: task.network_needed,
)
