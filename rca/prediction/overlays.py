"""A photograph under its mask, with a legend of the colours."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rca.core.arrays import UInt8Array
from rca.core.files import PALETTE
from rca.prediction.labels import LabelSummary
from rca.report.pictures import blend_mask, scale_mask

# The picture's longest side in pixels; a small photograph is enlarged to LEAST_WIDTH, to make its legend readable.
LONGEST_SIDE, LEAST_WIDTH = 1600, 480
MARGIN = 8
INK, PAPER = (40, 44, 52), "white"


def draw_overlay(photograph: UInt8Array, mask: UInt8Array, labels: Sequence[LabelSummary]) -> Image.Image:
    """Draw a mask over its photograph, with each class's colour, name and share below.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        mask: (H, W), uint8, 0 background and 1..C.
        labels: The labels in the mask.

    Returns:
        A picture, RGB, whose longest side is at most `LONGEST_SIDE` without the legend.
    """
    size = fit_size(mask.shape[1], mask.shape[0])
    reduced = Image.fromarray(photograph).resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
    blended = Image.fromarray(blend_mask(np.asarray(reduced), scale_mask(mask, *size)))
    width = max(blended.width, LEAST_WIDTH)
    legend = draw_legend(labels, width)
    sheet = Image.new("RGB", (width, blended.height + legend.height), PAPER)
    sheet.paste(blended, ((width - blended.width) // 2, 0))
    sheet.paste(legend, (0, blended.height))
    return sheet


def fit_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a photograph's picture, with its proportions."""
    scale = LONGEST_SIDE / max(width, height)
    scale = min(scale, max(1, LEAST_WIDTH / width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def draw_legend(labels: Sequence[LabelSummary], width: int) -> Image.Image:
    """Draw a swatch, a name and a share for each class, the largest first, in as many columns as fit.

    Args:
        labels: The labels in the mask; the background is left out.
        width: The legend's width in pixels; its height follows.
    """
    font = _load_font(max(13, min(24, width // 60)))
    line = round(1.5 * font.size)
    classes = sorted((each for each in labels if each.label), key=lambda each: (-each.pixels, each.label))
    if not classes:
        texts = ["no class found"]
    else:
        texts = [shorten(each.name, f"  {each.share:.1%}", font, width - 2 * MARGIN - line) for each in classes]
    column = line + 2 * MARGIN + round(max(font.getlength(text) for text in texts))
    columns = max(1, min(len(texts), (width - MARGIN) // column))
    lines = -(-len(texts) // columns)
    legend = Image.new("RGB", (width, lines * line + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(legend)
    for position, text in enumerate(texts):
        left, top = MARGIN + position // lines * column, MARGIN + position % lines * line
        inset = line // 6
        if classes:
            start = 3 * classes[position].label
            colour = tuple(PALETTE[start : start + 3])
            draw.rectangle((left, top + inset, left + line - 2 * inset, top + line - inset), colour, INK)
        draw.text((left + line, top + line / 2), text, INK, font, anchor="lm")
    return legend


def shorten(name: str, end: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A name and its end, with the name cut to "…" if both are wider than `width` pixels."""
    if font.getlength(name + end) <= width:
        return name + end
    while name and font.getlength(f"{name}…{end}") > width:
        name = name[:-1]
    return f"{name}…{end}"


@cache
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # only for its font, which has Greek and Cyrillic letters, unlike Pillow's

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
