"""The dataset formats: each is a settings class and a reader that gives the one manifest."""

from pathlib import Path

from rca.data.manifest import Manifest, check_manifest
from rca.data.voc import VocSettings, read_voc
from rca.errors import UserError

DatasetSettings = VocSettings


def read_dataset(root: Path, settings: DatasetSettings, workers: int = 1) -> Manifest:
    """Read and check a dataset.

    Raises:
        UserError: the root is missing or anything in it is not as it must be.
    """
    if not root.is_dir():
        raise UserError(f"The dataset's root {root} does not exist: link it with `rca preset`, or put it there.")
    manifest = read_voc(root, settings, workers)
    check_manifest(manifest, settings.splits)
    return manifest
