"""The masks that a segmentation network is trained on, if a run makes them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rca.core.errors import UserError
from rca.core.files import hash_file
from rca.core.settings import Settings
from rca.data.partition import assign_shard


class CorrectedMasks(Settings):
    """Masks that were corrected by hand, as `rca import masks` names them.

    Attributes:
        folder: Their folder, with `<image id>.png` for each.
        sha256: The checksum of all of them.
    """

    folder: str
    sha256: str

    def find(self) -> Mapping[str, Path]:
        """The corrected masks, by the image's id.

        Raises:
            UserError: they are not those of the checksum.
        """
        if hash_corrected(Path(self.folder)) != self.sha256:
            raise UserError(
                f"The corrected masks in {self.folder} are not those of train_seg.corrected.sha256: bring them in "
                "again with `rca import masks`, or restore them."
            )
        return list_corrected(Path(self.folder))


class TrainingMaskSettings(Settings):
    """The images and masks that a segmentation network is trained on.

    Attributes:
        split: The images to train on.
        masks: The kind of masks: pseudo labels, refined masks, or "relabelled": made by the segmentation network of the
            run in `masks_from` for the tags of the images.
        threshold: The threshold of the masks; relabelled ones have none.
        corrected: Masks that take the place of those of their images; null for none. `rca import masks` sets it.
    """

    split: str = "train"
    masks: Literal["refined", "pseudo", "relabelled"] = "refined"
    threshold: Literal["best", "fixed"] = "best"
    corrected: CorrectedMasks | None = None

    def find(self, folder: Path, image_id: str, shards: int) -> Path:
        """The path of an image's mask in a folder of masks, which has a folder per shard."""
        shard = folder / str(assign_shard(image_id, shards))
        return (shard if self.masks == "relabelled" else shard / self.threshold) / f"{image_id}.png"


def list_corrected(folder: Path) -> Mapping[str, Path]:
    """The corrected masks in a folder, by the image's id."""
    return {file.stem: file for file in sorted(folder.glob("*.png"))}


def hash_corrected(folder: Path) -> str:
    """The checksum of all corrected masks in a folder, in hexadecimal."""
    lines = (f"{image_id} {hash_file(file)}\n" for image_id, file in list_corrected(folder).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()
