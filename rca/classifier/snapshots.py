"""Snapshots of a memory: bank, prototypes and the source of every entry, in one safetensors file.

The tensors are those of `Method.memory_state`. The description holds the rows of the bank, the images (an entry's
`memory.image` is an index into that list), the run, the seed, the number of epochs that the memory has seen, and the
checksum of its network.
"""

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from rca.classifier.network import CamNetwork
from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import Settings
from rca.data.manifest import Manifest
from rca.models.storage import load_tensors, save_tensors


class StartSettings(Settings):
    """The network and the memory that a training starts from.

    Attributes:
        network: A trained network whose weights are loaded; null keeps the initial weights, with which a memory is of
            use only if the features never change (a frozen backbone without a neck).
        network_sha256: The checksum of the network's file.
        memory: A snapshot of a memory; null starts with an empty memory.
        memory_sha256: The checksum of the snapshot.
    """

    network: Path | None = Field(default=None, strict=False)
    network_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    memory: Path | None = Field(default=None, strict=False)
    memory_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


def save_snapshot(
    path: Path, network: CamNetwork, manifest: Manifest, run: str, seed: int, epochs: int, checksum: str | None
) -> None:
    """Write the memory of a network, whole or not at all.

    Args:
        path: The file.
        network: A network whose method keeps a memory.
        manifest: The dataset that the network was trained on.
        run: The network's run.
        seed: The run's seed.
        epochs: Number of epochs of the training so far.
        checksum: The checksum of the network's file; None if there is no file yet.
    """
    about = {
        "method": network.description.method,
        "classes": list(network.method.name_rows(network.description.classes)),
        "images": [record.id for record in manifest.images],
        "run": run,
        "seed": seed,
        "epochs": epochs,
        "network_sha256": checksum,
    }
    save_tensors(path, network.method.memory_state(), about)


def start_from(network: CamNetwork, manifest: Manifest, settings: StartSettings) -> None:
    """Load the weights and the memory that a training starts from.

    Args:
        network: A new network, changed in place.
        manifest: The dataset to train on; entries of images that it lacks lose their image.
        settings: The files to load.

    Raises:
        UserError: a file is missing, broken, has another checksum, or does not fit the network.
    """
    if settings.network is not None:
        _check(settings.network, settings.network_sha256, "network")
        tensors, _ = load_tensors(settings.network, "train_cam")
        weights = {name: tensors[name] for name in tensors if name not in _memory_names(network)}
        _fit(network, weights, settings.network)
    if settings.memory is not None:
        _check(settings.memory, settings.memory_sha256, "memory")
        tensors, about = load_tensors(settings.memory, "snapshot_memory")
        rows = list(network.method.name_rows(network.description.classes))
        if "memory.image" not in tensors or about.get("classes") != rows:
            raise UserError(
                f"{settings.memory} is no snapshot of a memory with the rows {', '.join(rows)}: name one in"
                " train_cam.start.memory."
            )
        indices = [manifest.index.get(image, -1) for image in about["images"]]
        known = tensors["memory.image"] >= 0
        positions = torch.tensor(indices)[tensors["memory.image"].clamp(min=0)]
        tensors["memory.image"] = positions.where(known, -1)
        _fit(network, {f"method.{name}": tensor for name, tensor in tensors.items()}, settings.memory)


def _memory_names(network: CamNetwork) -> set[str]:
    return {f"method.{name}" for name in network.method.memory_state()}


def _check(path: Path, expected: str | None, kind: str) -> None:
    if not path.is_file():
        raise UserError(f"The file {path} does not exist: set train_cam.start.{kind}.")
    checksum = hash_file(path)
    if checksum != expected:
        raise UserError(f"{path} has the checksum {checksum}: set train_cam.start.{kind}_sha256 to it.")


def _fit(network: CamNetwork, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the network's state of the same names."""
    state = network.state_dict()
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape:
            raise UserError(
                f"{path} does not fit the network: its {name} is {tuple(tensor.shape)}. Name another file in"
                " train_cam.start."
            )
    network.load_state_dict(tensors, strict=False)
