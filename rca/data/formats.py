"""The dataset formats: each is a settings class and a function that lists what a dataset holds."""

from pathlib import Path

from rca.data.listing import Listing
from rca.data.manifest import Manifest, check_manifest
from rca.data.reading import read_listing
from rca.data.voc import VocSettings, list_voc
from rca.errors import UserError

DatasetSettings = VocSettings


def list_dataset(root: Path, settings: DatasetSettings) -> Listing:
    """List a dataset, without opening an image.

    Raises:
        UserError: the root is missing, or its lists are missing or broken.
    """
    if not root.is_dir():
        raise UserError(f"The dataset's root {root} does not exist: link it with `rca preset`, or put it there.")
    return list_voc(root, settings)


def read_dataset(root: Path, settings: DatasetSettings, workers: int = 1) -> Manifest:
    """Read and check a dataset.

    Args:
        root: Where it lies.
        settings: Its format and parts.
        workers: How many processes decode; the result does not depend on it.

    Raises:
        UserError: the root is missing or anything in it is not as it must be.
    """
    manifest = read_listing(root, list_dataset(root, settings), workers)
    check_manifest(manifest, settings.splits)
    return manifest
