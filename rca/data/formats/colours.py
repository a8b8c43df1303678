"""The names and colours of labels: `classes.txt`, and the `labelmap.txt` of CVAT, which decodes colours.

Source of the second: CVAT's format "Segmentation mask", whose lines are `name:red,green,blue:parts:actions`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.core.images import PictureError, open_picture
from rca.data.faults import Fault, FaultError
from rca.data.formats.files import note_left_out, read_lines, read_names
from rca.data.listing import name_drawn
from rca.data.names import find_role, take_objects

CLASS_LIST, LABEL_MAP = "classes.txt", "labelmap.txt"
LINE = re.compile(r"(?P<name>[^:]+):(?P<colour>\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3})\s*(:[^:]*){0,2}")
COLOURED = ("RGB", "RGBA", "P")

Colour = tuple[int, int, int]
ColourMap = Mapping[Colour, int]
"""The label of each colour: 0 background, 1..C classes, 255 undecided."""


class ClassChoice(NamedTuple):
    """What the files of a dataset say about its classes.

    Attributes:
        classes: Their names, in the order of the labels from 1 on.
        source: The file that names them.
        colours: The colours of the labels; None without a label map.
        notes: Names that are left out, in sentences.
        faults: Differences between the two files.
    """

    classes: tuple[str, ...]
    source: Path
    colours: ColourMap | None = None
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def choose_classes(root: Path, classes: tuple[str, ...] | None = None) -> ClassChoice | None:
    """Read the classes of a dataset, and hold its two files against each other.

    Args:
        root: The dataset's root.
        classes: The classes if they are known; None reads `classes.txt`, or `labelmap.txt` where that does not exist.

    Returns:
        None if nothing names the classes.

    Raises:
        UserError: a file is broken.
    """
    list_file, map_file = root / CLASS_LIST, root / LABEL_MAP
    colours_of = read_label_map(map_file) if map_file.is_file() else None
    notes: tuple[str, ...] = ()
    source = map_file
    if classes is None and list_file.exists():
        names = read_names(list_file)
        classes, source, notes = names.objects, list_file, tuple(note_left_out(list_file, names))
    if colours_of is None:
        return None if classes is None else ClassChoice(classes, source, notes=notes)
    named = tuple(name for name in colours_of if find_role(name) == "object")
    if classes is None:
        classes = named
        left_out = take_objects(tuple(colours_of)).left_out
        if left_out:
            notes = (f"{map_file}: {', '.join(left_out)} is no class; label 1 is {named[0] if named else 'missing'}.",)
    written = {name.replace(":", "-"): label for label, name in enumerate(classes, 1)}  # as rca.exporting.voc writes
    differing = sorted(set(written) ^ set(named))
    faults: tuple[Fault, ...] = ()
    if differing:
        statement = f"{map_file} and the classes in {source} differ in {', '.join(differing[:5])}"
        faults = (Fault("differing classes", str(map_file), statement),)
    labels = {"background": 0, "undecided": IGNORE}
    colours = {
        colour: written.get(name, IGNORE) if find_role(name) == "object" else labels.get(find_role(name), IGNORE)
        for name, colour in colours_of.items()
    }
    return ClassChoice(classes, source, colours, notes, faults)


def read_label_map(path: Path) -> dict[str, Colour]:
    """Read a label map.

    Returns:
        The colour (R, G, B) of each name, in the order of the file.

    Raises:
        UserError: the file is missing or broken, or repeats a name or a colour.
    """
    colours: dict[str, Colour] = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        red, green, blue = map(int, match["colour"].split(",")) if match else (256, 256, 256)
        if match is None or max(red, green, blue) > 255:
            raise UserError(f"{path}, line {number}: {line[:80]!r} is no label: write name:red,green,blue:: in 0..255.")
        name, colour = match["name"].strip(), (red, green, blue)
        if name in colours or colour in colours.values():
            raise UserError(f"{path}, line {number}: the name or the colour of {name} is there twice: change one.")
        colours[name] = colour
    return colours


def find_mask(
    root: Path, drawn: Path, image_id: str, mask: str | None, colours: ColourMap | None
) -> tuple[str | None, Callable[[], UInt8Array] | None]:
    """An image's mask for its `Entry`: its file, or what decodes it and the file to write that to.

    Args:
        root: The dataset's root.
        drawn: The folder for drawn masks.
        image_id: The image.
        mask: Its mask, relative to the root; None if it has none.
        colours: The colours of the labels; None if masks hold labels.
    """
    if mask is None or colours is None or _holds_labels(root / mask, colours):
        return mask, None
    return name_drawn(drawn, image_id), ColourMask(root / mask, colours)


def _holds_labels(path: Path, colours: ColourMap) -> bool:
    """Whether a mask's values are labels: it is grey, or its palette has each label's colour at its place."""
    try:
        with open_picture(path, "mask", decode=False) as image:
            palette = image.getpalette() or []
            fits = all(tuple(palette[3 * label : 3 * label + 3]) == colour for colour, label in colours.items())
            return image.mode not in COLOURED or (image.mode == "P" and fits)
    except PictureError:
        return True  # the check will name its fault


@dataclass(frozen=True)
class ColourMask:
    """Decodes a mask in colours.

    Attributes:
        path: The picture.
        colours: The colours of the labels.
    """

    path: Path
    colours: ColourMap

    def __call__(self) -> UInt8Array:
        """The mask (H, W), uint8: 0 background, 1..C classes, 255 undecided.

        Raises:
            FaultError: the picture is broken or a JPEG, or holds a colour that is not on the label map.
        """
        try:
            with open_picture(self.path, "mask") as image:
                form, pixels = image.format, np.asarray(image.convert("RGB")).astype(np.int32)
        except PictureError as error:
            raise FaultError(f"{error.fault} mask", self.path, error.statement) from None
        if form == "JPEG":
            raise FaultError("lossy mask", self.path, f"The mask {self.path} is a JPEG")
        packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        found, places = np.unique(packed, return_inverse=True)
        labels = {red << 16 | green << 8 | blue: label for (red, green, blue), label in self.colours.items()}
        unknown = [int(colour) for colour in found if int(colour) not in labels]
        if unknown:
            red, green, blue = unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            statement = f"The mask {self.path} holds the colour {red},{green},{blue}{more}, which no label has"
            raise FaultError("unknown colour", self.path, statement)
        decoded = np.array([labels[int(colour)] for colour in found], np.uint8)
        return decoded[places].reshape(packed.shape)
