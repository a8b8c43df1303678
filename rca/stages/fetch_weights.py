"""Fetch a backbone's initial weights once, for all runs and seeds."""

from rca.models.weights import BackboneSettings, describe, fetch_weights
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write the weights of the role that the instance names: train_cam or train_seg."""
    settings = context.settings(BackboneSettings, f"{context.item}.backbone")
    fetch_weights(settings, context.layout.weights(str(context.item)))
    print(f"{context.item}: {describe(settings)}")
