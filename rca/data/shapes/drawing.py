"""Drawing for the generated dataset: textured, shaded polygons on a supersampled canvas.

Coordinates are computed element by element, without matrix products, and noise is enlarged in integers, so that
pictures hardly depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from rca.core.arrays import BoolArray, Float32Array, Float64Array, Int64Array

SUPERSAMPLING = 3
EDGE_CONTRAST = 0.45  # least sum of the differences in R, G and B between a body and its ground

Rng = np.random.Generator
Colour = tuple[int, int, int]
Outline = list[tuple[float, float]]
# Which of N points have the second colour: by their u and v, (N,), in units of the thing's radius, and by the thing's
# dice, (8, 8, 2) in [0, 1).
Pattern = Callable[[Float64Array, Float64Array, Float64Array], BoolArray]


# --- patterns


def bands(u: Float64Array, v: Float64Array, dice: Float64Array) -> BoolArray:
    """Stripes across the thing."""
    return np.asarray((v * 2.2 + dice[0, 0, 0]) % 1 < 0.45, bool)


def checks(u: Float64Array, v: Float64Array, dice: Float64Array) -> BoolArray:
    """A chequerboard."""
    columns, rows = np.floor(u * 2.4 + dice[0, 0, 0]), np.floor(v * 2.4 + dice[0, 0, 1])
    return np.asarray((columns + rows) % 2 == 1, bool)


def spots(u: Float64Array, v: Float64Array, dice: Float64Array) -> BoolArray:
    """Scattered dots."""
    x, y = u * 2.6 + dice[0, 0, 0], v * 2.6 + dice[0, 0, 1]
    centre = 0.35 + 0.3 * dice[np.floor(x).astype(int) % 8, np.floor(y).astype(int) % 8]
    return np.asarray((x % 1 - centre[:, 0]) ** 2 + (y % 1 - centre[:, 1]) ** 2 < 0.085, bool)


def core(u: Float64Array, v: Float64Array, dice: Float64Array) -> BoolArray:
    """A disc in the middle."""
    return np.asarray(u**2 + v**2 < 0.25, bool)


def halves(u: Float64Array, v: Float64Array, dice: Float64Array) -> BoolArray:
    """One half of each colour."""
    return u > 0


def cross(u: Float64Array, v: Float64Array, dice: Float64Array) -> BoolArray:
    """A cross through the middle."""
    return np.asarray((np.abs(u) < 0.24) | (np.abs(v) < 0.24), bool)


def plain(u: Float64Array, v: Float64Array, dice: Float64Array) -> BoolArray:
    """The first colour alone."""
    return np.zeros(len(u), bool)


# --- outlines: polygons of points (u, v) in units of the thing's radius, v towards the telling part


def radial(radii: Float64Array) -> Outline:
    """A closed outline around the origin, from its radii (K,) at K even angles, the first at the top."""
    turn = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return list(zip((radii * np.sin(turn)).tolist(), (radii * np.cos(turn)).tolist(), strict=True))


def scaled(outline: Outline, width: float, height: float, x: float = 0, y: float = 0) -> Outline:
    """An outline stretched, then moved."""
    return [(a * width + x, b * height + y) for a, b in outline]


# --- painting


class Frame(NamedTuple):
    """Where a thing stands: its coordinates times `axes`, plus `centre`, are supersampled pixels (x, y)."""

    centre: Float64Array
    axes: Float64Array  # two orthogonal rows, each as long as the thing's radius

    def stencil(self, outlines: list[Outline], side: int) -> BoolArray:
        """The pixels (side, side), bool, that the outlines cover."""
        image = Image.new("L", (side, side))
        draw = ImageDraw.Draw(image)
        for outline in outlines:
            points = [u * self.axes[0] + v * self.axes[1] + self.centre for u, v in outline]
            draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
        return np.asarray(image) > 0

    def texture(self, pattern: Pattern, rows: Int64Array, cols: Int64Array, dice: Float64Array) -> Float32Array:
        """The share (N, 1) of the second colour at N pixels of the canvas."""
        x, y = cols - self.centre[0], rows - self.centre[1]
        u, v = ((x * axis[0] + y * axis[1]) / (axis**2).sum() for axis in self.axes)
        return pattern(u, v, dice).astype(np.float32)[:, None]

    def moved(self, v: float, scale: float = 1) -> Frame:
        """The frame of a thing `v` radii further up, `scale` times as large."""
        return Frame(self.centre + v * self.axes[1], self.axes * scale)


def pose(rng: Rng, centre: Float64Array, radius: float, tilt: float) -> Frame:
    """A frame rotated by at most `tilt` half turns from upright, and perhaps mirrored."""
    angle = np.pi * rng.uniform(-tilt, tilt)
    sin, cos, mirror = np.sin(angle), np.cos(angle), rng.choice([-1, 1])
    return Frame(centre, radius * np.array([[mirror * cos, mirror * sin], [sin, -cos]]))


def muted_colour(rng: Rng) -> Float64Array:
    """A muted colour, for grounds and bodies, as RGB in [0, 1]."""
    grey, hue = rng.uniform(0.25, 0.85), rng.uniform(-1, 1, 3)
    colour: Float64Array = grey + rng.uniform(0.03, 0.18) * hue / np.abs(hue).max()
    return colour.clip(0.03, 0.97)


def contrasting_colour(rng: Rng, ground: Float64Array) -> Float64Array:
    """A colour that differs from the ground, so that an object has an edge."""
    for _ in range(20):
        candidate = muted_colour(rng)
        if np.abs(candidate - ground).sum(1).min() > EDGE_CONTRAST:
            break
    return candidate


def vivid_colours(rng: Rng, colours: tuple[Colour, Colour]) -> list[Float64Array]:
    """A telling part's two colours (0..255), slightly varied, as RGB in [0, 1]."""
    return [np.clip(np.array(c) / 255 + rng.uniform(-0.06, 0.06, 3), 0, 1) for c in colours]


