"""What `rca check` understood of a dataset, as text, as JSON and as a picture."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, PALETTE, read_mask, read_photograph, write_file
from rca.core.settings import Plain
from rca.data.checking.examination import Examination
from rca.data.checking.summary import SplitCount
from rca.data.faults import count
from rca.data.listing import Entry
from rca.data.manifest import locate
from rca.report.pictures import blend_mask, scale_mask, scale_photograph

NAME_WIDTH = 24
# The picture: three columns of overlays, and swatches below them.
COLUMNS, WIDTH, LINE, MARGIN = 3, 360, 24, 8
INK, PAPER = (40, 44, 52), "white"


def format_splits(splits: Sequence[SplitCount]) -> Iterator[str]:
    """The lines of a table for each split: a line for each class, with shares of all pixels of the masks."""
    for split in splits:
        yield f"\n{split.name}: {count(split.images, 'image')}, {split.masks} with a mask"
        has_objects = any(one.objects for one in split.classes)
        heads = ("label", "by tag", "by mask", *(("objects",) if has_objects else ()), "pixels")
        yield f"  {'class':{NAME_WIDTH}s}" + "".join(f"{head:>9s}" for head in heads)
        rows: list[tuple[str, tuple[object, ...], int]] = [
            (one.name, (one.label, one.by_tag, one.by_mask, *((one.objects,) if has_objects else ())), one.pixels)
            for one in split.classes
        ]
        blank = ("",) * (3 if has_objects else 2)
        rows += [("background", (0, *blank), split.background), ("undecided", (IGNORE, *blank), split.undecided)]
        for name, cells, pixels in rows:
            share = f"{pixels / split.pixels:.2%}" if split.pixels else "-"
            shown = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
            yield f"  {shown:{NAME_WIDTH}s}" + "".join(f"{cell!s:>9s}" for cell in (*cells, share))


def describe(examination: Examination) -> Plain:
    """What was understood, and every fault, as plain data for JSON."""
    return {
        "classes": list(examination.manifest.classes),
        "splits": [
            {**asdict(split), "classes": [asdict(one) for one in split.classes], "pixels": split.pixels}
            for split in examination.splits
        ],
        "notes": list(examination.notes),
        "faults": [
            {"severity": one.severity, "kind": one.kind, "id": one.id, "file": one.file, "sentence": one.sentence}
            for one in examination.faults
        ],
    }


def write_picture(path: Path, examination: Examination) -> None:
    """Write overlays of some masks, and a swatch of each class's colour with its label and name.

    Raises:
        UserError: the file's suffix is that of no picture.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--picture {path} has no suffix of a picture: name a .png, .jpg or .webp file.")
    root = examination.manifest.root
    tiles = [_draw_tile(root, entry) for entry in examination.samples]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    swatches = _draw_swatches(examination.manifest.classes)
    height = sum(max(tile.height for tile in row) + MARGIN for row in rows)
    sheet = Image.new("RGB", (swatches.width, MARGIN + height + swatches.height), PAPER)
    top = MARGIN
    for row in rows:
        for place, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + place * (WIDTH + MARGIN), top))
        top += max(tile.height for tile in row) + MARGIN
    sheet.paste(swatches, (0, top))
    form = Image.registered_extensions()[path.suffix.lower()]
    with write_file(path) as temporary:
        sheet.save(temporary, format=form)


def _draw_tile(root: Path, entry: Entry) -> Image.Image:
    """A photograph under its mask, with its id below."""
    photograph = scale_photograph(read_photograph(locate(root, entry.image)), WIDTH)
    mask: UInt8Array = entry.draw() if entry.draw is not None else read_mask(locate(root, entry.mask or ""))
    blended = blend_mask(photograph, scale_mask(np.ascontiguousarray(mask), WIDTH, photograph.shape[0]))
    tile = Image.new("RGB", (WIDTH, photograph.shape[0] + LINE), PAPER)
    tile.paste(Image.fromarray(blended), (0, 0))
    ImageDraw.Draw(tile).text((0, photograph.shape[0] + 4), entry.id[:50], INK, _load_font())
    return tile


def _draw_swatches(classes: Sequence[str]) -> Image.Image:
    names = [(label, name) for label, name in enumerate(("background", *classes))] + [(IGNORE, "undecided (striped)")]
    lines = -(-len(names) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (WIDTH + MARGIN) + MARGIN, lines * LINE + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (label, name) in enumerate(names):
        left, top = MARGIN + place // lines * (WIDTH + MARGIN), place % lines * LINE
        colour = tuple(PALETTE[3 * label : 3 * label + 3])
        draw.rectangle((left, top, left + LINE - 6, top + LINE - 6), colour, INK)
        draw.text((left + LINE + 4, top + 2), f"{label} {name}"[:40], INK, _load_font())
    return sheet


def _load_font() -> ImageFont.FreeTypeFont:
    import matplotlib  # only for its font, which has Greek and Cyrillic letters, unlike Pillow's

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 14)
