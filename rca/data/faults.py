"""What can be wrong with a dataset: every kind of fault, how bad it is and what to do.

An error stops the pipeline, or would make it guess. A warning does not, since a fixed rule covers the case:

* Pixels are read as stored. EXIF orientation is ignored, and a mask must have the size of the stored pixels: a mask
  drawn on the rotated picture is an error if its size differs.
* CMYK is converted without its colour profile, an alpha channel is dropped, and an animation gives its first picture.
* A photograph is decoded by its content, whatever its suffix says.
* The same photograph under two names is read twice, even if one is trained on and the other scored: published datasets
  hold such pairs, and must stay as published.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rca.core.errors import UserError
from rca.core.files import write_text
from rca.core.images import PICTURE_FAULTS, SUFFIXES

Severity = Literal["error", "warning"]
Broken = Literal["stop", "quarantine"]
"""What to do when images have errors: stop, or leave them out and list them."""
QUARANTINE = "quarantine.csv"
COLUMNS = ("severity", "kind", "id", "file", "sentence")


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        severity: An error stops the pipeline; a warning is only reported.
        of_image: Whether it belongs to one image, which can be left out, or to the dataset.
        remedy: What to do about it.
    """

    severity: Severity
    of_image: bool
    remedy: str


def _of_pictures(what: str, *left_out: str) -> dict[str, Kind]:
    """The faults of `rca.core.images`, for one sort of picture."""
    return {
        f"{fault} {what}": Kind("error", True, remedy)
        for fault, remedy in PICTURE_FAULTS.items()
        if fault not in left_out
    }


