"""Datasets in the layout of PASCAL VOC 2012: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/*.txt`.

Tags are by default the classes present in the masks, as the field derives them (methods that say otherwise name their
source).
"""

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from pydantic import Field

from rca.data.base import BaseDatasetSettings
from rca.data.files import MAPS, PHOTOGRAPHS, check_folder, find_file, read_lines
from rca.data.listing import Entry, Listing, name_drawn
from rca.data.sbd import SbdMask, derive_trainaug
from rca.errors import UserError

# Everingham et al., The PASCAL Visual Object Classes Challenge 2012, development kit, in label order.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = Path("ImageSets/Segmentation")
TRAINAUG = "trainaug"


class VocSettings(BaseDatasetSettings):
    """Where a dataset in VOC layout keeps its parts.

    Attributes:
        format: The layout.
        splits: The lists in `ImageSets/Segmentation` to read.
        masks: Folders of masks, in the order in which they are looked in. (VOC's own masks go before SBD's: scores
            on `train` are published on VOC's own.)
        classes: "file" for the lines of `classes.txt`, "voc" for VOC's 20.
        tags: Where an image's tags come from: "masks", or the objects in `Annotations/<id>.xml` ("annotations"); images
            may then lack a mask.
        difficult: Whether objects that the annotations call difficult count as tags.
        sbd: The folder of SBD (Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011) with `cls/*.mat`,
            `train.txt` and `val.txt`, relative to the root: its masks serve where `masks` holds none, and give the list
            `trainaug` where there is none.
    """

    format: Literal["voc"]
    splits: tuple[str, ...] = Field(min_length=1)
    masks: tuple[str, ...] = Field(default=("SegmentationClass",), min_length=1)
    classes: Literal["file", "voc"] = "file"
    tags: Literal["masks", "annotations"] = "masks"
    difficult: bool = True
    sbd: str | None = None


def list_voc(root: Path, settings: VocSettings, drawn: Path) -> Listing:
    """List a dataset in VOC layout.

    Args:
        root: The folder that holds `JPEGImages`.
        settings: Which lists, masks and classes to read.
        drawn: Where the masks of SBD will lie.

    Raises:
        UserError: the folder of photographs, a list, an annotation or the names of the classes are missing or broken.
    """
    if not (root / "JPEGImages").is_dir():
        raise UserError(f"{root} is no dataset in VOC layout (it has no folder JPEGImages): link the dataset there.")
    classes = VOC_CLASSES if settings.classes == "voc" else tuple(read_lines(root / "classes.txt"))
    for key, folder in (("dataset.sbd", settings.sbd), ("dataset.saliency", settings.saliency)):
        if folder is not None:
            check_folder(root, folder, key)
    splits = _read_splits(root, settings)
    return Listing(classes, tuple(_list_image(root, settings, drawn, name, splits[name]) for name in sorted(splits)))


def _list_image(root: Path, settings: VocSettings, drawn: Path, name: str, splits: tuple[str, ...]) -> Entry:
    tags = None
    if settings.tags == "annotations":
        tags = read_objects(root / "Annotations" / f"{name}.xml", settings.difficult)
    mask, draw = find_file(root, settings.masks, name, MAPS), None
    if mask is None and settings.sbd is not None and (drawing := root / settings.sbd / f"cls/{name}.mat").is_file():
        mask, draw = name_drawn(drawn, name), SbdMask(drawing)
    if mask is None and tags is None:
        mask = f"{settings.masks[0]}/{name}.png"  # will be found missing
    return Entry(
        id=name,
        image=find_file(root, ("JPEGImages",), name, PHOTOGRAPHS) or f"JPEGImages/{name}.jpg",
        mask=mask,
        saliency=settings.saliency and find_file(root, (settings.saliency,), name, MAPS),
        tags=tags,
        splits=splits,
        draw=draw,
    )


def _read_splits(root: Path, settings: VocSettings) -> dict[str, tuple[str, ...]]:
    """The splits of each image on the lists."""
    splits: dict[str, tuple[str, ...]] = {}
    for split in settings.splits:
        path = root / LISTS / f"{split}.txt"
        if split == TRAINAUG and settings.sbd is not None and not path.exists():
            own, held_out = (read_lines(root / LISTS / f"{one}.txt") for one in ("train", "val"))
            names = derive_trainaug(root / settings.sbd, own, held_out)
        else:
            names = read_lines(path)
        if not names:
            raise UserError(f"{path} is empty: list at least one image, or take {split} out of dataset.splits.")
        for name in dict.fromkeys(names):  # a name that is listed twice is one image
            splits[name] = (*splits.get(name, ()), split)
    return splits


def read_objects(path: Path, difficult: bool = True) -> tuple[str, ...]:
    """The classes of the objects in an annotation of VOC.

    Args:
        path: The XML file.
        difficult: Whether objects that it calls difficult count.

    Raises:
        UserError: the file is missing or broken, or an object has no name.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: restore it, or set dataset.tags to masks.") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid XML ({error}): replace it, or set dataset.tags to masks.") from None
    names = [one.findtext("name", "").strip() for one in objects if difficult or one.findtext("difficult") != "1"]
    if not all(names):
        raise UserError(f"{path} has an object without a name: mend it, or set dataset.tags to masks.")
    return tuple(sorted(set(names)))
