"""Take the memory out of a trained network: bank, prototypes, fill, and the image that each entry came from."""

from rca.artifacts import hash_file
from rca.data.manifest import read_manifest
from rca.models.cam_network import load_network
from rca.models.storage import save_tensors
from rca.stages.context import Context


def run(context: Context) -> None:
    """Write the snapshot.

    The tensors are those of `Method.memory_state`; the description names the classes, the ids of the images (entry i of
    `memory.image` is a position in that list), the run, the seed and the network's checksum.
    """
    paths = context.paths
    manifest = read_manifest(context.layout.manifest)
    network = load_network(paths.network, {})
    about = {
        "method": network.description.method,
        "classes": list(network.description.classes),
        "images": [record.id for record in manifest.images],
        "run": paths.run,
        "seed": paths.seed,
        "network_sha256": hash_file(paths.network),
    }
    state = network.method.memory_state()
    save_tensors(paths.memory, state, about)
    print(", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()))
