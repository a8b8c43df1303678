"""The manifest in parts, so that a stage depends only on the images that it reads.

Beside `manifest.csv` there are, with the same columns:

* `splits/<split>.csv`: the images of a split as training sees them, without true masks and other splits;
* `truth/<split>.csv`: the same with true masks, for the stages that read them;
* `shards/<k>.csv`: the images of a shard that belong to a split, without true masks;
* `sources.csv`: the images of extra sources, which belong to no split.

`saliency/<k>.json` holds the checksums of a shard's saliency maps. The tables leave them out, since few stages read
these maps.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rca.core.errors import UserError
from rca.core.files import write_json
from rca.data.manifest import MAIN, ImageRecord, Manifest, read_manifest, write_table


def assign_shard(image_id: str, shards: int) -> int:
    """The shard of an image, 0..shards-1, from a hash that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") % shards


def count_shards(folder: Path) -> int:
    """Count the shards in a folder that has a file or folder for each, named by its number; at least 1.

    Training uses this count and not the parameter, so that a change of the parameter does not retrain.
    """
    return max(1, sum(path.stem.isdigit() for path in folder.glob("*")))


def group_by_shard(records: Iterable[ImageRecord], shards: int) -> dict[int, list[ImageRecord]]:
    """The images of each shard, in order; a shard may be empty."""
    members: dict[int, list[ImageRecord]] = {shard: [] for shard in range(shards)}
    for record in records:
        members[assign_shard(record.id, shards)].append(record)
    return members


def write_parts(directory: Path, manifest: Manifest, shards: Sequence[int]) -> None:
    """Write the parts of a manifest.

    Args:
        directory: The manifest's directory.
        manifest: All images.
        shards: The shards' numbers, from 0.
    """
    splits = sorted({split for record in manifest.images for split in record.splits})
    for split in splits:
        records = [replace(record, splits=(split,)) for record in manifest.select(split)]
        write_table(directory / f"truth/{split}.csv", manifest.classes, records)
        write_table(directory / f"splits/{split}.csv", manifest.classes, map(hide_maps, records))
    of_splits = (record for record in manifest.images if record.splits)
    for shard, members in group_by_shard(of_splits, len(shards)).items():
        write_table(directory / f"shards/{shard}.csv", manifest.classes, map(hide_maps, members))
        write_json(directory / f"saliency/{shard}.json", {record.id: record.saliency_sha256 for record in members})
    extra = [hide_maps(record) for record in manifest.images if record.source != MAIN]
    write_table(directory / "sources.csv", manifest.classes, extra)


def hide_maps(record: ImageRecord) -> ImageRecord:
    """A record without its true mask and saliency checksum, so that an edit of these reruns no training or scoring."""
    return replace(record, mask=None, mask_sha256="", saliency_sha256="")


def list_saliency(directory: Path, split: str, sources: Iterable[str] = ()) -> dict[str, str]:
    """The checksums of the saliency maps of the images that a training sees, by the image's id; "" without a map.

    Args:
        directory: Where the manifest lies.
        split: Its images.
        sources: Extra sources that are trained on as well.
    """
    images, wanted = read_manifest(directory).images, set(sources)
    return {one.id: one.saliency_sha256 for one in images if split in one.splits or one.source in wanted}


def read_training(directory: Path, split: str, sources: Iterable[str] = ()) -> Manifest:
    """The images that training on tags uses.

    Args:
        directory: The manifest's directory.
        split: The split to train on.
        sources: Extra sources to train on, as if their images belonged to the split.

    Raises:
        UserError: the dataset has no such source, or a part of the manifest is missing or corrupt.
    """
    manifest = read_manifest(directory, f"splits/{split}")
    extra = read_manifest(directory, "sources").select_sources(tuple(sources))
    return replace(manifest, images=(*manifest.images, *(replace(record, splits=(split,)) for record in extra)))


def check_splits(directory: Path, splits: Iterable[str]) -> None:
    """Check that splits exist.

    Args:
        directory: The manifest's directory.
        splits: Their names.

    Raises:
        UserError: the dataset has no split of one of these names.
    """
    known = sorted(path.stem for path in (directory / "splits").glob("*.csv"))
    for split in splits:
        if split not in known:
            raise UserError(f"No image belongs to the split {split}: the dataset's splits are {', '.join(known)}.")


def select_from_shard(shard: Manifest, splits: Iterable[str]) -> tuple[ImageRecord, ...]:
    """The images of a shard that belong to at least one of the splits; there may be none."""
    wanted = set(splits)
    return tuple(record for record in shard.images if wanted.intersection(record.splits))
