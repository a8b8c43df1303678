"""Which masks a segmentation network is trained on, where they are a run's own."""

from pathlib import Path
from typing import Literal

from rca.core.settings import Settings
from rca.data.partition import assign_shard


class TrainingMaskSettings(Settings):
    """Which images a segmentation network is trained on, and which of their masks.

    Attributes:
        split: The images to train on.
        masks: Which of their masks.
        threshold: Which threshold those masks were made with.
    """

    split: str = "train"
    masks: Literal["refined", "pseudo"] = "refined"
    threshold: Literal["best", "fixed"] = "best"

    def find(self, folder: Path, image_id: str, shards: int) -> Path:
        """Where an image's mask lies in the folder of such masks, which has a folder for each shard."""
        return folder / str(assign_shard(image_id, shards)) / self.threshold / f"{image_id}.png"
