"""What a report tells of how its results were made: time and memory of the stages, when and where they ran, the commit.

None of it is on the page itself, which is the same for the same results. It lies beside it, in `measurements.js`.
"""

from collections.abc import Iterable, Sequence
from typing import NotRequired, TypedDict

from rca.core.commit import Commit


class Measurement(TypedDict):
    """What one instance of a stage took.

    Attributes:
        stage: The stage.
        run: The run; None for a stage that all runs share.
        seconds: Its time on the clock.
        memory_mb: The peak of its memory.
        gpu_memory_mb: The peak on the GPU; None if it used none.
        ended: When it ended, in ISO 8601 and UTC.
        host: The machine's name.
        device: The name of its GPU, or of its processor if it used none.
    """

    stage: str
    run: str | None
    seconds: float
    memory_mb: float
    gpu_memory_mb: float | None
    ended: NotRequired[str]  # logs of earlier versions lack it and the next two
    host: NotRequired[str]
    device: NotRequired[str]


class Cost(TypedDict):
    """The time of a stage's instances, in all and of the longest, and their highest memory peaks."""

    instances: int
    seconds: float
    longest: float
    memory_mb: float
    gpu_memory_mb: float | None


class Making(TypedDict):
    """How results were made.

    Attributes:
        by_stage: The cost of each stage over all its instances.
        by_run: The seconds of each stage by run, with "" for what all runs share.
        ended: When the first and the last instance ended; empty if unknown.
        hosts: The machines.
        devices: The GPUs and processors.
        commit: The commit at the time of the report; None outside of git.
    """

    by_stage: dict[str, Cost]
    by_run: dict[str, dict[str, float]]
    ended: list[str]
    hosts: list[str]
    devices: list[str]
    commit: Commit | None


def summarise_measurements(measurements: Sequence[Measurement], commit: Commit | None) -> Making:
    """Sum up what the instances of stages took."""
    runs: dict[str, dict[str, float]] = {}
    for instance in measurements:
        costs = runs.setdefault(instance["run"] or "", {})
        costs[instance["stage"]] = round(costs.get(instance["stage"], 0) + instance["seconds"], 2)
    ended = sorted({instance["ended"] for instance in measurements if "ended" in instance})
    return {
        "by_stage": _sum_stages(measurements),
        "by_run": runs,
        "ended": [ended[0], ended[-1]] if ended else [],
        "hosts": sorted({instance["host"] for instance in measurements if "host" in instance}),
        "devices": sorted({instance["device"] for instance in measurements if "device" in instance}),
        "commit": commit,
    }


def _sum_stages(measurements: Iterable[Measurement]) -> dict[str, Cost]:
    """The cost of each stage over all its instances."""
    costs: dict[str, Cost] = {}
    for instance in measurements:
        cost = costs.setdefault(
            instance["stage"], {"instances": 0, "seconds": 0, "longest": 0, "memory_mb": 0, "gpu_memory_mb": None}
        )
        cost["instances"] += 1
        cost["seconds"] = round(cost["seconds"] + instance["seconds"], 2)
        cost["longest"] = max(cost["longest"], instance["seconds"])
        cost["memory_mb"] = max(cost["memory_mb"], instance["memory_mb"])
        if instance["gpu_memory_mb"] is not None:
            cost["gpu_memory_mb"] = max(cost["gpu_memory_mb"] or 0, instance["gpu_memory_mb"])
    return costs
