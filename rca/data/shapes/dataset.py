"""The embedded default dataset: generated pictures that are difficult in the way photographs are.

Nine classes share three kinds of body. A body's outline, limbs, texture and colour depend only on its kind, so only a
small part, called the telling part, shows the class. A classifier can rely on that part alone, and its activation map
then misses the body. Grounds and clutter use the colours and textures of bodies and parts, so that neither a colour nor
a texture alone marks an object.

Every picture has its own random stream, keyed by (seed, split, index), so the number of pictures and the order of
drawing change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from rca.core.arrays import BoolArray, Float32Array, Float64Array, UInt8Array
from rca.core.errors import UserError
from rca.core.files import IGNORE, write_directory, write_mask
from rca.data.shapes import drawing as d
from rca.data.shapes.drawing import SUPERSAMPLING, Colour, Frame, Outline, Pattern, Rng
from rca.data.shapes.saliency import ShapesSaliencySettings, draw_saliency

SPLITS = ("train", "val")
MIN_SIZE = 32

DIAMETER = (0.35, 0.62)  # of the circle around an object with its part, as a share of the picture's side
REACH = 1.5  # radius of that circle in radii of the body
TILT = 0.25  # largest rotation of an object off upright, in half turns
PART_SIZE = (0.46, 0.54)  # a part's radius as a share of its body's
CLUTTER = (4, 9)  # number of things without a class in a picture
MAX_HIDDEN = 0.25  # largest share of an object, or of its part, that later objects cover
PLACEMENT_TRIES = 30
OF_SALIENCY = 1  # the last number in the key of a saliency map's random stream; 0 would give the picture's stream


# --- the classes; outlines are in units of a body's or a part's radius, with the telling part at the top

_TURN = np.linspace(0, 2 * np.pi, 60, endpoint=False)
_DISC = d.radial(np.ones(60))
_BAR: Outline = [(-1, -1), (-1, 1), (1, 1), (1, -1)]
_HORN: Outline = [(-0.3, -0.8), (-0.35, 0), (-0.95, 0.5), (-0.8, 1.1), (-0.35, 0.5)]
_MIRRORED_HORN: Outline = [(-x, y) for x, y in _HORN[::-1]]
PARTS: dict[str, Outline] = {
    "disc": d.scaled(_DISC, 0.8, 0.8),
    "ring": [*_DISC, _DISC[0], *d.scaled([_DISC[0], *_DISC[::-1]], 0.5, 0.5)],
    "star": d.radial(np.tile([1.15, 0.5], 5)),
    "flower": d.radial(0.8 + 0.3 * np.cos(5 * _TURN)),
    "fork": [*_HORN, (0, 0.3), *_MIRRORED_HORN],
    "claw": d.scaled(_DISC, 0.9, 0.9)[4:57] + d.scaled(_DISC[52:8:-1], 0.5, 0.55, y=0.3),
    "bow": [(-1.1, -0.7), (-1.1, 0.7), (0, 0.15), (1.1, 0.7), (1.1, -0.7), (0, -0.15)],
    "fan": [(-0.25, -0.8), (-1, 0.75), (-0.5, 0.6), (0, 0.8), (0.5, 0.6), (1, 0.75), (0.25, -0.8)],
    "flag": d.scaled(_BAR, 0.95, 0.65),
}


def _shell(rng: Rng) -> tuple[Outline, list[Outline]]:
    """An oval on six legs."""
    width = rng.uniform(0.68, 0.88)
    legs: list[Outline] = []
    for y in (-0.55, 0.0, 0.5):
        leg = [(0, y - 0.07), (width + 0.3, y * 1.35 - 0.06), (width + 0.3, y * 1.35 + 0.06), (0, y + 0.07)]
        legs += [d.scaled(leg, -1, 1), leg]
    return d.scaled(_DISC, width, 1), legs


def _vessel(rng: Rng) -> tuple[Outline, list[Outline]]:
    """A bellied vessel with a rim and a foot."""
    belly, neck = rng.uniform(0.75, 0.92), rng.uniform(0.42, 0.58)
    right = [(neck, 1), (belly, 0.25), (belly * 0.95, -0.25), (neck * 0.9, -0.9)]
    body = right + [(-x, y) for x, y in right[::-1]]
    return body, [d.scaled(_BAR, neck + 0.14, 0.1, y=0.98), d.scaled(_BAR, neck + 0.1, 0.1, y=-0.95)]


def _wing(rng: Rng) -> tuple[Outline, list[Outline]]:
    """A lozenge with a tip on either side and a keel."""
    width, waist = rng.uniform(0.75, 0.95), rng.uniform(-0.15, 0.25)
    body = [(0, 1.05), (width, waist), (0, -1.1), (-width, waist)]
    root, end = 0.7 * width, width + 0.3
    tips = [[(s * root, waist + 0.3), (s * end, waist), (s * root, waist - 0.3)] for s in (-1, 1)]
    return body, [*tips, [(-0.2, -0.7), (-0.24, -1.25), (0.24, -1.25), (0.2, -0.7)]]


class _Body(NamedTuple):
    outline: Callable[[Rng], tuple[Outline, list[Outline]]]
    pattern: Pattern


class _Class(NamedTuple):
    name: str
    body: str
    part: str
    pattern: Pattern
    colours: tuple[Colour, Colour]


BODIES = {"shell": _Body(_shell, d.spots), "vessel": _Body(_vessel, d.bands), "wing": _Body(_wing, d.checks)}
CLASSES = (
    _Class("beetle", "shell", "fork", d.bands, ((120, 50, 190), (200, 150, 245))),
    _Class("turtle", "shell", "disc", d.core, ((120, 190, 60), (30, 50, 30))),
    _Class("crab", "shell", "claw", d.halves, ((225, 60, 40), (250, 130, 80))),
    _Class("teapot", "vessel", "ring", d.bands, ((50, 90, 200), (235, 240, 245))),
    _Class("lantern", "vessel", "star", d.core, ((245, 200, 40), (240, 90, 30))),
    _Class("flowerpot", "vessel", "flower", d.core, ((225, 80, 170), (250, 225, 90))),
    _Class("kite", "wing", "bow", d.halves, ((40, 190, 190), (220, 50, 60))),
    _Class("fish", "wing", "fan", d.bands, ((240, 140, 40), (40, 50, 110))),
    _Class("boat", "wing", "flag", d.cross, ((240, 240, 235), (200, 40, 50))),
)
CLASS_NAMES = tuple(c.name for c in CLASSES)


def _ground(rng: Rng, side: int, colours: Float64Array) -> Float32Array:
    """A mottled ground of two colours, often with a faint texture like those of bodies."""
    share = 0.5 * d.noise(rng, 4, side) + 0.3 * d.noise(rng, 11, side) + 0.2 * d.noise(rng, 40, side)
    frame = d.pose(rng, np.full(2, side / 2), side * rng.uniform(0.06, 0.2), 1)
    pattern = (d.bands, d.checks, d.spots, d.plain)[rng.integers(4)]
    rows, cols = np.divmod(np.arange(side * side), side)
    texture = frame.texture(pattern, rows, cols, rng.random((8, 8, 2))).reshape(side, side, 1)
    tint = 1 + rng.uniform(-0.18, 0.18) * texture
    return np.asarray(((1 - share) * colours[0] + share * colours[1]) * tint, np.float32)


def _clutter(rng: Rng, canvas: Float32Array) -> None:
    """Add things without a class: rags with a body's texture, scraps with a part's colour but not its shape."""
    side = len(canvas)
    textures = [body.pattern for body in BODIES.values()]
    for _ in range(rng.integers(*CLUTTER, endpoint=True)):
        scrap = rng.random() < 0.3
        radius = rng.uniform(0.02, 0.06) if scrap else rng.uniform(0.05, 0.15)
        frame = d.pose(rng, rng.uniform(0, side, 2), side * radius, 1)
        knots = rng.uniform(0.5, 1.1, rng.integers(3, 9))
        outline = d.scaled(d.radial(knots), 1, rng.uniform(0.4, 1))
        pattern = d.plain if scrap else textures[rng.integers(len(textures))]
        if scrap:
            colours = d.vivid_colours(rng, CLASSES[rng.integers(len(CLASSES))].colours)
        else:
            colours = [d.muted_colour(rng), d.muted_colour(rng)]
        d.paint(rng, canvas, frame.stencil([outline], side), frame, pattern, colours)


# --- pictures


class _Thing(NamedTuple):
    """A placed object: frames and stencils of its body, limbs and telling part."""

    frame: Frame
    tip: Frame
    limbs: BoolArray
    body: BoolArray
    part: BoolArray


def _place(rng: Rng, kind: _Class, side: int, seen: list[tuple[BoolArray, int]]) -> _Thing | None:
    """Place an object so that enough of each earlier one in `seen` (visible mask, full area) stays visible."""
    for _ in range(PLACEMENT_TRIES):
        body, limbs = BODIES[kind.body].outline(rng)
        radius = rng.uniform(*DIAMETER) * side / 2
        circle = d.pose(rng, rng.uniform(radius, side - radius, 2), radius / REACH, TILT)
        frame = circle.moved(-0.26)  # the circle contains the part too, so the body is off its centre
        tip = frame.moved(1.15, rng.uniform(*PART_SIZE))
        below, middle = frame.stencil(limbs, side), frame.stencil([body], side)
        part = tip.stencil([PARTS[kind.part]], side)
        whole = below | middle | part
        if all((other & ~whole).sum() >= (1 - MAX_HIDDEN) * area for other, area in seen):
            seen[:] = [(other & ~whole, area) for other, area in seen]
            seen += [(whole, int(whole.sum())), (part, int(part.sum()))]
            return _Thing(frame, tip, below, middle, part)
    return None


def draw_image(
    seed: int, split: str, index: int, size: int, objects: tuple[int, int] = (1, 3)
) -> tuple[UInt8Array, UInt8Array, BoolArray]:
    """Draw one picture, which depends only on the arguments.

    Args:
        seed: Seed of the dataset, 0 or more.
        split: "train" or "val".
        index: Number of the picture in its split; its first object has the class `index` modulo 9, plus one.
        size: Side of the picture in pixels.
        objects: Least and greatest number of objects; fewer are drawn if there is no room.

    Returns:
        The photograph (size, size, 3) uint8; the class mask (size, size) uint8 with 0 for the ground, 1 to 9
        for the classes and 255 where a pixel holds two labels; and the telling parts (size, size) bool.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    side = size * SUPERSAMPLING
    ground = np.stack([d.muted_colour(rng), d.muted_colour(rng)])
    canvas = _ground(rng, side, ground)
    _clutter(rng, canvas)
    labels, parts = np.zeros((side, side), np.uint8), np.zeros((side, side), bool)
    first = index % len(CLASSES)  # in turn, so that nine pictures show every class
    others = [int(c) for c in rng.permutation(len(CLASSES)) if c != first]
    seen: list[tuple[BoolArray, int]] = []
    for which in [first, *others][: rng.integers(*objects, endpoint=True)]:
        kind = CLASSES[which]
        base = d.contrasting_colour(rng, ground)
        thing = _place(rng, kind, side, seen)
        if thing is None:
            continue
        tones = [base, np.clip(base * rng.choice([0.6, 1.4]), 0, 1)]
        d.paint(rng, canvas, thing.limbs, thing.frame, d.plain, [0.5 * base, base])
        d.paint(rng, canvas, thing.body, thing.frame, BODIES[kind.body].pattern, tones)
        d.paint(rng, canvas, thing.part, thing.tip, kind.pattern, d.vivid_colours(rng, kind.colours))
        whole = thing.limbs | thing.body | thing.part
        labels[whole], parts[whole] = which + 1, thing.part[whole]
    return _photograph(rng, canvas, size), *_masks(labels, parts, size)


