"""The masks that a segmentation network is trained on, if a run makes them."""

from pathlib import Path
from typing import Literal

from rca.core.settings import Settings
from rca.data.partition import assign_shard


class TrainingMaskSettings(Settings):
    """The images and masks that a segmentation network is trained on.

    Attributes:
        split: The images to train on.
        masks: The kind of masks.
        threshold: The threshold of the masks.
    """

    split: str = "train"
    masks: Literal["refined", "pseudo"] = "refined"
    threshold: Literal["best", "fixed"] = "best"

    def find(self, folder: Path, image_id: str, shards: int) -> Path:
        """The path of an image's mask in a folder of masks, which has a folder per shard."""
        return folder / str(assign_shard(image_id, shards)) / self.threshold / f"{image_id}.png"
