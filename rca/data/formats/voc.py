"""Datasets in the layout of PASCAL VOC 2012: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/*.txt`.

By default, an image's tags are the classes in its mask, as is usual in the field.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from rca.core.errors import UserError
from rca.core.plain_xml import read_xml
from rca.data.base import BaseDatasetSettings
from rca.data.faults import Fault
from rca.data.formats.colours import CLASS_LIST, Colour, choose_classes, find_mask
from rca.data.formats.files import MAPS, Index, check_folder, find_file, index_pictures, read_list, spell
from rca.data.formats.sbd import SbdMask, derive_trainaug
from rca.data.listing import Entry, Listing, name_drawn

# Everingham et al., The PASCAL Visual Object Classes Challenge 2012, development kit, in label order.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = Path("ImageSets/Segmentation")
TRAINAUG = "trainaug"


class VocSettings(BaseDatasetSettings):
    """The files of a dataset in VOC layout.

    Attributes:
        format: The layout.
        splits: The lists in `ImageSets/Segmentation` to read.
        masks: Folders of masks; the first one that has an image's mask is used. (VOC's masks precede SBD's: published
            scores on `train` use VOC's.)
        classes: "file" for the lines of `classes.txt`, "voc" for VOC's 20.
        tags: The source of an image's tags: "masks", or "annotations" for the objects in `Annotations/<id>.xml`; images
            then need no mask.
        unlabelled: Those of the lists whose images have no masks and no tags, such as VOC's test, to be segmented
            alone.
        difficult: Whether objects that the annotations mark as difficult count as tags.
        sbd: The folder of SBD (Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011) with `cls/*.mat`,
            `train.txt` and `val.txt`, relative to the root. Its masks are used where `masks` holds none, and its lists
            make up the list `trainaug` if that does not exist.
    """

    format: Literal["voc"]
    splits: tuple[str, ...] = Field(min_length=1)
    masks: tuple[str, ...] = Field(default=("SegmentationClass",), min_length=1)
    classes: Literal["file", "voc"] = "file"
    tags: Literal["masks", "annotations"] = "masks"
    unlabelled: tuple[str, ...] = ()
    difficult: bool = True
    sbd: str | None = None

    @model_validator(mode="after")
    def _unlabelled_lists_are_read(self) -> "VocSettings":
        for split in self.unlabelled:
            if split not in self.splits:
                raise ValueError(f"unlabelled names {split}: add it to splits as well")
        return self


def list_voc(root: Path, settings: VocSettings, drawn: Path) -> Listing:
    """List a dataset in VOC layout.

    Args:
        root: The folder of `JPEGImages`.
        settings: The lists, masks and classes to read.
        drawn: The folder for SBD's masks, once drawn.

    Raises:
        UserError: the folder of photographs, a list or the names of the classes are missing or broken.
    """
    if not (root / "JPEGImages").is_dir():
        raise UserError(f"{root} is not in VOC layout (it has no folder JPEGImages): link the dataset there.")
    choice = choose_classes(root, VOC_CLASSES if settings.classes == "voc" else None)
    if choice is None:
        raise UserError(f"{root / CLASS_LIST} does not exist: add it with the names of the classes, one a line.")
    for key, folder in (("dataset.sbd", settings.sbd), ("dataset.saliency", settings.saliency)):
        if folder is not None:
            check_folder(root, folder, key)
    lists = {split: root / LISTS / f"{split}.txt" for split in settings.splits}
    files = _Files(
        index_pictures(root / "JPEGImages"),
        {folder: index_pictures(root / folder) for folder in settings.masks},
        choice.colours,
    )
    names = {split: _read_split(root, settings, split, files.photographs) for split in settings.splits}
    splits = _invert(names)
    labelled = {name for name, its_splits in splits.items() if not set(its_splits) <= set(settings.unlabelled)}
    tags = {name: _read_tags(root, settings, name) if name in labelled else ((), None) for name in sorted(splits)}
    repeats = (fault for split in names for fault in _find_repeats(lists[split], names[split]))
    ambiguous = (
        Fault(
            "ambiguous name",
            str(root / "JPEGImages"),
            f"{root / 'JPEGImages'}: {name} may be {' or '.join(several)}",
            name,
        )
        for name in splits
        if len(several := files.photographs.get(name, ())) > 1
    )
    return Listing(
        choice.classes,
        tuple(
            _list_image(root, settings, drawn, name, splits[name], listed, files) for name, (listed, _) in tags.items()
        ),
        choice.notes,
        faults=(*choice.faults, *repeats, *ambiguous, *(fault for _, fault in tags.values() if fault)),
        lists=lists,
        class_list=choice.source if settings.classes == "file" else None,
    )


class _Files(NamedTuple):
    """What lies in the folders: photographs, masks by folder in the order of the settings, and the masks' colours."""

    photographs: Index
    masks: Mapping[str, Index]
    colours: Mapping[Colour, int] | None