def paint(
    rng: Rng,
    canvas: Float32Array,
    mask: BoolArray,
    frame: Frame,
    pattern: Pattern,
    colours: Sequence[Float64Array],
) -> None:
    """Paint a textured thing, with a dark rim, light from above and a soft shadow.

    Args:
        rng: The random generator for the texture.
        canvas: (S, S, 3) float32, RGB, changed in place.
        mask: (S, S) bool, the pixels of the thing.
        frame: Where the thing stands.
        pattern: Its texture.
        colours: The texture's two colours, (3,) each in [0, 1].
    """
    dice = rng.random((8, 8, 2))
    box = Image.fromarray(mask).getbbox()
    if box is None:
        return
    margin = 4 * SUPERSAMPLING  # rim and shadow reach no further
    left, top = max(box[0] - margin, 0), max(box[1] - margin, 0)
    window = (slice(top, box[3] + margin), slice(left, box[2] + margin))
    canvas, mask = canvas[window], mask[window]
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    soft = np.asarray(grey.filter(ImageFilter.GaussianBlur(SUPERSAMPLING)), np.float32) / 255
    drop = 3 * SUPERSAMPLING // 2
    canvas[drop:] *= 1 - 0.3 * soft[:-drop, :, None]
    rows, cols = np.nonzero(mask)
    share = frame.texture(pattern, rows + top, cols + left, dice)
    below = (rows + top - frame.centre[1]) / np.abs(frame.axes).max()
    shade = np.clip(1 - 0.18 * below, 0.75, 1.2) * (0.45 + 0.55 * soft[rows, cols])
    canvas[rows, cols] = ((1 - share) * colours[0] + share * colours[1]) * shade[:, None]


def noise(rng: Rng, cells: int, side: int) -> Float32Array:
    """Smooth noise (side, side, 1) in [0, 1] with `cells` lumps a side."""
    small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.float32)[..., None] / np.float32(255)
