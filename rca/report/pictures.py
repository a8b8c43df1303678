"""Pictures of photographs and masks: overlays, and a sheet that compares them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rca.core.arrays import BoolArray, UInt8Array
from rca.core.files import IGNORE, PALETTE

# Percent of a class's colour in an overlay; the rest is the photograph in grey.
OPACITY = 65
# Brightness in percent of the photograph where a mask says background, so that objects stand out.
DIMMED = 45
# Width in pixels of the stripes where a mask says ignore. VOC's palette has a colour near white for 255, which without
# stripes would look like a class.
STRIPE = 3

_COLOURS = np.array(PALETTE, dtype=np.int32).reshape(256, 3)


def scale_photograph(photograph: UInt8Array, width: int) -> UInt8Array:
    """Resize a photograph to a width, keeping its proportions.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        width: The width in pixels.

    Returns:
        (height, width, 3), uint8.
    """
    height = max(1, round(photograph.shape[0] * width / photograph.shape[1]))
    return np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.LANCZOS))


def scale_mask(mask: UInt8Array, width: int, height: int) -> UInt8Array:
    """Resize a mask (H, W), uint8, by nearest neighbours."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def blend_mask(photograph: UInt8Array, mask: UInt8Array) -> UInt8Array:
    """Blend a mask with its photograph.

    The background is the photograph in dark grey, a class its palette colour over grey, ignore is striped in white, and
    a thin white line runs along the inner edge of each object.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        mask: (H, W), uint8: 0 background, 1..C classes, 255 ignore.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    # In integers, also the grey (ITU-R 601): the last digits of a matrix product differ between CPUs.
    grey = np.asarray(Image.fromarray(photograph).convert("L"), np.int32)[..., None]
    label = mask[..., None]
    percent = np.where(label == 0, DIMMED * grey, (100 - OPACITY) * grey + OPACITY * _COLOURS[mask])
    rows, columns = np.indices(mask.shape)
    striped = (rows + columns) // STRIPE % 2 == 0
    percent = np.where(label == IGNORE, np.where(striped[..., None], 25_500, 50 * grey + 11_000), percent)
    blended = ((percent + 50) // 100).astype(np.uint8)
    blended[find_edges(mask)] = 255
    return blended


def draw_layer(mask: UInt8Array) -> Image.Image:
    """Draw a mask as a layer for its photograph, to be shown at any opacity.

    Args:
        mask: (H, W), uint8: 0 background, 1..C classes, 255 ignore.

    Returns:
        A palette picture: the background is transparent, a class has its palette colour, ignore is striped in white,
        and a thin white line runs along the inner edge of each object.
    """
    rows, columns = np.indices(mask.shape)
    drawn = np.where((mask == IGNORE) & ((rows + columns) // STRIPE % 2 == 1), 0, mask).astype(np.uint8)
    drawn[find_edges(mask)] = IGNORE
    layer = Image.fromarray(drawn)
    layer.putpalette([*PALETTE[: 3 * IGNORE], 255, 255, 255])
    layer.info["transparency"] = 0
    return layer


def draw_scores(scores: UInt8Array) -> Image.Image:
    """Draw a score map as a layer for its photograph: the higher the score, the more opaque and the lighter.

    Args:
        scores: (H, W), uint8, 255 for the score 1.

    Returns:
        A palette picture of 16 levels; the lowest is transparent.
    """
    layer = Image.fromarray(scores // 16)
    steps = [level / 15 for level in range(16)]
    layer.putpalette([value for step in steps for value in (round(120 + 135 * step), round(230 * step), 20)])
    layer.info["transparency"] = bytes(round(255 * step) for step in steps)
    return layer


def find_edges(mask: UInt8Array) -> BoolArray:
    """The pixels of classes with another label above, below, left or right; (H, W), bool."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    touches: BoolArray = np.any([neighbour != mask for neighbour in neighbours], axis=0)
    inside: BoolArray = (mask != 0) & (mask != IGNORE)
    return touches & inside


def draw_comparison(
    rows: Sequence[Sequence[Image.Image | None]], captions: Sequence[str], width: int = 240, gap: int = 8
) -> Image.Image:
    """Draw pictures on one sheet, with a caption over each column.

    Args:
        rows: For each row of the sheet, a picture for each column; None leaves its place empty.
        captions: The captions of the columns.
        width: The width of each picture in pixels; its height follows from its proportions.
        gap: The gap between pictures in pixels.

    Returns:
        The sheet, RGB on white.

    Raises:
        ValueError: there is no row, or a row has not one picture for each caption.
    """
    if not rows or any(len(row) != len(captions) for row in rows):
        raise ValueError(f"Each row must hold {len(captions)} pictures, one for each caption, and there must be a row.")
    scaled = [[_fit(picture, width) for picture in row] for row in rows]
    heights = [max((picture.height for picture in row if picture), default=0) for row in scaled]
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
    """The largest font size, up to a tenth of a picture's width, at which each caption fits over its picture."""
    size = max(8, width // 10)
    while size > 8 and max(ImageFont.load_default(size=size).getlength(text) for text in captions) > width:
        size -= 1
    return size