def _list_image(
    root: Path,
    settings: VocSettings,
    drawn: Path,
    name: str,
    splits: tuple[str, ...],
    tags: tuple[str, ...] | None,
    files: _Files,
) -> Entry:
    stored = next((f"{folder}/{index[name][0]}" for folder, index in files.masks.items() if name in index), None)
    mask, draw = find_mask(root, drawn, name, stored, files.colours)
    drawing = root / spell(root, f"{settings.sbd}/cls/{name}.mat")
    if mask is None and settings.sbd is not None and drawing.is_file():
        mask, draw = name_drawn(drawn, name), SbdMask(drawing)
    if mask is None and tags is None:
        mask = f"{settings.masks[0]}/{name}.png"  # the check will report it missing
    return Entry(
        id=name,
        image=f"JPEGImages/{files.photographs[name][0]}" if name in files.photographs else f"JPEGImages/{name}.jpg",
        mask=mask,
        saliency=settings.saliency and find_file(root, (settings.saliency,), name, MAPS),
        tags=tags,
        splits=splits,
        draw=draw,
    )


def _read_split(root: Path, settings: VocSettings, split: str, photographs: Index) -> list[str]:
    """The images on a list, repeats included."""
    path = root / LISTS / f"{split}.txt"
    if split == TRAINAUG and settings.sbd is not None and not path.exists():
        train, val = (read_list(root / LISTS / f"{name}.txt") for name in ("train", "val"))
        return derive_trainaug(root / settings.sbd, train, val)
    return read_list(path, photographs.__contains__)


def _invert(names: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """The splits of each image, from the images of each split."""
    splits: dict[str, tuple[str, ...]] = {}
    for split, members in names.items():
        for name in dict.fromkeys(members):  # a repeated name is one image
            splits[name] = (*splits.get(name, ()), split)
    return splits


def _find_repeats(path: Path, names: Iterable[str]) -> Iterator[Fault]:
    for name, times in Counter(names).items():
        if times > 1:
            yield Fault("listed twice", str(path), f"{path} lists {name} {times} times", name)


def _read_tags(root: Path, settings: VocSettings, name: str) -> tuple[tuple[str, ...] | None, Fault | None]:
    """The tags in an image's annotation, None if they come from masks; and the annotation's fault, if any."""
    if settings.tags == "masks":
        return None, None
    path = root / spell(root, f"Annotations/{name}.xml")
    try:
        return read_objects(path, settings.difficult), None
    except UserError as error:
        return (), Fault.tell("broken annotation", path, error, name)


def read_objects(path: Path, difficult: bool = True) -> tuple[str, ...]:
    """The classes of the objects in a VOC annotation.

    Args:
        path: The XML file.
        difficult: Whether objects marked as difficult count.

    Raises:
        UserError: the file is missing or broken, or an object has no name.
    """
    try:
        objects = [element for element in read_xml(path) if element.tag == "object"]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: restore it, or set dataset.tags to masks.") from None
    counted = [element for element in objects if difficult or element.findtext("difficult") != "1"]
    names = [element.findtext("name", "").strip() for element in counted]
    if not all(names):
        raise UserError(f"{path} has an object without a name: correct it, or set dataset.tags to masks.")
    return tuple(sorted(set(names)))