def _photograph(rng: Rng, canvas: Float32Array, size: int) -> UInt8Array:
    gain, top, bottom = rng.uniform(0.85, 1.15, 3)
    light = gain * np.linspace(top, bottom, len(canvas))[:, None, None]
    sharp = Image.fromarray((np.clip(canvas * light, 0, 1) * 255).astype(np.uint8))
    blurred = sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    grain = rng.normal(0, rng.uniform(2, 7), (size, size, 3))
    small = np.asarray(blurred.resize((size, size), Image.Resampling.BOX))
    return np.clip(small + grain, 0, 255).astype(np.uint8)


def _masks(labels: UInt8Array, parts: BoolArray, size: int) -> tuple[UInt8Array, BoolArray]:
    blocks = (size, SUPERSAMPLING, size, SUPERSAMPLING)
    low, high = labels.reshape(blocks).min((1, 3)), labels.reshape(blocks).max((1, 3))
    mask = np.where(low == high, low, IGNORE).astype(np.uint8)
    return mask, (parts.reshape(blocks).mean((1, 3)) > 0.5) & (mask != IGNORE)


# --- files


def generate_shapes(
    root: Path,
    *,
    train: int,
    val: int,
    size: int,
    seed: int,
    objects: tuple[int, int] = (1, 3),
    saliency: ShapesSaliencySettings | None = None,
) -> None:
    """Write the dataset under `root` in the layout of Pascal VOC, whole or not at all.

    `JPEGImages/<id>.png` are the photographs, `SegmentationClass/<id>.png` the masks with VOC's palette (0 ground, 1 to
    9 classes, 255 object borders), `ImageSets/Segmentation/<split>.txt` the ids, and `classes.txt` the names of the
    classes from 1 on. A split of nine pictures or more shows every class. With `saliency` there are also maps
    `Saliency/<id>.png`.

    Args:
        root: The folder to write, which must be missing or empty.
        train: Number of training pictures, 1 or more.
        val: Number of validation pictures, 1 or more.
        size: Side of the pictures in pixels, 32 or more; below 64 the telling parts are too small to see.
        seed: Seed of the dataset, 0 or more.
        objects: Least and greatest number of objects in a picture, from 1 to 9.
        saliency: How wrong the saliency maps are; None writes none. The other files do not depend on it.

    Raises:
        UserError: `root` is not an empty folder, or another argument is out of range.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} is not empty: remove it or name another folder for the dataset `shapes`.")
    counted = 1 <= objects[0] <= objects[1] <= len(CLASSES)
    if min(train, val) < 1 or size < MIN_SIZE or seed < 0 or not counted:
        raise UserError(
            f"The dataset `shapes` needs 1 or more pictures a split, size of {MIN_SIZE} or more, seed of 0 "
            f"or more and 1 to {len(CLASSES)} objects: got {train=}, {val=}, {size=}, {seed=}, {objects=}."
        )
    with write_directory(root) as draft:
        folders = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
        for folder in (*folders, "Saliency") if saliency else folders:
            (draft / folder).mkdir(parents=True)
        for split, count in (("train", train), ("val", val)):
            names = [f"{split}_{index:05d}" for index in range(count)]
            for index, name in enumerate(names):
                photograph, mask, _ = draw_image(seed, split, index, size, objects)
                Image.fromarray(photograph).save(draft / "JPEGImages" / f"{name}.png")
                write_mask(draft / "SegmentationClass" / f"{name}.png", mask)
                if saliency:
                    rng = np.random.default_rng([seed, SPLITS.index(split), index, OF_SALIENCY])
                    Image.fromarray(draw_saliency(mask, saliency, rng)).save(draft / "Saliency" / f"{name}.png")
            (draft / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        (draft / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
