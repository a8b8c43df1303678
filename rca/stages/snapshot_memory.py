"""Take the memory out of a trained network: bank, prototypes, and the region that each entry came from."""

from rca.classifier.network import load_network
from rca.classifier.snapshots import save_snapshot
from rca.core.files import hash_file
from rca.data.manifest import read_manifest
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write the snapshot."""
    paths = context.paths
    # Entries name images by their position among those that were trained on.
    manifest = read_manifest(context.layout.manifest, f"splits/{context.read('train_cam.split')}")
    network = load_network(paths.network, {})
    epochs, checksum = network.description.epochs, hash_file(paths.network)
    save_snapshot(paths.memory, network, manifest, paths.run, paths.seed, epochs, checksum)
    print(", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in network.method.memory_state().items()))
