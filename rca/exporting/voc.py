"""Masks and photographs in the layout of PASCAL VOC, which annotation tools and `rca.data.formats.voc` read."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rca.core.errors import UserError
from rca.core.files import IGNORE, PALETTE, read_photograph, write_directory, write_mask
from rca.core.names import check_names
from rca.core.progress import track
from rca.data.ids import make_id
from rca.exporting.masks import LabelledImage, MaskSet
from rca.prediction.inputs import is_upright, open_image, read_image

COPIED = {"JPEG": ".jpg", "PNG": ".png"}


def export_voc(masks: MaskSet, out: Path, split: str) -> None:
    """Write `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/<split>.txt`, `classes.txt` and `labelmap.txt`.

    JPEG and PNG photographs are copied byte by byte; other formats, and photographs with an EXIF orientation, become
    PNG. The last file gives the labels' colours, for tools such as CVAT.

    Args:
        masks: The masks to write.
        out: The folder, which must be missing or empty.
        split: The name of the list of images.

    Raises:
        UserError: the folder is not empty, the split has an unusable name, or a mask or a photograph is bad. Then
            nothing is written.
    """
    try:
        check_names("split", [split])
    except ValueError as error:
        raise UserError(f"{error}.") from None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists, and its masks may have been corrected by hand: name a new folder.")
    ids = make_ids([image.name for image in masks.images])
    ignored = False
    with write_directory(out) as directory:
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (directory / folder).mkdir(parents=True)
        pairs = zip(masks.images, ids, strict=True)
        for image, image_id in track(pairs, "copying", len(ids)):
            mask = masks.read(image)
            ignored |= bool((mask == IGNORE).any())
            write_mask(directory / f"SegmentationClass/{image_id}.png", mask)
            _copy_photograph(image, directory / "JPEGImages" / image_id, masks.upright)
        _write_lines(directory / f"ImageSets/Segmentation/{split}.txt", ids)
        _write_lines(directory / "classes.txt", masks.classes)
        _write_lines(directory / "labelmap.txt", describe_colours(masks.classes, ignored))


def make_ids(names: Sequence[str]) -> list[str]:
    """Turn names into valid image ids that differ even without regard to case."""
    taken: set[str] = set()
    ids = []
    for name in names:
        safe = make_id(name)
        candidates = [safe, *(f"{safe}-{number}" for number in range(2, len(names) + 2))]
        chosen = next(candidate for candidate in candidates if candidate.casefold() not in taken)
        taken.add(chosen.casefold())
        ids.append(chosen)
    return ids


def describe_colours(classes: Sequence[str], ignored: bool) -> list[str]:
    """The lines of `labelmap.txt` in CVAT's format "Segmentation mask": name, colour, and no parts or actions."""
    labels = {0: "background", **dict(enumerate(classes, 1))} | ({IGNORE: "ignored"} if ignored else {})
    colours = {label: ",".join(map(str, PALETTE[3 * label : 3 * label + 3])) for label in labels}
    # A colon would end the name.
    return ["# label:color_rgb:parts:actions"] + [
        f"{name.replace(':', '-')}:{colours[label]}::" for label, name in labels.items()
    ]


def _copy_photograph(image: LabelledImage, target: Path, upright: bool) -> None:
    """Copy a photograph to the path `target` plus a suffix, with its pixels oriented as its mask is."""
    with open_image(image.photograph) as photograph:
        suffix = COPIED.get(photograph.format or "") if is_upright(photograph) else None
    if suffix:
        shutil.copyfile(image.photograph, target.with_name(target.name + suffix))
    else:
        pixels = read_image(image.photograph) if upright else read_photograph(image.photograph)
        Image.fromarray(pixels).save(target.with_name(f"{target.name}.png"))


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
