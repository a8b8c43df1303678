"""Save the memory of a trained network: bank, prototypes, and the region that each entry came from."""

from rca.classifier.network import load_network
from rca.classifier.snapshots import save_snapshot
from rca.core.files import hash_file
from rca.core.settings import Settings, Supervision
from rca.data.manifest import read_manifest
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class SnapshotMemoryTask(Settings):
    """All settings of the stage.

    Attributes:
        split: The training images of the run's network.
        supervision: What the run's networks learn from.
        keeps_memory: Whether the run's method keeps a memory.
    """

    split: str
    supervision: Supervision
    keeps_memory: bool


def run(context: Context, task: SnapshotMemoryTask) -> None:
    """Write the snapshot."""
    paths = context.paths
    # Entries refer to images by their position among the training images.
    manifest = read_manifest(context.layout.manifest, f"splits/{task.split}")
    network = load_network(paths.network, {})
    epochs, checksum = network.description.epochs, hash_file(paths.network)
    save_snapshot(paths.memory, network, manifest, paths.run, paths.seed, epochs, checksum)
    print(", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in network.method.memory_state().items()))


STAGE = Stage(
    task=SnapshotMemoryTask,
    run=run,
    shared={"split": "train_cam.split", "supervision": "run.supervision", "keeps_memory": "run.keeps_memory"},
    axes=("run", "seed"),
    needed=lambda task: task.supervision == "tags" and task.keeps_memory,
)
