"""The sizes of published datasets. Scores on other image counts are not comparable with published ones."""

from collections.abc import Mapping

from rca.data.formats.coco import CocoSettings
from rca.data.formats.folder import FolderSettings
from rca.data.formats.voc import VocSettings

# Images of each split: VOC 2012's lists, with trainaug from SBD; COCO 2014's images that have an annotation.
VOC_2012 = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10_582, "test": 1456}
COCO_2014 = {"train": 82_081, "val": 40_137, "test": 40_775}


def get_published_counts(settings: VocSettings | CocoSettings | FolderSettings) -> Mapping[str, int]:
    """The number of images of each split, if the settings name a published dataset; else empty."""
    if isinstance(settings, VocSettings) and settings.classes == "voc":
        return VOC_2012
    if isinstance(settings, CocoSettings) and "2014" in settings.annotations:
        return COCO_2014
    return {}