# In the order of the report: faults that hide others come first.
KINDS: dict[str, Kind] = {
    "no class": Kind("error", False, "list the classes in classes.txt or in dataset.classes"),
    "too many classes": Kind("error", False, "merge classes, since a mask of 8 bits holds at most 254"),
    "unusable class name": Kind("error", False, "rename it, without ';', invisible letters and outer spaces"),
    "repeated class": Kind("error", False, "list it once"),
    "similar classes": Kind("error", False, "merge the two, or rename one"),
    "joined classes": Kind("error", False, "separate the tags by ';', or list the classes in classes.txt"),
    "misleading class": Kind("error", False, "put the background first, undecided pixels last, or rename it"),
    "differing classes": Kind("error", False, "give both the same names, or remove one of the files"),
    "permuted labels": Kind("error", False, "list the classes in classes.txt in the order of the masks' labels"),
    "masks of no image": Kind(
        "error", False, "save each mask as PNG with its photograph's name, e.g. cow_1.png for cow_1.jpg"
    ),
    "unusable split": Kind("error", False, "rename it, and in dataset.splits as well"),
    "empty split": Kind("error", False, "list images there, or take the split out of dataset.splits"),
    "repeated id": Kind("error", False, "name each image once, with all its tags"),
    "unusable id": Kind("error", True, "rename the image, in few letters, digits, '.', '_' and '-'"),
    **_of_pictures("photograph", "wrong-mode"),
    "photograph of another name": Kind("error", True, f"correct the name; read are {', '.join(sorted(SUFFIXES))}"),
    "ambiguous name": Kind("error", True, "name it with its suffix, or keep one of the files"),
    "tiny photograph": Kind("error", True, "replace it by a larger one or take it off the lists"),
    **_of_pictures("mask", "16-bit"),
    "mask of another size": Kind("error", True, "make the two the same size"),
    "unknown label": Kind("error", True, "correct the mask or add the class"),
    "binary mask": Kind("error", True, "write the object as 1, since 255 means undecided"),
    "shuffled palette": Kind("error", True, "write the labels as values, or list the colours in labelmap.txt"),
    "unknown colour": Kind("error", True, "correct the mask, or add the colour to labelmap.txt"),
    "mask against tags": Kind("error", True, "correct the mask or the tags"),
    "lossy mask": Kind("error", True, "draw it again as a PNG, since JPEG alters labels"),
    **_of_pictures("saliency map", "16-bit"),
    "saliency map of another size": Kind("error", True, "make the two the same size"),
    "broken annotation": Kind("error", True, "restore it, or set dataset.tags to masks"),
    "bad annotation": Kind("error", True, "correct it in the annotation tool, or remove it from the file"),
    "unknown tag": Kind("error", True, "correct the tag or add the class"),
    "exhausted split": Kind("error", False, "repair some of its images, or take the split out of dataset.splits"),
    "leaked photograph": Kind("warning", False, "keep it in one split, since scores on training images are too high"),
    "duplicate photograph": Kind("warning", False, "keep one of them"),
    "overlapping splits": Kind("warning", False, "keep each image in one split, unless one split holds all of another"),
    "listed twice": Kind("warning", False, "list it once; it counts once"),
    "similar ids": Kind("warning", False, "rename one, since some file systems treat them as the same"),
    "rare class": Kind("warning", False, "correct the tag, or list the classes in classes.txt"),
    "mostly crowds": Kind("warning", False, "set dataset.crowds to objects if they were drawn with a brush"),
    "stray annotation": Kind("warning", False, "correct image_id, or remove it from the file"),
    "class without image": Kind("warning", False, "add images that show it, or remove the class"),
    "split without tags": Kind("warning", False, "add tags or masks to train on it or score it"),
    "masks for a part": Kind("warning", False, "add the missing ones, since an image without a mask cannot be scored"),
    "saliency maps for a part": Kind("warning", False, "add the missing ones if a method uses them"),
    "unpublished count": Kind("warning", False, "compare scores with published ones only on the same images"),
    "image without tags": Kind("warning", True, "add tags, or take it off the lists"),
    "turned photograph": Kind("warning", True, "rotate its pixels, remove the EXIF tag, and check that the mask fits"),
    "CMYK photograph": Kind("warning", True, "save it as sRGB if its colours matter"),
    "alpha channel": Kind("warning", True, "save it without one, if it was to hide something"),
    "animation": Kind("warning", True, "save the right picture alone"),
    "misnamed photograph": Kind("warning", True, "rename it"),
    "misnamed mask": Kind("warning", True, "rename it"),
    "blank photograph": Kind("warning", True, "check whether it is a placeholder"),
    "odd photograph": Kind("warning", True, "save it again"),
    "all-ignore mask": Kind("warning", True, "draw it, or remove the mask"),
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: One of `KINDS`.
        file: The file that has it.
        statement: What is wrong, with the file's name.
        id: The image; "" for a fault of the dataset.
    """

    kind: str
    file: str
    statement: str
    id: str = ""

    @classmethod
    def tell(cls, kind: str, file: Path, error: UserError, image_id: str = "") -> "Fault":
        """Make a fault of an error; the kind's advice replaces that of its sentence."""
        return cls(kind, str(file), str(error).rpartition(": ")[0], image_id)

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def of_image(self) -> bool:
        """Whether leaving out one image would remedy it."""
        return KINDS[self.kind].of_image

    @property
    def sentence(self) -> str:
        """What is wrong and what to do."""
        return f"{self.statement}: {KINDS[self.kind].remedy}."


class FaultError(UserError):
    """A fault found while a mask is drawn.

    Args:
        kind: One of `KINDS`.
        file: The file that has it.
        statement: What is wrong, with the file's name.
    """

    def __init__(self, kind: str, file: Path, statement: str) -> None:
        self.fault = Fault(kind, str(file), statement)
        super().__init__(self.fault.sentence)

    def __reduce__(self) -> tuple[type["FaultError"], tuple[str, Path, str]]:
        return FaultError, (self.fault.kind, Path(self.fault.file), self.fault.statement)


def count(number: int, noun: str) -> str:
    """A number with its noun, e.g. "1 error" or "2 errors"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def write_faults(path: Path, faults: Iterable[Fault]) -> None:
    """Write a line for each fault as CSV, whole or not at all."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(fault, column) for column in COLUMNS] for fault in faults)
    write_text(path, table.getvalue())


def read_faults(path: Path) -> list[dict[str, str]]:
    """Read what `write_faults` wrote.

    Returns:
        A dict for each line, by column.

    Raises:
        UserError: the file is missing or corrupt.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run prepare_data first.") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is corrupt: run prepare_data again.") from None
    if any(set(line) != set(COLUMNS) or None in line.values() for line in lines):
        raise UserError(f"{path} is corrupt: run prepare_data again.")
    return lines
