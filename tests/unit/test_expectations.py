from dataclasses import replace

import pytest

from rca.data.coco import CocoSettings
from rca.data.expectations import COCO_2014, VOC_2012, find_shortfalls
from rca.data.folder import FolderSettings
from rca.data.manifest import ImageRecord, Manifest
from rca.data.voc import VocSettings

VOC = VocSettings(name="voc2012", format="voc", splits=("train", "val"), classes="voc")
COCO = CocoSettings(name="coco", format="coco")


def build(manifest: Manifest, counts: dict[str, int]) -> Manifest:
    """A manifest of splits of the given sizes, every image with every class."""
    one = replace(manifest.images[0], tags=(0, 1, 2))

    def make(split: str, number: int) -> ImageRecord:
        return replace(one, id=f"{split}{number}", splits=(split,))

    images = tuple(make(split, number) for split, count in counts.items() for number in range(count))
    return replace(manifest, images=images)


def test_the_published_datasets_are_as_expected(manifest: Manifest) -> None:
    both = {split: VOC_2012[split] for split in VOC.splits}
    assert find_shortfalls(build(manifest, both), VOC) == []
    assert find_shortfalls(build(manifest, VOC_2012), VOC.model_copy(update={"splits": tuple(VOC_2012)})) == []
    assert find_shortfalls(build(manifest, COCO_2014), COCO) == []


def test_another_number_of_images_is_told(manifest: Manifest) -> None:
    found = find_shortfalls(build(manifest, {"train": 1463, "val": 1449}), VOC)
    assert found == ["train has 1463 images, the published one 1464: figures on it compare with none."]
    assert len(find_shortfalls(build(manifest, {"train": 3, "val": 3}), COCO)) == 2


@pytest.mark.parametrize(
    "settings",
    [
        FolderSettings(name="mine", format="folder"),
        VOC.model_copy(update={"classes": "file"}),
        COCO.model_copy(update={"annotations": "annotations/instances_{split}2017.json"}),
    ],
)
def test_datasets_that_nobody_published_have_any_number(manifest: Manifest, settings: object) -> None:
    assert find_shortfalls(build(manifest, {"train": 3, "val": 2}), settings) == []


def test_classes_that_a_split_lacks_are_told(manifest: Manifest) -> None:
    settings = FolderSettings(name="mine", format="folder")
    assert find_shortfalls(manifest, settings) == [
        "train has no image of 1 of 3 classes: dog.",
        "val has no image of 2 of 3 classes: cat, cow.",
    ]
