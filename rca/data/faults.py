"""What can be wrong with a dataset: every kind of fault, how bad it is and what to do.

An error is what the pipeline cannot run with, or not without guessing what was meant. A warning is what it can live
with, by a rule that holds everywhere:

* Pixels are read as stored. EXIF orientation is left aside, and a mask has to have the size of the stored pixels, so
  one that was drawn on the turned picture is an error wherever its size tells.
* CMYK is converted without its colour profile, an alpha channel is dropped, of an animation the first picture is read.
* A photograph is decoded by its content, whatever its suffix says.
* The same photograph under two names is read twice, even where one is trained on and the other scored (published
  datasets hold such pairs, and have to stay as published).
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rca.core.errors import UserError
from rca.core.files import write_text
from rca.core.images import PICTURE_FAULTS

Severity = Literal["error", "warning"]
Broken = Literal["stop", "quarantine"]
"""What is done about images with an error: stop, or leave them out and keep a list of them."""
QUARANTINE = "quarantine.csv"
COLUMNS = ("severity", "kind", "id", "file", "sentence")


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        severity: An error stops the pipeline; a warning is told.
        of_image: Whether it belongs to one image, which can be left out; else to the dataset.
        remedy: What to do about it.
    """

    severity: Severity
    of_image: bool
    remedy: str


def _of_pictures(what: str, *left_out: str) -> dict[str, Kind]:
    """The faults that `rca.core.images` finds, in one sort of picture."""
    return {
        f"{fault} {what}": Kind("error", True, remedy)
        for fault, remedy in PICTURE_FAULTS.items()
        if fault not in left_out
    }


# In the order in which they are told: what hides other faults goes first.
KINDS: dict[str, Kind] = {
    "no class": Kind("error", False, "list the classes in classes.txt or in dataset.classes"),
    "too many classes": Kind("error", False, "merge classes, since a mask of 8 bits holds at most 254"),
    "unusable class name": Kind("error", False, "rename it, without ';', invisible letters and outer spaces"),
    "repeated class": Kind("error", False, "list it once"),
    "similar classes": Kind("error", False, "merge the two, or rename one"),
    "unusable split": Kind("error", False, "rename it, and in dataset.splits as well"),
    "empty split": Kind("error", False, "list images there, or take the split out of dataset.splits"),
    "repeated id": Kind("error", False, "name each image once, with all its tags"),
    "unusable id": Kind("error", True, "rename the image, in letters, digits, '.', '_' and '-'"),
    **_of_pictures("photograph", "wrong-mode"),
    "tiny photograph": Kind("error", True, "replace it by a larger one or take it off the lists"),
    **_of_pictures("mask", "16-bit"),
    "mask of another size": Kind("error", True, "make the two the same size"),
    "unknown label": Kind("error", True, "mend the mask or add the class"),
    "lossy mask": Kind("error", True, "make it anew as a PNG, since JPEG alters labels"),
    **_of_pictures("saliency map", "16-bit"),
    "saliency map of another size": Kind("error", True, "make the two the same size"),
    "broken annotation": Kind("error", True, "restore it, or set dataset.tags to masks"),
    "unknown tag": Kind("error", True, "mend the tag or add the class"),
    "exhausted split": Kind("error", False, "mend some of its images, or take the split out of dataset.splits"),
    "leaked photograph": Kind("warning", False, "keep it in one split, since scores on trained images are too good"),
    "duplicate photograph": Kind("warning", False, "keep one of them"),
    "overlapping splits": Kind("warning", False, "keep each image in one split, unless one holds all of another"),
    "listed twice": Kind("warning", False, "list it once; it counts once"),
    "similar ids": Kind("warning", False, "rename one, since some file systems take them for the same"),
    "misleading class": Kind("warning", False, "list object classes alone; label 0 is the background without a name"),
    "class without image": Kind("warning", False, "add images that show it, or drop the class"),
    "split without tags": Kind("warning", False, "add tags or masks if it is to be trained on or scored"),
    "masks for a part": Kind("warning", False, "add the others, since an image without a mask cannot be scored"),
    "saliency maps for a part": Kind("warning", False, "add the others where a method is to use them"),
    "unpublished count": Kind("warning", False, "compare scores with published ones only on the same images"),
    "image without tags": Kind("warning", True, "tag what it shows, or take it off the lists"),
    "turned photograph": Kind("warning", True, "turn its pixels, drop the tag, and see that the mask fits"),
    "CMYK photograph": Kind("warning", True, "save it as sRGB if its colours matter"),
    "alpha channel": Kind("warning", True, "save it without, if what lies beneath was to be hidden"),
    "animation": Kind("warning", True, "save the picture that is meant"),
    "misnamed photograph": Kind("warning", True, "rename it"),
    "misnamed mask": Kind("warning", True, "rename it"),
    "blank photograph": Kind("warning", True, "see whether it is a placeholder"),
    "odd photograph": Kind("warning", True, "save it anew"),
    "all-ignore mask": Kind("warning", True, "draw it, or remove the mask"),
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: One of `KINDS`.
        file: The file that has it.
        statement: What is wrong, in words that name the file.
        id: The image, "" where it belongs to none.
    """

    kind: str
    file: str
    statement: str
    id: str = ""

    @classmethod
    def tell(cls, kind: str, file: Path, error: UserError, image_id: str = "") -> "Fault":
        """A fault out of the sentence of an error, whose advice gives way to that for the kind."""
        return cls(kind, str(file), str(error).rpartition(": ")[0], image_id)

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def of_image(self) -> bool:
        """Whether leaving one image out would mend it."""
        return KINDS[self.kind].of_image

    @property
    def sentence(self) -> str:
        """What is wrong and what to do."""
        return f"{self.statement}: {KINDS[self.kind].remedy}."


def count(number: int, noun: str) -> str:
    """A number with its noun, e.g. "1 error", "2 errors"."""
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
        The lines, by column.

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
