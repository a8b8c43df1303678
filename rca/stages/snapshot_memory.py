"""Save the memory of a trained network: bank, prototypes, and the region that each entry came from.

For a method whose memory is no part of the training, fill it first, from the training images.
"""

from rca.classifier.filling import fill_memory
from rca.classifier.network import load_network, prepare_inference
from rca.classifier.snapshots import save_snapshot
from rca.classifier.views import InferenceSettings
from rca.core.devices import choose_device, set_determinism
from rca.core.files import hash_file
from rca.core.settings import Settings, Supervision
from rca.data.loading.features import FeatureCache
from rca.data.manifest import read_manifest
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class SnapshotMemoryTask(Settings):
    """All settings of the stage.

    Attributes:
        split: The training images of the run's network.
        supervision: What the run's networks learn from.
        keeps_memory: Whether the run's method keeps a memory.
        inference: The views that score maps are made from: a memory that is filled here is filled from the same views.
        frozen: Whether the backbone is frozen, so that its features are cached.
        threads: CPU threads; results differ in the last digits between numbers of threads.
    """

    split: str
    supervision: Supervision
    keeps_memory: bool
    inference: InferenceSettings
    frozen: bool
    threads: int


def run(context: Context, task: SnapshotMemoryTask) -> None:
    """Write the snapshot."""
    paths = context.paths
    set_determinism(task.threads)
    # Entries refer to images by their position among the training images.
    manifest = read_manifest(context.layout.manifest, f"splits/{task.split}")
    network = load_network(paths.network, {})
    if network.method.passes:
        cache = FeatureCache(context.layout.training_features) if task.frozen else None
        prepare_inference(network)
        fill_memory(network.to(choose_device()), manifest, task.inference, paths.seed, cache)
        network.cpu()
    epochs, checksum = network.description.epochs, hash_file(paths.network)
    save_snapshot(paths.memory, network, manifest, paths.run, paths.seed, epochs, checksum)
    print(", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in network.method.memory_state().items()))


STAGE = Stage(
    task=SnapshotMemoryTask,
    run=run,
    shared={
        **{name: f"run.{name}" for name in ("supervision", "keeps_memory")},
        **{name: f"train_cam.{name}" for name in ("split", "frozen")},
        **{name: f"make_cam.{name}" for name in ("inference", "threads")},
    },
    axes=("run", "seed"),
    needed=lambda task: task.supervision == "tags" and task.keeps_memory,
    cores="threads",
    resources="make_cam",
)
