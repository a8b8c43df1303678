"""Photographs and masks as pictures that people look at: overlays, and one sheet that compares them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rca.core.arrays import BoolArray, UInt8Array
from rca.core.files import IGNORE, PALETTE

# Percent of a class's colour in an overlay; the rest is the photograph in grey.
OPACITY = 65
# Brightness in percent of the photograph where a mask says background, so that objects stand out.
DIMMED = 45
# Width in pixels of the stripes where a mask says ignore; VOC's palette has a colour near white for 255, a flat
# one would look like a class.
STRIPE = 3

_COLOURS = np.array(PALETTE, dtype=np.int32).reshape(256, 3)


def scale_photograph(photograph: UInt8Array, width: int) -> UInt8Array:
    """Bring a photograph to a width, keeping its proportions.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        width: In pixels.

    Returns:
        (height, width, 3), uint8.
    """
    height = max(1, round(photograph.shape[0] * width / photograph.shape[1]))
    return np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.LANCZOS))


def scale_mask(mask: UInt8Array, width: int, height: int) -> UInt8Array:
    """Bring a mask (H, W), uint8, to a size without inventing labels."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def blend_mask(photograph: UInt8Array, mask: UInt8Array) -> UInt8Array:
    """Lay a mask over its photograph.

    Background is the photograph in dark grey, a class is its palette colour over grey, ignore is striped in white, and
    a thin white line runs along the inner edge of each object.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        mask: (H, W), uint8: 0 background, 1..C classes, 255 ignore.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    # In integers, grey included (ITU-R 601): a product of matrices has other last digits on another CPU.
    grey = np.asarray(Image.fromarray(photograph).convert("L"), np.int32)[..., None]
    label = mask[..., None]
    percent = np.where(label == 0, DIMMED * grey, (100 - OPACITY) * grey + OPACITY * _COLOURS[mask])
    rows, columns = np.indices(mask.shape)
    striped = (rows + columns) // STRIPE % 2 == 0
    percent = np.where(label == IGNORE, np.where(striped[..., None], 25_500, 50 * grey + 11_000), percent)
    blended = ((percent + 50) // 100).astype(np.uint8)
    blended[find_edges(mask)] = 255
    return blended


def draw_overlay(mask: UInt8Array) -> Image.Image:
    """Draw a mask as a picture to lay over its photograph, at whatever opacity.

    Args:
        mask: (H, W), uint8: 0 background, 1..C classes, 255 ignore.

    Returns:
        A palette picture: background is transparent, a class is its palette colour, ignore is striped in white, and a
        thin white line runs along the inner edge of each object.
    """
    rows, columns = np.indices(mask.shape)
    drawn = np.where((mask == IGNORE) & ((rows + columns) // STRIPE % 2 == 1), 0, mask).astype(np.uint8)
    drawn[find_edges(mask)] = IGNORE
    overlay = Image.fromarray(drawn)
    overlay.putpalette([*PALETTE[: 3 * IGNORE], 255, 255, 255])
    overlay.info["transparency"] = 0
    return overlay


def find_edges(mask: UInt8Array) -> BoolArray:
    """Where a class's pixel touches another label above, below, left or right; (H, W), bool."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    touches: BoolArray = np.any([neighbour != mask for neighbour in neighbours], axis=0)
    inside: BoolArray = (mask != 0) & (mask != IGNORE)
    return touches & inside


def draw_comparison(
    rows: Sequence[Sequence[Image.Image | None]], captions: Sequence[str], width: int = 240, gap: int = 8
) -> Image.Image:
    """Draw pictures as one sheet with a caption over each column.

    Args:
        rows: For each line of the sheet a picture for each column; None leaves its place empty.
        captions: What stands over the columns.
        width: Of each picture in pixels; its height follows from its proportions.
        gap: Between pictures, in pixels.

    Returns:
        The sheet, RGB on white.

    Raises:
        ValueError: a row has another number of pictures than there are captions, or there is nothing to draw.
    """
    if not rows or any(len(row) != len(captions) for row in rows):
        raise ValueError(f"Each row must hold {len(captions)} pictures, one for each caption, and one row at least.")
    scaled = [[_fit(picture, width) for picture in row] for row in rows]
    heights = [max((one.height for one in row if one), default=0) for row in scaled]
    font = ImageFont.load_default(size=_fit_font(captions, width))
    head = round(2.2 * font.size) if isinstance(font, ImageFont.FreeTypeFont) else 24
    size = (len(captions) * (width + gap) + gap, head + sum(heights) + gap * len(heights))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        middle = gap + column * (width + gap) + width / 2
        draw.text((middle, head / 2), caption, fill=(40, 44, 52), font=font, anchor="mm")
    top = head
    for row, height in zip(scaled, heights, strict=True):
        for column, picture in enumerate(row):
            if picture is not None:
                left = gap + column * (width + gap)
                sheet.paste(picture, (left, top + (height - picture.height) // 2))
        top += height + gap
    return sheet


def _fit(picture: Image.Image | None, width: int) -> Image.Image | None:
    if picture is None:
        return None
    return Image.fromarray(scale_photograph(np.asarray(picture.convert("RGB")), width))


def _fit_font(captions: Sequence[str], width: int) -> int:
    """The largest size up to a tenth of a picture's width at which each caption fits over its picture."""
    size = max(8, width // 10)
    while size > 8 and max(ImageFont.load_default(size=size).getlength(text) for text in captions) > width:
        size -= 1
    return size
