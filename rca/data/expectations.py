"""What one expects of a dataset, and where it falls short: nothing stops a run, but it explains many a figure."""

from collections.abc import Iterator

from rca.data.coco import CocoSettings
from rca.data.formats import DatasetSettings
from rca.data.manifest import Manifest
from rca.data.voc import VocSettings

# Images of each split: VOC 2012's own lists and trainaug as SBD gives it; COCO 2014's images that have an annotation.
VOC_2012 = {"train": 1464, "val": 1449, "trainaug": 10_582}
COCO_2014 = {"train": 82_081, "val": 40_137}


def find_shortfalls(manifest: Manifest, settings: DatasetSettings) -> list[str]:
    """Sentences on splits that differ from the published ones, and on classes that a split lacks."""
    return [*_compare_counts(manifest, settings), *_find_absent_classes(manifest, settings)]


def _compare_counts(manifest: Manifest, settings: DatasetSettings) -> Iterator[str]:
    published: dict[str, int] = {}
    if isinstance(settings, VocSettings) and settings.classes == "voc":
        published = VOC_2012
    elif isinstance(settings, CocoSettings) and "2014" in settings.annotations:
        published = COCO_2014
    for split in settings.splits:
        count = len(manifest.select(split))
        if count != published.get(split, count):
            yield f"{split} has {count} images, the published one {published[split]}: figures on it compare with none."


def _find_absent_classes(manifest: Manifest, settings: DatasetSettings) -> Iterator[str]:
    for split in settings.splits:
        seen = {tag for record in manifest.select(split) for tag in record.tags}
        absent = [name for number, name in enumerate(manifest.classes) if number not in seen]
        if absent:
            yield f"{split} has no image of {len(absent)} of {len(manifest.classes)} classes: {', '.join(absent)}."
