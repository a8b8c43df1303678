"""The masks to export, with their photographs and the names of their labels."""

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, read_json, read_mask
from rca.core.images import SUFFIXES
from rca.core.reading import read_text
from rca.data.formats.files import read_classes
from rca.data.manifest import Manifest
from rca.prediction.folder import SUMMARY
from rca.prediction.inputs import measure_upright, open_image


@dataclass(frozen=True)
class LabelledImage:
    """A photograph with its mask.

    Attributes:
        name: A unique name, with the folders that it lies in, e.g. `street/0001`.
        photograph: The photograph's file.
        mask: The mask's file.
    """

    name: str
    photograph: Path
    mask: Path


@dataclass(frozen=True)
class MaskSet:
    """Masks with all that an export needs.

    Attributes:
        classes: Label n is `classes[n - 1]`, 0 the background.
        images: The photographs, ordered by name.
        upright: Whether masks follow the EXIF orientation of their photographs, as those of `rca predict` do, or the
            stored pixels, as those of the pipeline do.
    """

    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    upright: bool = False

    def read(self, image: LabelledImage) -> UInt8Array:
        """Read a mask and check it against its photograph.

        Returns:
            (H, W), uint8: 0 background, 1..C classes, 255 ignore.

        Raises:
            UserError: a file is missing or broken, the sizes differ, or the mask holds an unknown label.
        """
        mask = read_mask(image.mask)
        with open_image(image.photograph, decode=self.upright) as photograph:
            width, height = measure_upright(photograph) if self.upright else photograph.size
        if mask.shape != (height, width):
            raise UserError(
                f"The mask {image.mask} is {mask.shape[1]}x{mask.shape[0]}, its photograph {image.photograph} "
                f"{width}x{height}: name the folder of the photographs that it was made from."
            )
        labels = np.unique(mask)
        unknown = labels[(labels > len(self.classes)) & (labels != IGNORE)]
        if len(unknown):
            raise UserError(
                f"The mask {image.mask} holds the label {unknown[0]}, but there are {len(self.classes)} classes: "
                "name the file of the classes with --classes."
            )
        return mask


def read_predictions(folder: Path) -> MaskSet:
    """The masks that `rca predict` wrote.

    Args:
        folder: The folder of its results.

    Raises:
        UserError: its summary is missing or broken, or holds no image.
    """
    summary = read_json(folder / SUMMARY)
    try:
        classes = tuple(summary["model"]["classes"])
        images = [
            LabelledImage(
                Path(image["mask"]).relative_to("masks").with_suffix("").as_posix(),
                folder / image["image"],
                folder / image["mask"],
            )
            for image in summary["images"]
        ]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder / SUMMARY} is not a file of `rca predict`: predict again.") from None
    return MaskSet(classes, _check(folder, images), upright=True)


def read_masks_of(manifest: Manifest, folder: Path, skipped: Collection[str]) -> MaskSet:
    """The masks of a dataset's images, named `<id>.png`, anywhere below a folder.

    Args:
        manifest: The dataset.
        folder: The folder of the masks.
        skipped: Names of folders in it to skip.

    Raises:
        UserError: there is no mask, a mask of no image, or two masks of one image.
    """
    images = []
    for mask in _list_masks(folder, skipped):
        if mask.stem not in manifest.index:
            raise UserError(f"The mask {mask} belongs to no image of {manifest.root}: take it out of the folder.")
        record = manifest.images[manifest.index[mask.stem]]
        images.append(LabelledImage(record.id, manifest.photograph(record), mask))
    return MaskSet(manifest.classes, _check(folder, images))


def read_masks_beside(folder: Path, classes: Path, photographs: Path, skipped: Collection[str]) -> MaskSet:
    """The masks in a folder, with the photographs of the same paths or names in another folder.

    Args:
        folder: The folder of the masks.
        classes: The file that names the classes, one a line.
        photographs: The folder of the photographs.
        skipped: Names of folders in `folder` to skip.

    Raises:
        UserError: a folder or the file is missing, or there is no mask, or a mask without a photograph.
    """
    if not photographs.is_dir():
        raise UserError(f"The folder of photographs {photographs} does not exist: name it with --photographs.")
    by_name = _index_photographs(photographs)
    images = []
    for mask in _list_masks(folder, skipped):
        name = mask.relative_to(folder).with_suffix("").as_posix()
        photograph = by_name.get(name) or by_name.get(mask.stem)
        if photograph is None:
            raise UserError(f"The mask {mask} has no photograph in {photographs}: add it, or name another folder.")
        images.append(LabelledImage(name, photograph, mask))
    return MaskSet(read_classes(classes), _check(folder, images))


def read_images(path: Path) -> list[str]:
    """The images of a table, from its column `image`.

    Raises:
        UserError: the table is missing, or has no such column.
    """
    lines = csv.DictReader(read_text(path).splitlines())
    if "image" not in (lines.fieldnames or ()):
        raise UserError(f"{path} has no column image: name a table that `rca suspect --out` wrote.")
    return [line["image"] for line in lines]


def choose_images(masks: MaskSet, names: Sequence[str], source: Path) -> MaskSet:
    """The masks of named images, in their order.

    Raises:
        UserError: an image has no mask, or none is named.
    """
    by_name = {image.name: image for image in masks.images}
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        named = missing[0] if missing else "no image"
        raise UserError(f"{source} names {named}, but only images with a mask in the folder can be exported.")
    return replace(masks, images=tuple(by_name[name] for name in dict.fromkeys(names)))


def _index_photographs(folder: Path) -> Mapping[str, Path]:
    """The photographs below a folder, by their paths without suffix."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    }


def _list_masks(folder: Path, skipped: Collection[str]) -> list[Path]:
    masks = sorted(folder.rglob("*.png"))
    return [mask for mask in masks if mask.parent == folder or mask.parent.name not in skipped]


def _check(folder: Path, images: list[LabelledImage]) -> tuple[LabelledImage, ...]:
    if not images:
        raise UserError(f"{folder} holds no mask: name a folder of masks, or one that `rca predict` wrote.")
    first: dict[str, LabelledImage] = {}
    for image in images:
        other = first.setdefault(image.name, image)
        if other is not image:
            raise UserError(f"{other.mask} and {image.mask} are masks of one image: name the folder of one of them.")
    return tuple(first[name] for name in sorted(first))
