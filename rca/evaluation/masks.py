"""All masks of a run, read from files or made from its score maps."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rca.core.arrays import UInt8Array
from rca.core.files import read_mask
from rca.data.manifest import ImageRecord
from rca.data.partition import assign_shard
from rca.evaluation.protocol import SEGMENTED, TAGS
from rca.labels.background import label_pixels
from rca.labels.score_maps import Shard, Tags, enlarge
from rca.labels.thresholds import CHOICES, name_folder


class Key(NamedTuple):
    """The masks that a figure describes.

    Attributes:
        kind: One of `TAGS`.
        split: The split of the images.
        choice: The threshold of the masks; "" for those of a segmentation network, which have none.
    """

    kind: str
    split: str
    choice: str


class Masks:
    """All masks of a run, by kind and threshold.

    Args:
        folders: The folders of "pseudo", "refined" and "relabelled", with a folder for each shard, and of
            "segmentation", with one for each split.
        thresholds: The thresholds, by choice.
        shards: The open score maps; none for a run that does not learn from tags itself.
        parts: The number of shards.
    """

    def __init__(
        self, folders: Mapping[str, Path], thresholds: Mapping[str, float], shards: Sequence[Shard], parts: int
    ) -> None:
        self.folders, self.thresholds, self.shards, self.parts = folders, thresholds, shards, parts

    def find_shard(self, record: ImageRecord) -> Shard:
        """The shard that holds an image's score maps."""
        return self.shards[assign_shard(record.id, len(self.shards))]

    def has(self, kind: str, record: ImageRecord, split: str) -> bool:
        """Whether an image has masks of a kind."""
        if kind not in SEGMENTED and not self.shards:
            return False
        if kind == "seed":
            return self.find_shard(record).has(record.id)
        if kind == "seed_predicted_tags":
            return self.find_shard(record).has_predicted(record.id)
        return self._find(kind, record, split, CHOICES[0]).is_file()

    def read(self, kind: str, record: ImageRecord, splits: Sequence[str]) -> Iterator[tuple[list[Key], UInt8Array]]:
        """Yield an image's masks of a kind, each with the keys that it counts for.

        Args:
            kind: One of `TAGS`.
            record: The image.
            splits: The image's splits that are scored.
        """
        if kind in SEGMENTED:  # each split has a segmentation of its own
            for split in splits:
                yield [Key(kind, split, "")], read_mask(self._find(kind, record, split, ""))
            return
        if kind in ("seed", "seed_predicted_tags"):
            masks = self._read_seeds(record, "given" if kind == "seed" else "predicted")
        else:
            masks = ((choice, read_mask(self._find(kind, record, "", choice))) for choice in CHOICES)
        for choice, mask in masks:
            yield [Key(kind, split, choice) for split in splits], mask

    def _read_seeds(self, record: ImageRecord, tags: Tags) -> Iterator[tuple[str, UInt8Array]]:
        """The seeds of an image's score maps, at each threshold."""
        maps = self.find_shard(record).read(record.id, tags)
        scores = enlarge(maps.scores, record.height, record.width)
        for choice in CHOICES:
            yield choice, label_pixels(scores, maps.labels, self.thresholds[choice])

    def _find(self, kind: str, record: ImageRecord, split: str, choice: str) -> Path:
        if kind == "segmentation":
            return self.folders[kind] / split / f"{record.id}.png"
        folder = self.folders[kind.removesuffix("_predicted_tags")] / str(assign_shard(record.id, self.parts))
        if kind == "relabelled":
            return folder / f"{record.id}.png"
        return folder / name_folder(choice, TAGS[kind]) / f"{record.id}.png"
